//! Arenas: made with the usual settings, asked about, freed.

use std::ffi::c_void;

use jit::CodeArena;

use crate::failure::{status, value};
use crate::handle::{self, handle_out, out, shared};
use crate::mode::Mode;
use crate::status::Status;

/// Address space that many functions are packed into. Any number of threads may use one at once.
pub struct Arena(pub(crate) CodeArena);

/// An arena with the usual settings. Free it with `gaia_jit_arena_free`.
///
/// # Safety
/// - A pointer can be written to `out`, or it is NULL, which is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_arena_new(out: *mut *mut Arena) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let out = unsafe { handle_out(out, "out")? };
        *out = handle::handle(Arena(CodeArena::new()?));
        Ok(())
    })
}

/// Frees the handle; nothing for NULL. Blocks, data and batches keep the memory alive, so they may
/// be freed later; guards do not, so they end before.
///
/// # Safety
/// - The arena is NULL or a live handle that nobody else uses, and none of its guards is held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_arena_free(arena: *mut Arena) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        unsafe { handle::free(arena) };
        Ok(())
    })
}

/// The address of the first byte for code; NULL for NULL.
///
/// # Safety
/// - The arena is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_arena_base(arena: *const Arena) -> *const c_void {
    value(std::ptr::null(), || {
        // SAFETY: passed on to the caller.
        let arena = unsafe { shared(arena, "arena")? };
        Ok(arena.0.base().cast())
    })
}

/// Bytes of address space for code; 0 for NULL.
///
/// # Safety
/// - The arena is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_arena_capacity(arena: *const Arena) -> usize {
    value(0, || {
        // SAFETY: passed on to the caller.
        let arena = unsafe { shared(arena, "arena")? };
        Ok(arena.0.capacity())
    })
}

/// The mode that the arena is in.
///
/// # Safety
/// - The arena is NULL, which is an error, or a live handle.
/// - A `gaia_jit_mode` can be written to `mode`, or it is NULL, which is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_arena_mode(arena: *const Arena, mode: *mut Mode) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let arena = unsafe { shared(arena, "arena")? };
        // SAFETY: passed on to the caller.
        let mode = unsafe { out(mode, "mode")? };
        mode.write(arena.0.mode().into());
        Ok(())
    })
}

/// Whether an address lies in the arena, in its code or its data; false for NULL.
///
/// # Safety
/// - The arena is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_arena_contains(arena: *const Arena, address: *const c_void) -> bool {
    value(false, || {
        // SAFETY: passed on to the caller.
        let arena = unsafe { shared(arena, "arena")? };
        Ok(arena.0.contains(address.cast()))
    })
}

/// Whether a direct branch reaches from all of the arena to `address` and back; false for NULL.
///
/// # Safety
/// - The arena is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_arena_reaches(arena: *const Arena, address: *const c_void) -> bool {
    value(false, || {
        // SAFETY: passed on to the caller.
        let arena = unsafe { shared(arena, "arena")? };
        Ok(arena.0.reaches(address.cast()))
    })
}

/// Gives the memory of wholly empty pages back to the system, and says how many bytes. For quiet
/// moments.
///
/// # Safety
/// - The arena is NULL, which is an error, or a live handle.
/// - A `size_t` can be written to `bytes`, or it is NULL, if nobody wants to know.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_arena_trim(arena: *const Arena, bytes: *mut usize) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let arena = unsafe { shared(arena, "arena")? };
        let trimmed = arena.0.trim()?;
        // SAFETY: passed on to the caller.
        if let Ok(bytes) = unsafe { out(bytes, "bytes") } {
            bytes.write(trimmed);
        }
        Ok(())
    })
}
