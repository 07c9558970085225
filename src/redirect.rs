//! An address that stays while the code behind it changes: for tier-up, and for hot reload.
//!
//! A redirect is 16 bytes of code that jump through a pointer in the data area. To change the
//! target is one atomic exchange of that pointer: no code changes, nothing is flushed, and no page
//! changes its protection.
//!
//! ```text
//! code   ... | jump [cell 1] | jump [cell 2] | ...      granules among all other code
//!                   |               |
//! data   ...     | cell 1 |      | cell 2 | ...         readable and writable, never executable
//!                   v               v
//!              the target      the target               blocks that the redirects own
//! ```
//!
//! # Why a target is not used again under a caller
//!
//! The cell is the "table of functions" of the [guards'](crate::CodeArena::pin) proof. A caller
//! takes a guard, then the code of the redirect reads the cell; a swap changes the cell, and the
//! old block is dropped after that, which looks for guards behind a fence. So either the drop waits
//! for the caller's guard, or the caller reads the new target.
//!
//! That the new target's bytes are what runs was seen to when it was published: its publication
//! reached all cores before anybody had its address.

use std::fmt;
use std::sync::atomic::AtomicUsize;

use crate::icache::jump;
use crate::sync::{Mutex, Ordering};
use crate::{CodeArena, CodeBlock, DataAccess, DataBlock, Error, Reserve};

/// An entry point that stays where it is while the code behind it is exchanged. It owns the block
/// it leads to.
///
/// ```
/// # #[cfg(target_arch = "x86_64")] {
/// use gaia_jit::{CodeArena, Redirect};
///
/// let arena = CodeArena::builder().capacity(1 << 20).build()?;
/// let slow = arena.publish(&[0xb8, 1, 0, 0, 0, 0xc3])?; // mov eax, 1; ret
/// let entry: Redirect = arena.redirect(slow)?;
/// // SAFETY: all of its targets are of this type, and the old one is dropped while nobody calls it.
/// let call = unsafe { entry.as_fn::<extern "C" fn() -> i32>() };
/// assert_eq!(call(), 1);
/// let fast = arena.publish(&[0xb8, 2, 0, 0, 0, 0xc3])?;
/// drop(entry.swap(fast)?);
/// assert_eq!(call(), 2);
/// # }
/// # Ok::<(), gaia_jit::Error>(())
/// ```
///
/// Calls through it pass all arguments on, and unwinding goes through it, because it leaves nothing
/// on the stack. Its code uses a register that calling conventions leave to such code: `x16` on
/// AArch64, `ip` on Arm, `t1` on RISC-V, `r1` on s390x.
///
/// Redirects share pages with each other and with other code; where holes are not filled
/// ([`Stats::fills_holes`](crate::Stats::fills_holes)) each takes a page.
/// [`lookup`](CodeArena::lookup) finds the redirect's own code as a block with the tag 0. Dropped,
/// the redirect drops its code and its target, which wait for guards like all blocks.
pub struct Redirect {
    // In this order they are dropped: first nobody comes to read the cell, then nobody comes to the
    // target.
    code: CodeBlock,
    cell: DataBlock,
    /// Changed together with the cell, by whoever has the lock. Not locked in a forked child.
    target: Mutex<CodeBlock>,
}

impl CodeArena {
    /// Makes an address that leads to `block` until it is changed. The block may be of another
    /// arena, which it keeps alive.
    ///
    /// # Errors
    /// The block is dropped then.
    ///
    /// - As for [`CodeArena::publish`] and [`CodeArena::data`]: the pointer lies in the data area.
    pub fn redirect(&self, block: CodeBlock) -> Result<Redirect, Error> {
        let target = block.as_ptr().addr();
        let size = size_of::<usize>();
        let cell = self.data(size, size, DataAccess::ReadWrite, |_, bytes| {
            bytes.copy_from_slice(&target.to_ne_bytes());
        })?;
        let code = self.publish_with(Reserve::new(16).name("redirect"), |address, bytes| {
            let why = "the architecture is not known, or the data is out of reach";
            let code = jump::through(address, cell.as_ptr()).ok_or_else(|| Error::unsupported("a redirect", why))?;
            bytes.copy_from_slice(&code);
            Ok(code.len())
        })?;
        Ok(Redirect { code, cell, target: Mutex::new(block) })
    }
}

impl Redirect {
    /// The address that stays: the first byte of its code.
    pub fn as_ptr(&self) -> *const u8 {
        self.code.as_ptr()
    }

    /// The address as a function pointer. The size of `F` is checked when the program is compiled.
    ///
    /// # Safety
    /// - `F` is a function pointer type that every target is written for, as long as the pointer is
    ///   called.
    /// - Calls are made under a guard of the target's arena that was taken before the call; or no
    ///   block that [`Redirect::swap`] returned is dropped while a call may be running it. Dropping
    ///   it is safe code, so this has to be known of all of the program.
    /// - The pointer is not called after the redirect was dropped, but for a thread that holds a
    ///   guard of its arena taken before.
    /// - All that the targets reach is alive.
    pub unsafe fn as_fn<F: Copy>(&self) -> F {
        // SAFETY: passed on to the caller.
        unsafe { self.code.as_fn() }
    }

    /// The address where calls arrive now.
    pub fn target(&self) -> *const u8 {
        std::ptr::without_provenance(self.pointer().load(Ordering::Acquire))
    }

    /// Sends calls to `block` from now on, and returns the block they went to. A call that has
    /// begun goes on where it is.
    ///
    /// One atomic exchange; threads that swap at once wait for each other. What is returned may
    /// still be running: see [`Redirect::as_fn`].
    ///
    /// # Errors
    /// - [`Error::Forked`] in a child. Nothing is changed then, and `block` is dropped.
    pub fn swap(&self, block: CodeBlock) -> Result<CodeBlock, Error> {
        self.cell.check_own("swap a redirect")?;
        let mut target = self.target.lock();
        // Release: what was done to the block comes before whoever reads the pointer uses it.
        self.pointer().swap(block.as_ptr().addr(), Ordering::AcqRel);
        Ok(std::mem::replace(&mut *target, block))
    }

    fn pointer(&self) -> &AtomicUsize {
        let cell = self.cell.as_ptr().cast_mut().cast::<usize>();
        // SAFETY: aligned data of this redirect's own, readable and writable, which lives as long
        // as it does. The program uses it as an atomic alone; code reads it with one load.
        unsafe { AtomicUsize::from_ptr(cell) }
    }
}

impl fmt::Debug for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redirect").field("start", &self.as_ptr()).field("target", &self.target()).finish()
    }
}
