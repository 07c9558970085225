//! The C functions `gaia_jit_builder_*`: the settings of an arena that is not built yet.
//!
//! ```text
//! new --> capacity, data, mode, near, name, ... --> build --> an arena's handle
//!                                                    `--> build again, or free
//! ```
//!
//! - *Owner*: the caller frees the builder with `gaia_jit_builder_free`. An arena keeps a copy of
//!   the settings, so the two are freed in any order.
//! - *Errors*: `set` changes a copy and stores it if that succeeds. So a refused call leaves the
//!   settings as they were. Whether the system allows a setting is known only after `build`.
//! - *NULL*: it is an error as a builder, as `out` and as a name. `gaia_jit_builder_free` does
//!   nothing with it. An array of modes may be NULL if its length is 0.
//! - *Failed calls*: `new` and `build` set `out` to NULL before they do anything else.
//! - *Stale handles*: a freed builder is not recognised, so its use is undefined behaviour.

use std::ffi::{c_char, c_void};

use jit::{ArenaBuilder, CodeArena, WxMode};

use crate::arena::Arena;
use crate::failure::{Failure, status};
use crate::handle::{self, exclusive, handle_out, shared, slice};
use crate::mode::Mode;
use crate::status::Status;

/// Settings for a new arena. One thread at a time may use it.
pub struct Builder(ArenaBuilder);

/// Changes a setting.
///
/// # Safety
/// - The builder is NULL or a live handle that nobody else uses meanwhile.
unsafe fn set(builder: *mut Builder, change: impl FnOnce(ArenaBuilder) -> Result<ArenaBuilder, Failure>) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let builder = unsafe { exclusive(builder, "builder")? };
        builder.0 = change(builder.0.clone())?;
        Ok(())
    })
}

/// New settings, each as it is unless it is set. Free them with `gaia_jit_builder_free`.
///
/// # Safety
/// - A pointer can be written to `out`, or it is NULL, which is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_builder_new(out: *mut *mut Builder) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let out = unsafe { handle_out(out, "out")? };
        *out = handle::handle(Builder(CodeArena::builder()));
        Ok(())
    })
}

/// Frees settings; nothing for NULL.
///
/// # Safety
/// - The builder is NULL or a live handle that nobody else uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_builder_free(builder: *mut Builder) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        unsafe { handle::free(builder) };
        Ok(())
    })
}

/// Bytes of address space for code, rounded up to whole pages. Memory is used only as code is
/// placed. 256 MiB unless set; 128 MiB on AArch64.
///
/// # Safety
/// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_builder_capacity(builder: *mut Builder, bytes: usize) -> Status {
    // SAFETY: passed on to the caller.
    unsafe { set(builder, |settings| Ok(settings.capacity(bytes))) }
}

/// Bytes of address space for data beside the code, rounded up to whole pages. An eighth of the
/// capacity unless set; 0 for none.
///
/// # Safety
/// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_builder_data(builder: *mut Builder, bytes: usize) -> Status {
    // SAFETY: passed on to the caller.
    unsafe { set(builder, |settings| Ok(settings.data(bytes))) }
}

/// How W^X is kept: a number of `gaia_jit_mode`, or else `GAIA_JIT_STATUS_INVALID_ARGUMENT`.
///
/// # Safety
/// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_builder_mode(builder: *mut Builder, mode: u32) -> Status {
    // SAFETY: passed on to the caller.
    unsafe { set(builder, |settings| Ok(settings.mode(Mode::read(mode)?))) }
}

/// Ways to keep W^X, of which the first is used that the system allows: an array of numbers of
/// `gaia_jit_mode`.
///
/// # Safety
/// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
/// - `modes` leads to `count` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_builder_modes(builder: *mut Builder, modes: *const u32, count: usize) -> Status {
    let change = |settings: ArenaBuilder| {
        // SAFETY: passed on to the caller.
        let modes = unsafe { slice(modes, count, "modes")? };
        let modes: Vec<WxMode> = modes.iter().map(|mode| Mode::read(*mode)).collect::<Result<_, _>>()?;
        Ok(settings.modes(&modes))
    };
    // SAFETY: passed on to the caller.
    unsafe { set(builder, change) }
}

/// Places the arena so that a direct branch reaches from all of it to `address` and back;
/// `gaia_jit_builder_build` fails otherwise.
///
/// # Safety
/// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_builder_near(builder: *mut Builder, address: *const c_void) -> Status {
    // SAFETY: passed on to the caller.
    unsafe { set(builder, |settings| Ok(settings.near(address.cast()))) }
}

/// Asks the system for huge pages. A hint: where there are none, small pages serve.
///
/// # Safety
/// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_builder_huge_pages(builder: *mut Builder, yes: bool) -> Status {
    // SAFETY: passed on to the caller.
    unsafe { set(builder, |settings| Ok(settings.huge_pages(yes))) }
}

/// Makes a stale call stop at once, wherever in the arena it goes: freed code is overwritten with
/// trap instructions.
///
/// # Safety
/// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_builder_poison(builder: *mut Builder, yes: bool) -> Status {
    // SAFETY: passed on to the caller.
    unsafe { set(builder, |settings| Ok(settings.poison(yes))) }
}

/// Gives memory back to the system by itself when more than `bytes` of it are free. Off unless set.
///
/// # Safety
/// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_builder_keep_free(builder: *mut Builder, bytes: usize) -> Status {
    // SAFETY: passed on to the caller.
    unsafe { set(builder, |settings| Ok(settings.keep_free(bytes))) }
}

/// Has the system refuse every later change to the protections of the memory for code. Linux since
/// 6.10; an error of `gaia_jit_builder_build` elsewhere. The mappings stay when the arena goes.
///
/// # Safety
/// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_builder_seal(builder: *mut Builder, yes: bool) -> Status {
    // SAFETY: passed on to the caller.
    unsafe { set(builder, |settings| Ok(settings.seal(yes))) }
}

/// Lets indirect branches into the arena arrive at landing pads only: Branch Target Identification
/// on AArch64 Linux; an error of `gaia_jit_builder_build` elsewhere.
///
/// # Safety
/// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_builder_landing_pads(builder: *mut Builder, yes: bool) -> Status {
    // SAFETY: passed on to the caller.
    unsafe { set(builder, |settings| Ok(settings.landing_pads(yes))) }
}

/// Has every core of the process execute a serialising instruction before new code is given out, on
/// x86 too.
///
/// # Safety
/// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_builder_serialize_cores(builder: *mut Builder, yes: bool) -> Status {
    // SAFETY: passed on to the caller.
    unsafe { set(builder, |settings| Ok(settings.serialize_cores(yes))) }
}

/// What the arena's mappings are called in the system's list of them. A hint; NULL is an error.
///
/// # Safety
/// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
/// - `name` is NULL or a string that ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_builder_name(builder: *mut Builder, name: *const c_char) -> Status {
    let change = |settings: ArenaBuilder| {
        // SAFETY: passed on to the caller.
        let name = unsafe { handle::string(name) }.ok_or(Failure::Null("name"))?;
        Ok(settings.name(name))
    };
    // SAFETY: passed on to the caller.
    unsafe { set(builder, change) }
}

/// Reserves the address space and tries the mode out. The settings stay, and can be built again.
/// Free the arena with `gaia_jit_arena_free`.
///
/// # Safety
/// - The builder is NULL, which is an error, or a live handle that nobody changes meanwhile.
/// - A pointer can be written to `out`, or it is NULL, which is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_builder_build(builder: *const Builder, out: *mut *mut Arena) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let out = unsafe { handle_out(out, "out")? };
        // SAFETY: passed on to the caller.
        let builder = unsafe { shared(builder, "builder")? };
        *out = handle::handle(Arena(builder.0.clone().build()?));
        Ok(())
    })
}
