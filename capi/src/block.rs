//! Published functions.

use std::ffi::c_void;

use jit::CodeBlock;

use crate::failure::{status, value};
use crate::handle::{self, exclusive, shared};
use crate::status::Status;

/// A published function, and the owner of its space. Any number of threads may ask a block about
/// itself at once; shrinking and freeing are for one thread while no other uses the handle.
pub struct Block(pub(crate) CodeBlock);

/// The address of the function's first byte; NULL for NULL. To call it, convert it to a function
/// pointer of the type that the code is written for: `(int (*)(void))(uintptr_t)address`.
///
/// # Safety
/// - The block is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_block_start(block: *const Block) -> *const c_void {
    value(std::ptr::null(), || {
        // SAFETY: passed on to the caller.
        let block = unsafe { shared(block, "block")? };
        Ok(block.0.as_ptr().cast())
    })
}

/// Bytes of code; 0 for NULL.
///
/// # Safety
/// - The block is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_block_len(block: *const Block) -> usize {
    value(0, || {
        // SAFETY: passed on to the caller.
        let block = unsafe { shared(block, "block")? };
        Ok(block.0.len())
    })
}

/// The tag that the function was published with; 0 for NULL.
///
/// # Safety
/// - The block is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_block_tag(block: *const Block) -> u64 {
    value(0, || {
        // SAFETY: passed on to the caller.
        let block = unsafe { shared(block, "block")? };
        Ok(block.0.tag())
    })
}

/// Gives back what lies behind the first `len` bytes. The space waits for guards as that of a freed
/// block does.
///
/// # Safety
/// - The block is NULL, which is an error, or a live handle that nobody else uses meanwhile.
/// - No thread runs or will run what is given back, but those that hold a guard taken before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_block_shrink(block: *mut Block, len: usize) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let block = unsafe { exclusive(block, "block")? };
        Ok(block.0.shrink(len)?)
    })
}

/// Frees the function and its handle; nothing for NULL. Its space is used again once the guards
/// that are held now have ended.
///
/// # Safety
/// - The block is NULL or a live handle that nobody else uses.
/// - No thread runs the function or will run it, but those that hold a guard taken before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_block_free(block: *mut Block) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        unsafe { handle::free(block) };
        Ok(())
    })
}
