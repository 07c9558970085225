//! Guards: code that is freed under one is not used again before its end.

use std::ffi::c_void;
use std::mem::transmute;

use crate::arena::Arena;
use crate::failure::{Failure, status};
use crate::handle::{exclusive, out, shared};
use crate::status::Status;

/// Keeps the space of code that is freed from now on from being used again, until `gaia_jit_unpin`.
/// It lies where the caller puts it, on the stack as a rule, and is for the thread that took it
/// alone: it is not copied, and not given to another thread.
///
/// A thread takes one before it reads a function's address from where the program keeps it, and
/// lets go of it after the last return from generated code.
#[repr(C)]
pub struct Guard {
    /// Not for the caller; NULL if it holds nothing.
    hidden: *const c_void,
}

/// Takes a guard: a few nanoseconds, without a lock or an allocation, so signal handlers may.
///
/// # Safety
/// - The arena is NULL, which is an error, or a live handle that is not freed before the guard has
///   ended.
/// - A `gaia_jit_guard` can be written to `guard`, or it is NULL, which is an error. It holds no
///   guard, or that one never ends.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_pin(arena: *const Arena, guard: *mut Guard) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let guard = unsafe { out(guard, "guard")? };
        let guard = guard.write(Guard { hidden: std::ptr::null() });
        // SAFETY: passed on to the caller.
        let arena = unsafe { shared(arena, "arena")? };
        // SAFETY: a guard is one reference, and so a pointer; the compiler compares the sizes.
        guard.hidden = unsafe { transmute::<jit::Guard<'_>, *const c_void>(arena.0.pin()) };
        Ok(())
    })
}

/// Ends a guard. One that holds nothing is `GAIA_JIT_STATUS_NULL_POINTER`: a guard ends once.
///
/// # Safety
/// - The guard is NULL, which is an error, or `gaia_jit_pin` wrote it, on this thread. Its arena
///   lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_unpin(guard: *mut Guard) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let guard = unsafe { exclusive(guard, "guard")? };
        let held = std::mem::replace(&mut guard.hidden, std::ptr::null());
        if held.is_null() {
            return Err(Failure::Null("what the guard holds"));
        }
        // SAFETY: `gaia_jit_pin` made it of a guard, which has not ended: it would be null.
        drop(unsafe { transmute::<*const c_void, jit::Guard<'_>>(held) });
        Ok(())
    })
}
