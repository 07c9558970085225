//! Publishing one function with bytes that depend on its address.
#![forbid(unsafe_code)]

use super::batch::Batch;
use super::{CodeArena, CodeBlock, UnwindInfo};
use crate::Error;
use crate::sync::Arc;
use crate::units::GRANULE;

/// Space for a function with bytes that depend on its address, for [`CodeArena::publish_with`].
#[derive(Clone, Copy, Debug)]
pub struct Reserve<'a> {
    len: usize,
    align: usize,
    tag: u64,
    name: Option<&'a str>,
    unwind: Option<UnwindInfo<'a>>,
}

impl<'a> Reserve<'a> {
    /// Asks for space for at most `len` bytes.
    pub fn new(len: usize) -> Self {
        Self { len, align: GRANULE, tag: 0, name: None, unwind: None }
    }

    /// Sets the alignment of the first byte, as [`Code::align`](crate::Code::align) does.
    pub fn align(self, align: usize) -> Self {
        Self { align, ..self }
    }

    /// Sets a number that the caller chooses, as [`Code::tag`](crate::Code::tag) does.
    pub fn tag(self, tag: u64) -> Self {
        Self { tag, ..self }
    }

    /// Sets the name that the arena's [`Observer`](crate::Observer) gets.
    pub fn name(self, name: &'a str) -> Self {
        Self { name: Some(name), ..self }
    }

    /// Sets the unwind information, as [`Code::unwind`](crate::Code::unwind) does.
    pub fn unwind(self, info: UnwindInfo<'a>) -> Self {
        Self { unwind: Some(info), ..self }
    }
}

impl CodeArena {
    /// Publishes a function that `write` writes. `write` gets the address at which the function
    /// will run, and the bytes. The bytes usually lie elsewhere until they are published, so
    /// compute distances from the address and not from the slice.
    ///
    /// The bytes are traps at first. `write` returns how many of them the function takes. The rest
    /// of the space is freed. No lock is held while `write` runs, so it may use the arena. If it
    /// panics or returns an error, all of the space is freed.
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
    /// After an error the arena is as it was before the call.
    ///
    /// - The error that `write` returns.
    /// - [`Error::PastCapacity`] if `write` returns more bytes than there are.
    /// - [`Error::ZeroSize`] if `write` returns 0.
    /// - As for [`CodeArena::publish`].
    ///
    /// # Panics
    /// As for [`CodeArena::publish`], and if `write` panics.
    pub fn publish_with(
        &self,
        reserve: Reserve<'_>,
        write: impl FnOnce(*const u8, &mut [u8]) -> Result<usize, Error>,
    ) -> Result<CodeBlock, Error> {
        // Its drop frees everything, also after a panic.
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
