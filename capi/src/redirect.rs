//! Addresses that stay while the code behind them changes.

use std::ffi::c_void;

use crate::arena::Arena;
use crate::block::Block;
use crate::failure::{Failure, status, value};
use crate::handle::{self, exclusive, handle_out, shared};
use crate::status::Status;

/// An address that stays while the code behind it changes. It owns the function that it leads to.
/// Any number of threads may use it at once, with handles of blocks of their own.
pub struct Redirect(jit::Redirect);

/// Takes a block from its place, where NULL is left.
///
/// # Safety
/// - `place` is null or leads to a pointer that nobody else uses meanwhile; that is null or a live
///   handle that nobody else uses.
unsafe fn take(place: *mut *mut Block) -> Result<Block, Failure> {
    // SAFETY: passed on to the caller.
    let place = unsafe { exclusive(place, "block")? };
    let block = std::mem::replace(place, std::ptr::null_mut());
    if block.is_null() {
        return Err(Failure::Null("*block"));
    }
    // SAFETY: not null, and so a handle; nobody else uses it, and its place is empty now.
    Ok(*unsafe { Box::from_raw(block) })
}

/// Makes an address that leads to `*block` until it is changed: 16 bytes of code that jump through
/// a pointer in the data area. Calls through it pass all arguments on. Free it with
/// `gaia_jit_redirect_free`.
///
/// The redirect takes the block: `*block` is NULL afterwards. After an error too, for then the
/// block is freed. The block may be of another arena.
///
/// # Safety
/// - The arena is NULL, which is an error, or a live handle.
/// - `block` is NULL, which is an error, or leads to a pointer that nobody else uses meanwhile.
///   That is NULL, which is an error, or a live handle that nobody else uses, and no thread runs
///   the function or will run it but through the redirect.
/// - A pointer can be written to `out`, elsewhere, or it is NULL, which is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_redirect_new(
    arena: *const Arena,
    block: *mut *mut Block,
    out: *mut *mut Redirect,
) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let block = unsafe { take(block) };
        // SAFETY: passed on to the caller.
        let out = unsafe { handle_out(out, "out")? };
        // SAFETY: passed on to the caller.
        let arena = unsafe { shared(arena, "arena")? };
        *out = handle::handle(Redirect(arena.0.redirect(block?.0)?));
        Ok(())
    })
}

/// Frees the address, the function that it leads to, and the handle; nothing for NULL. Their space
/// is used again once the guards that are held now have ended.
///
/// # Safety
/// - The redirect is NULL or a live handle that nobody else uses.
/// - No thread calls the address or runs the function, or will, but those that hold a guard of both
///   their arenas taken before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_redirect_free(redirect: *mut Redirect) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        unsafe { handle::free(redirect) };
        Ok(())
    })
}

/// The address that stays; NULL for NULL. It is called as that of a block is.
///
/// # Safety
/// - The redirect is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_redirect_start(redirect: *const Redirect) -> *const c_void {
    value(std::ptr::null(), || {
        // SAFETY: passed on to the caller.
        let redirect = unsafe { shared(redirect, "redirect")? };
        Ok(redirect.0.as_ptr().cast())
    })
}

/// The address where calls arrive now; NULL for NULL.
///
/// # Safety
/// - The redirect is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_redirect_target(redirect: *const Redirect) -> *const c_void {
    value(std::ptr::null(), || {
        // SAFETY: passed on to the caller.
        let redirect = unsafe { shared(redirect, "redirect")? };
        Ok(redirect.0.target().cast())
    })
}

/// Sends calls to `*block` from now on, and writes the block to `*block` that they went to before:
/// the caller frees that one. A call that has begun goes on where it is. One atomic exchange: no
/// code changes. Threads that swap at once wait for each other.
///
/// After an error calls go where they went, `*block` is NULL, and the block that was there is
/// freed.
///
/// # Safety
/// - The redirect is NULL, which is an error, or a live handle.
/// - `block` is NULL, which is an error, or leads to a pointer that nobody else uses meanwhile.
///   That is NULL, which is an error, or a live handle that nobody else uses, of a function of the
///   type that callers of the address call; no thread runs it or will run it but through the
///   redirect.
/// - The block that comes back is freed when no thread runs its function, but for threads that hold
///   a guard of its arena taken before they called the address.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_redirect_swap(redirect: *const Redirect, block: *mut *mut Block) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let new = unsafe { take(block)? };
        // SAFETY: passed on to the caller.
        let redirect = unsafe { shared(redirect, "redirect")? };
        let old = redirect.0.swap(new.0)?;
        // SAFETY: passed on to the caller.
        let place = unsafe { exclusive(block, "block")? };
        *place = handle::handle(Block(old));
        Ok(())
    })
}
