//! One function goes into an arena, written by the caller for the address at which it will run.

use std::ffi::{c_char, c_void};

use jit::{Error, Reserve};

use crate::arena::Arena;
use crate::block::Block;
use crate::failure::{Failure, status};
use crate::handle::{handle, handle_out, shared, string};
use crate::slots::ALIGN;
use crate::status::Status;

/// A function of the caller's that writes code. `address` is where the code will run. `bytes` is
/// where it is written now, which is another place; it is `len` bytes, all of them traps so far.
/// `context` is what `gaia_jit_publish_with` was given. It returns how many bytes the code takes,
/// or 0 if there will be none.
///
/// It returns in the usual way: no exception and no `longjmp` leaves it.
pub type Write =
    Option<unsafe extern "C" fn(context: *mut c_void, address: *const c_void, bytes: *mut u8, len: usize) -> usize>;

/// Publishes a function whose bytes depend on its address. `write` is called once, on this thread,
/// unless there is no space of `len` bytes. It may use the arena, because no lock is held. The
/// bytes of the `len` that it does not take are free again. The other parameters are those of
/// `gaia_jit_publish`.
///
/// The arena is as it was after an error. It is `GAIA_JIT_STATUS_CALLBACK` if `write` returned 0,
/// and `GAIA_JIT_STATUS_PAST_CAPACITY` if it returned more than `len`.
///
/// # Safety
/// - The arena is NULL, which is an error, or a live handle, which `write` does not free.
/// - `write` is NULL, which is an error, or as `gaia_jit_write` says. It writes to no bytes but
///   those that it is given, and to these only until it returns.
/// - `name` is NULL or a string that ends with a zero.
/// - A pointer can be written to `out`, or it is NULL, which is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_publish_with(
    arena: *const Arena,
    len: usize,
    align: usize,
    tag: u64,
    name: *const c_char,
    write: Write,
    context: *mut c_void,
    out: *mut *mut Block,
) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let out = unsafe { handle_out(out, "out")? };
        // SAFETY: passed on to the caller.
        let arena = unsafe { shared(arena, "arena")? };
        // SAFETY: passed on to the caller.
        let name = unsafe { string(name) };
        let write = write.ok_or(Failure::Null("write"))?;
        let mut reserve = Reserve::new(len).align(if align == 0 { ALIGN } else { align }).tag(tag);
        if let Some(name) = &name {
            reserve = reserve.name(name);
        }
        let mut gave_up = false;
        let block = arena.0.publish_with(reserve, |address, bytes| {
            // SAFETY: the caller's function, for bytes that are borrowed until it returns; the rest
            // is passed on to the caller.
            let len = unsafe { write(context, address.cast(), bytes.as_mut_ptr(), bytes.len()) };
            gave_up = len == 0;
            // The error ends the publication, and is not what is told.
            if gave_up { Err(Error::ZeroSize) } else { Ok(len) }
        });
        if gave_up {
            return Err(Failure::Callback);
        }
        *out = handle(Block(block?));
        Ok(())
    })
}
