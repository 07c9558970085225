//! Which function an address is in.

use std::ffi::c_void;

use jit::BlockInfo;

use crate::arena::Arena;
use crate::failure::status;
use crate::handle::{out, shared, slice, slice_out};
use crate::status::Status;

/// A live function that was found.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The address of its first byte; NULL if the address is in no live function.
    start: *const c_void,
    /// Bytes of code; 0 if none was found.
    len: usize,
    /// The tag that it was published with; 0 if none was found.
    tag: u64,
}

impl From<Option<BlockInfo>> for Found {
    fn from(found: Option<BlockInfo>) -> Self {
        match found {
            Some(block) => Self { start: block.start.cast(), len: block.len, tag: block.tag },
            None => Self { start: std::ptr::null(), len: 0, tag: 0 },
        }
    }
}

/// Finds the live function that holds the byte at `address`. No lock, no allocation: signal
/// handlers may. A return address names the instruction behind the call, so ask for `pc - 1` for
/// all frames but the innermost.
///
/// That there is none is no error: `start` is NULL then.
///
/// # Safety
/// - The arena is NULL, which is an error, or a live handle.
/// - A `gaia_jit_found` can be written to `found`, or it is NULL, which is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_lookup(arena: *const Arena, address: *const c_void, found: *mut Found) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let arena = unsafe { shared(arena, "arena")? };
        // SAFETY: passed on to the caller.
        let found = unsafe { out(found, "found")? };
        found.write(arena.0.lookup(address.cast()).into());
        Ok(())
    })
}

/// Addresses that are looked up at once; the answers are on the stack.
const AT_ONCE: usize = 64;

/// As `gaia_jit_lookup` for many addresses, for instance of a whole stack; their cache misses
/// overlap.
///
/// # Safety
/// - The arena is NULL, which is an error, or a live handle.
/// - `addresses` leads to `count` addresses, and `count` answers can be written to `found`,
///   elsewhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_lookup_many(
    arena: *const Arena,
    addresses: *const *const c_void,
    count: usize,
    found: *mut Found,
) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let arena = unsafe { shared(arena, "arena")? };
        // SAFETY: passed on to the caller; a pointer is a pointer, whatever it leads to.
        let addresses = unsafe { slice(addresses.cast::<*const u8>(), count, "addresses")? };
        // SAFETY: passed on to the caller.
        let found = unsafe { slice_out(found, count, "found")? };
        let mut answers = [None; AT_ONCE];
        for (addresses, found) in addresses.chunks(AT_ONCE).zip(found.chunks_mut(AT_ONCE)) {
            arena.0.lookup_many(addresses, &mut answers);
            for (found, answer) in found.iter_mut().zip(answers) {
                found.write(answer.into());
            }
        }
        Ok(())
    })
}
