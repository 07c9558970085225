//! Redirects: addresses that stay while the code behind them changes. They are for tier-up and for
//! hot reload.
//!
//! A redirect is 16 bytes of code that jump through a pointer in the data area, its cell. One
//! atomic exchange of that pointer changes the target. No code changes, nothing is flushed, and no
//! page changes its protection.
//!
//! ```text
//! code   ... | jump [cell 1] | jump [cell 2] | ...      granules among all other code
//!                   |               |
//! data   ...     | cell 1 |      | cell 2 | ...         readable and writable, never executable
//!                   v               v
//!              the target      the target               blocks that the redirects own
//! ```
//!
//! # Why a target is not reused under a caller
//!
//! The cell takes the place of the "table of functions" in the proof of the
//! [guards](crate::CodeArena::pin). A caller takes a guard, and then the code of the redirect reads
//! the cell. A swap changes the cell. After that the old block is dropped, and its drop looks for
//! guards after a fence. So either the drop waits for the caller's guard, or the caller reads the
//! new target.
//!
//! Every core runs the bytes of the new target, because its publication synchronised all cores
//! before anybody had its address.

use std::fmt;
use std::sync::atomic::AtomicUsize;

use crate::icache::jump;
use crate::sync::{Mutex, Ordering};
use crate::{CodeArena, CodeBlock, DataAccess, DataBlock, Error, Reserve};

/// An entry point that keeps its address while the code behind it is exchanged. It owns the block
/// that it leads to.
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
/// A call through a redirect passes all arguments on. Unwinding passes through it, because it
/// leaves nothing on the stack. Its code uses a register that calling conventions reserve for such
/// code: `x16` on AArch64, `ip` on Arm, `t1` on RISC-V, `r1` on s390x.
///
/// Redirects share pages with each other and with other code. If holes are not filled
/// ([`Stats::fills_holes`](crate::Stats::fills_holes)), each takes a page.
/// [`lookup`](CodeArena::lookup) finds the code of a redirect as a block with the tag 0.
///
/// Dropping a redirect drops its code and its target, which wait for guards like all blocks.
pub struct Redirect {
    // The fields are dropped in this order: first no caller can read the cell any more, then no
    // caller can reach the target.
    code: CodeBlock,
    cell: DataBlock,
    /// The target. It is changed together with the cell, by the thread that has the lock. A forked
    /// child does not lock it.
    target: Mutex<CodeBlock>,
}

impl CodeArena {
    /// Makes an address that leads to `block` until it is changed. The block may belong to another
    /// arena. It then keeps that arena alive.
    ///
    /// ```
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let block = arena.publish(&[0xc3])?;
    /// let target = block.as_ptr();
    /// match arena.redirect(block) {
    ///     Ok(entry) => assert_eq!(entry.target(), target),
    ///     Err(gaia_jit::Error::Unsupported { .. }) => {} // not on this architecture
    ///     Err(other) => return Err(other),
    /// }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// After an error the block was dropped.
    ///
    /// - As for [`CodeArena::publish`], for the code of the redirect.
    /// - As for [`CodeArena::data`], for the pointer in the data area.
    /// - [`Error::Unsupported`] on an architecture for which the crate has no such jump, or if the
    ///   pointer is out of reach.
    pub fn redirect(&self, block: CodeBlock) -> Result<Redirect, Error> {
        let target = block.as_ptr().addr();
        let size = size_of::<usize>();
        let cell = self.data(size, size, DataAccess::ReadWrite, |_, bytes| {
            bytes.copy_from_slice(&target.to_ne_bytes());
        })?;
        let code = self.publish_with(Reserve::new(16).name("redirect"), |address, bytes| {
            let why = "its pointer is out of reach, or the crate has no jump for this architecture";
            let code = jump::through(address, cell.as_ptr()).ok_or_else(|| Error::unsupported("a redirect", why))?;
            bytes.copy_from_slice(&code);
            Ok(code.len())
        })?;
        Ok(Redirect { code, cell, target: Mutex::new(block) })
    }
}

impl Redirect {
    /// Returns the address that stays: the first byte of the redirect's code.
    pub fn as_ptr(&self) -> *const u8 {
        self.code.as_ptr()
    }

    /// Returns the address as a function pointer. The size of `F` is checked when the program is
    /// compiled.
    ///
    /// ```
    /// # #[cfg(any(target_arch = "x86", target_arch = "x86_64"))] {
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let entry = arena.redirect(arena.publish(&[0xb8, 1, 0, 0, 0, 0xc3])?)?; // mov eax, 1; ret
    /// // SAFETY: all targets take nothing and return a number, and none is dropped during a call.
    /// let function = unsafe { entry.as_fn::<extern "C" fn() -> i32>() };
    /// assert_eq!(function(), 1);
    /// drop(entry.swap(arena.publish(&[0xb8, 2, 0, 0, 0, 0xc3])?)?);
    /// assert_eq!(function(), 2);
    /// # }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Safety
    /// - `F` is a function pointer type that every target is written for, as long as the pointer is
    ///   called.
    /// - Every call is made under a guard of the target's arena that was taken before the call. Or
    ///   no block that [`Redirect::swap`] returned is dropped while a call may be running it.
    ///   Dropping a block is safe code, so the second condition is one on the whole program.
    /// - The pointer is not called after the redirect was dropped, except by a thread that holds a
    ///   guard of its arena taken before the drop.
    /// - Everything that the targets reach is alive.
    pub unsafe fn as_fn<F: Copy>(&self) -> F {
        // SAFETY: passed on to the caller.
        unsafe { self.code.as_fn() }
    }

    /// Returns the address to which calls lead now.
    pub fn target(&self) -> *const u8 {
        std::ptr::without_provenance(self.pointer().load(Ordering::Acquire))
    }

    /// Makes `block` the target from now on, and returns the block that was the target. A call that
    /// has begun continues in the old block.
    ///
    /// The change is one atomic exchange. Threads that swap at the same time wait for each other.
    /// The returned block may still be running: see [`Redirect::as_fn`].
    ///
    /// ```
    /// # #[cfg(any(target_arch = "x86", target_arch = "x86_64"))] {
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let entry = arena.redirect(arena.publish(&[0xb8, 1, 0, 0, 0, 0xc3])?)?; // mov eax, 1; ret
    /// let better = arena.publish(&[0xb8, 2, 0, 0, 0, 0xc3])?;
    /// let address = better.as_ptr();
    /// let old = entry.swap(better)?;
    /// assert_eq!(entry.target(), address);
    /// drop(old); // no thread can be running it here
    /// # }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::Forked`] in a forked child. Nothing is changed then, and `block` is dropped.
    pub fn swap(&self, block: CodeBlock) -> Result<CodeBlock, Error> {
        self.cell.check_own("swap a redirect")?;
        let mut target = self.target.lock();
        // Release, because everything that was done to the block comes before a thread that reads
        // the pointer uses it.
        self.pointer().swap(block.as_ptr().addr(), Ordering::AcqRel);
        Ok(std::mem::replace(&mut *target, block))
    }

    fn pointer(&self) -> &AtomicUsize {
        let cell = self.cell.as_ptr().cast_mut().cast::<usize>();
        // SAFETY: aligned data that this redirect owns, readable and writable, which lives as long
        // as the redirect. The program uses it as an atomic only, and code reads it with one load.
        unsafe { AtomicUsize::from_ptr(cell) }
    }
}

impl fmt::Debug for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redirect").field("start", &self.as_ptr()).field("target", &self.target()).finish()
    }
}
