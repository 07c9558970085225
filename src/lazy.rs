//! An arena in a `static`, for a library that has no other place to keep one.

use std::fmt;
use std::ptr;

use crate::sync::{AtomicPtr, Ordering};
use crate::{ArenaBuilder, CodeArena, Error};

/// An arena in a `static`. It is built when it is first asked for, and built anew in a forked
/// child.
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
/// It has no lock that a forked child could find locked for ever. So threads that ask at the same
/// time, before there is an arena, may each build one. One of these stays. The others are dropped
/// before anybody has them. (Observers are called about them.)
///
/// An error is not remembered: the next call tries again. The arena is never dropped. A child keeps
/// what it inherits mapped, because it may run that code. Blocks of the parent's arena continue to
/// work in the child as far as they [can](crate::guide#forks).
pub struct LazyArena {
    /// Null, or a box that was leaked.
    made: AtomicPtr<CodeArena>,
    build: fn() -> ArenaBuilder,
}

impl LazyArena {
    /// Returns a place for an arena with the settings of `build`, which is called each time that an
    /// arena is built.
    pub const fn new(build: fn() -> ArenaBuilder) -> Self {
        Self { made: AtomicPtr::new(ptr::null_mut()), build }
    }

    /// Returns the arena of this process, and builds it if there is none.
    ///
    /// ```
    /// # use gaia_jit::{CodeArena, LazyArena};
    /// static CODE: LazyArena = LazyArena::new(|| CodeArena::builder().capacity(1 << 20));
    ///
    /// let block = CODE.get()?.publish(&[0xc3])?;
    /// assert!(CODE.get()?.contains(block.as_ptr()));
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// - As for [`ArenaBuilder::build`], if the arena has to be built.
    pub fn get(&'static self) -> Result<&'static CodeArena, Error> {
        let mut made = self.made.load(Ordering::Acquire);
        if let Some(arena) = own(made) {
            return Ok(arena);
        }
        let new = Box::into_raw(Box::new((self.build)().build()?));
        loop {
            // Release, because a thread that loads the pointer must see the arena. Acquire, because
            // this thread may load the pointer of another one.
            match self.made.compare_exchange(made, new, Ordering::AcqRel, Ordering::Acquire) {
                // An inherited arena, if there was one, is leaked.
                Ok(_) => made = new,
                Err(other) => {
                    made = other;
                    if own(made).is_none() {
                        continue;
                    }
                    // SAFETY: it was made from a box above, and nobody else has it.
                    drop(unsafe { Box::from_raw(new) });
                }
            }
            // SAFETY: an arena of this process that was leaked, by this thread or by another one.
            // The store of the other one was acquired.
            return Ok(unsafe { &*made });
        }
    }
}

/// Returns the arena behind a pointer. The answer is `None` if there is none, or if it belongs to
/// the process that forked this one.
fn own(made: *mut CodeArena) -> Option<&'static CodeArena> {
    // SAFETY: null, or a leaked box that nobody frees. It was loaded with acquire.
    let arena = unsafe { made.as_ref() }?;
    (!arena.is_inherited()).then_some(arena)
}

impl fmt::Debug for LazyArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LazyArena").field(&own(self.made.load(Ordering::Acquire))).finish()
    }
}
