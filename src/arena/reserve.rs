//! One function whose bytes depend on its address.
#![forbid(unsafe_code)]

use super::batch::Batch;
use super::{CodeArena, CodeBlock, UnwindInfo};
use crate::Error;
use crate::sync::Arc;
use crate::units::GRANULE;

/// Space for a function whose bytes depend on where it lies, for [`CodeArena::publish_with`].
#[derive(Clone, Copy, Debug)]
pub struct Reserve<'a> {
    len: usize,
    align: usize,
    tag: u64,
    name: Option<&'a str>,
    unwind: Option<UnwindInfo<'a>>,
}

impl<'a> Reserve<'a> {
    /// Space for at most `len` bytes.
    pub fn new(len: usize) -> Self {
        Self { len, align: GRANULE, tag: 0, name: None, unwind: None }
    }

    /// Alignment of the first byte, as for [`Code::align`](crate::Code::align).
    pub fn align(self, align: usize) -> Self {
        Self { align, ..self }
    }

    /// A number of the caller's, as for [`Code::tag`](crate::Code::tag).
    pub fn tag(self, tag: u64) -> Self {
        Self { tag, ..self }
    }

    /// A name for the arena's [`Observer`](crate::Observer).
    pub fn name(self, name: &'a str) -> Self {
        Self { name: Some(name), ..self }
    }

    /// How to unwind through the function, as for [`Code::unwind`](crate::Code::unwind).
    pub fn unwind(self, info: UnwindInfo<'a>) -> Self {
        Self { unwind: Some(info), ..self }
    }
}

impl CodeArena {
    /// Publishes a function that `write` writes, given the address at which it will run.
    ///
    /// The bytes begin as traps. `write` returns how many of them the function took; the rest of
    /// the space is free again. No lock is held while it runs, so it may use the arena. If it
    /// panics or returns an error, all of the space is free again.
    ///
    /// ```
    /// # #[cfg(target_arch = "x86_64")] {
    /// use gaia_jit::{CodeArena, Reserve};
    ///
    /// extern "C" fn seven() -> i32 {
    ///     7
    /// }
    ///
    /// let arena = CodeArena::builder().capacity(1 << 20).build()?;
    /// let block = arena.publish_with(Reserve::new(64).name("to_seven"), |address, bytes| {
    ///     if arena.reaches(seven as *const u8) {
    ///         let distance = (seven as usize).wrapping_sub(address as usize + 5) as u32;
    ///         bytes[0] = 0xe9; // jmp rel32
    ///         bytes[1..5].copy_from_slice(&distance.to_le_bytes());
    ///         return Ok(5);
    ///     }
    ///     bytes[..2].copy_from_slice(&[0x48, 0xb8]); // mov rax, imm64
    ///     bytes[2..10].copy_from_slice(&(seven as usize as u64).to_le_bytes());
    ///     bytes[10..12].copy_from_slice(&[0xff, 0xe0]); // jmp rax
    ///     Ok(12)
    /// })?;
    /// assert!(block.len() <= 12);
    /// // SAFETY: the code takes nothing and returns a number.
    /// let call = unsafe { block.as_fn::<unsafe extern "C" fn() -> i32>() };
    /// // SAFETY: the block is alive.
    /// assert_eq!(unsafe { call() }, 7);
    /// # }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// Whatever the error, the arena is as it was.
    ///
    /// - The error of `write`.
    /// - [`Error::PastCapacity`] if `write` says more bytes than there are, [`Error::ZeroSize`] if
    ///   it says none.
    /// - As for [`CodeArena::publish`].
    pub fn publish_with(
        &self,
        reserve: Reserve<'_>,
        write: impl FnOnce(*const u8, &mut [u8]) -> Result<usize, Error>,
    ) -> Result<CodeBlock, Error> {
        // It gives everything back when it is dropped, also by a panic.
        let mut batch = Batch::single(Arc::clone(&self.handle));
        let slot = batch.reserve(reserve.len, reserve.align)?;
        batch.set_tag(slot, reserve.tag);
        if let Some(name) = reserve.name {
            batch.set_name(slot, name);
        }
        if let Some(info) = reserve.unwind {
            batch.set_unwind(slot, info);
        }
        let address = batch.address(slot);
        let len = write(address, batch.bytes_mut(slot))?;
        batch.cut(slot, len)?;
        batch.publish()?.pop().ok_or(Error::ZeroSize)
    }
}
