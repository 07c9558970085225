//! Published code that is changed where it lies.

use crate::block::Block;
use crate::failure::status;
use crate::handle::{shared, slice};
use crate::status::Status;

/// Overwrites code of a block from `offset` on. Every core runs the new bytes when it returns. They
/// are not written in one piece.
///
/// `GAIA_JIT_STATUS_OPERATING_SYSTEM` means that some of the bytes may be there: the block is not
/// to be run before a patch of the same bytes succeeds. `GAIA_JIT_STATUS_UNSUPPORTED` is for
/// `GAIA_JIT_MODE_FLIP` where the kernel does not write into executable pages.
///
/// # Safety
/// - The block is NULL, which is an error, or a live handle.
/// - `bytes` leads to `len` bytes, outside of the block.
/// - No other thread writes the same bytes of the block, and no thread runs them meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_block_patch(
    block: *const Block,
    offset: usize,
    bytes: *const u8,
    len: usize,
) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let block = unsafe { shared(block, "block")? };
        // SAFETY: passed on to the caller.
        let bytes = unsafe { slice(bytes, len, "bytes")? };
        // SAFETY: passed on to the caller; C gets no slice of a block's bytes, and no observers.
        unsafe { block.0.patch(offset, bytes)? };
        Ok(())
    })
}

/// Changes four bytes of code, in the byte order of the machine, by one store that no thread sees
/// in parts. Threads may be running them: each runs the old bytes or the new ones. A thread that
/// learns of it, by any means that synchronises, after this has returned runs the new ones.
///
/// `offset` is a multiple of 4, and the mode `GAIA_JIT_MODE_DUAL_MAP` or
/// `GAIA_JIT_MODE_PER_THREAD`: the status is `GAIA_JIT_STATUS_UNSUPPORTED` otherwise. It is that on
/// AArch64 also if the old or the new instruction is none of B, BL, BRK, HVC, ISB, NOP, SMC and
/// SVC, because the architecture promises nothing about others.
///
/// # Safety
/// - The block is NULL, which is an error, or a live handle.
/// - No other thread writes the same bytes.
/// - Wherever in the four bytes a thread may be about to run an instruction, one begins before and
///   after the change. The program is right whichever of the two a thread runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_block_patch_u32(block: *const Block, offset: usize, word: u32) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let block = unsafe { shared(block, "block")? };
        // SAFETY: passed on to the caller; C gets no slice of a block's bytes, and no observers.
        unsafe { block.0.patch_word(offset, word)? };
        Ok(())
    })
}

/// As `gaia_jit_block_patch_u32` for eight bytes, at a multiple of 8. Never on AArch64.
///
/// # Safety
/// - As for `gaia_jit_block_patch_u32`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_block_patch_u64(block: *const Block, offset: usize, word: u64) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let block = unsafe { shared(block, "block")? };
        // SAFETY: passed on to the caller; C gets no slice of a block's bytes, and no observers.
        unsafe { block.0.patch_word(offset, word)? };
        Ok(())
    })
}
