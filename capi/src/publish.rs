//! One function goes into an arena.

use std::ffi::c_char;

use jit::Code;

use crate::arena::Arena;
use crate::block::Block;
use crate::failure::status;
use crate::handle::{self, handle_out, shared, slice};
use crate::status::Status;

/// Copies code into the arena, makes it executable and sees to it that every core runs the new
/// bytes. Free the block with `gaia_jit_block_free`; that frees the function.
///
/// `align` is a power of two up to 2 MiB, or 0 for 16. `tag` is a number of the caller's, which
/// lookups return. `name` may be NULL.
///
/// # Safety
/// - The arena is NULL, which is an error, or a live handle.
/// - `code` leads to `len` bytes.
/// - `name` is NULL or a string that ends with a zero.
/// - A pointer can be written to `out`, or it is NULL, which is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_publish(
    arena: *const Arena,
    code: *const u8,
    len: usize,
    align: usize,
    tag: u64,
    name: *const c_char,
    out: *mut *mut Block,
) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let out = unsafe { handle_out(out, "out")? };
        // SAFETY: passed on to the caller.
        let arena = unsafe { shared(arena, "arena")? };
        // SAFETY: passed on to the caller.
        let code = unsafe { slice(code, len, "code")? };
        // SAFETY: passed on to the caller.
        let name = unsafe { handle::string(name) };
        let mut code = described(code, align, tag);
        if let Some(name) = &name {
            code = code.name(name);
        }
        *out = handle::handle(Block(arena.0.publish(code)?));
        Ok(())
    })
}

/// Code as the crate takes it. An alignment of 0 is the usual one.
pub(crate) fn described(code: &[u8], align: usize, tag: u64) -> Code<'_> {
    let code = Code::new(code).tag(tag);
    if align == 0 { code } else { code.align(align) }
}
