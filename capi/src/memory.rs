//! One block of memory for one piece of code.

use std::ffi::c_void;

use jit::JitMemory;

use crate::failure::{status, value};
use crate::handle::{self, exclusive, handle_out, out, shared, slice};
use crate::status::Status;

/// One block of executable memory for one thread: write, make executable, call. Each page is either
/// writable or executable, never both, so no thread may run code of a block while it is written to.
/// One thread at a time may use it.
pub struct Memory(JitMemory);

/// A block of `capacity` bytes, rounded up to whole pages; writable and empty. Free it with
/// `gaia_jit_memory_free`.
///
/// # Safety
/// - A pointer can be written to `out`, or it is NULL, which is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_memory_new(capacity: usize, out: *mut *mut Memory) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let out = unsafe { handle_out(out, "out")? };
        *out = handle::handle(Memory(JitMemory::new(capacity)?));
        Ok(())
    })
}

/// Frees a block and its memory; nothing for NULL.
///
/// # Safety
/// - The memory is NULL or a live handle that nobody else uses, and no thread runs what is in it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_memory_free(memory: *mut Memory) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        unsafe { handle::free(memory) };
        Ok(())
    })
}

/// Appends code, and says at which offset.
///
/// # Safety
/// - The memory is NULL, which is an error, or a live handle that nobody else uses meanwhile, and
///   no thread runs what is in it.
/// - `code` leads to `len` bytes outside of it.
/// - A `size_t` can be written to `offset`, or it is NULL, if nobody wants to know.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_memory_write(
    memory: *mut Memory,
    code: *const u8,
    len: usize,
    offset: *mut usize,
) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let memory = unsafe { exclusive(memory, "memory")? };
        // SAFETY: passed on to the caller.
        let code = unsafe { slice(code, len, "code")? };
        let at = memory.0.write(code)?;
        // SAFETY: passed on to the caller.
        if let Ok(offset) = unsafe { out(offset, "offset") } {
            offset.write(at);
        }
        Ok(())
    })
}

/// Makes what was written executable.
///
/// # Safety
/// - The memory is NULL, which is an error, or a live handle that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_memory_make_executable(memory: *mut Memory) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let memory = unsafe { exclusive(memory, "memory")? };
        memory.0.make_executable()?;
        Ok(())
    })
}

/// Makes all code writable again. `gaia_jit_memory_write` does by itself what it needs.
///
/// # Safety
/// - The memory is NULL, which is an error, or a live handle that nobody else uses meanwhile, and
///   no thread runs what is in it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_memory_make_writable(memory: *mut Memory) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let memory = unsafe { exclusive(memory, "memory")? };
        Ok(memory.0.make_writable()?)
    })
}

/// The address of the first byte; NULL for NULL.
///
/// # Safety
/// - The memory is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_memory_start(memory: *const Memory) -> *const c_void {
    value(std::ptr::null(), || {
        // SAFETY: passed on to the caller.
        let memory = unsafe { shared(memory, "memory")? };
        Ok(memory.0.as_ptr().cast())
    })
}

/// Bytes written; 0 for NULL.
///
/// # Safety
/// - The memory is NULL or a live handle that nobody changes meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_memory_len(memory: *const Memory) -> usize {
    value(0, || {
        // SAFETY: passed on to the caller.
        let memory = unsafe { shared(memory, "memory")? };
        Ok(memory.0.len())
    })
}

/// Bytes that can be written, a multiple of the page size; 0 for NULL.
///
/// # Safety
/// - The memory is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_memory_capacity(memory: *const Memory) -> usize {
    value(0, || {
        // SAFETY: passed on to the caller.
        let memory = unsafe { shared(memory, "memory")? };
        Ok(memory.0.capacity())
    })
}
