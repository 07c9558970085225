//! An arena for a library that has no place to keep one.

use std::fmt;
use std::ptr;

use crate::sync::{AtomicPtr, Ordering};
use crate::{ArenaBuilder, CodeArena, Error};

/// An arena in a `static`: made when it is first asked for, and made anew in a forked child.
///
/// ```
/// use gaia_jit::{CodeArena, LazyArena};
///
/// static ARENA: LazyArena = LazyArena::new(|| CodeArena::builder().name("mylib"));
///
/// let arena: &'static CodeArena = ARENA.get()?;
/// let block = arena.publish(&[0xc3])?;
/// assert!(ARENA.get()?.contains(block.as_ptr()));
/// # Ok::<(), gaia_jit::Error>(())
/// ```
///
/// It holds no lock that a forked child could find locked for ever. So threads that ask at once,
/// before there is an arena, may each build one; one of these stays, and the others are dropped
/// again before anybody has them. (Observers hear of them.)
///
/// An error is not remembered, so that the next call tries again. The arena is never dropped. What
/// a child inherits stays mapped in it, because it may run code of it: blocks of the parent's arena
/// go on working in the child, as far as they [can](crate::guide#forks).
pub struct LazyArena {
    /// Null, or a leaked box.
    made: AtomicPtr<CodeArena>,
    build: fn() -> ArenaBuilder,
}

impl LazyArena {
    /// Returns a place for an arena with the settings of `build`, which is called whenever one is
    /// made.
    pub const fn new(build: fn() -> ArenaBuilder) -> Self {
        Self { made: AtomicPtr::new(ptr::null_mut()), build }
    }

    /// Returns the arena of this process.
    ///
    /// # Errors
    /// As for [`ArenaBuilder::build`], if there is no arena yet.
    pub fn get(&'static self) -> Result<&'static CodeArena, Error> {
        let mut made = self.made.load(Ordering::Acquire);
        if let Some(arena) = own(made) {
            return Ok(arena);
        }
        let new = Box::into_raw(Box::new((self.build)().build()?));
        loop {
            // Release: whoever loads the pointer sees the arena. Acquire: likewise, of another
            // thread's.
            match self.made.compare_exchange(made, new, Ordering::AcqRel, Ordering::Acquire) {
                // The inherited one, if there was one, is leaked.
                Ok(_) => made = new,
                Err(other) => {
                    made = other;
                    if own(made).is_none() {
                        continue;
                    }
                    // SAFETY: made from a box above, and given to nobody.
                    drop(unsafe { Box::from_raw(new) });
                }
            }
            // SAFETY: an arena of this process that was leaked, by this thread or by another whose
            // store was acquired.
            return Ok(unsafe { &*made });
        }
    }
}

/// The arena behind a pointer, unless there is none or it belongs to the process that forked this
/// one.
fn own(made: *mut CodeArena) -> Option<&'static CodeArena> {
    // SAFETY: null, or a leaked box that nobody frees; it was loaded with acquire.
    let arena = unsafe { made.as_ref() }?;
    (!arena.is_inherited()).then_some(arena)
}

impl fmt::Debug for LazyArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LazyArena").field(&own(self.made.load(Ordering::Acquire))).finish()
    }
}
