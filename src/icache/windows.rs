//! Windows, on every architecture: the system is told of new code.
//!
//! "Applications should call FlushInstructionCache if they generate or modify code in memory"
//! (Microsoft Learn, "FlushInstructionCache function"). On x86 the hardware does not need it, but
//! the process may run on another: the emulator of x86 and x64 on Arm translates code once and
//! learns from this call that it changed (what went wrong without: dotnet/runtime pull request
//! 72693).
//!
//! On AArch64 that call leaves instructions that other cores fetched before, so each core has to be
//! interrupted: `FlushProcessWriteBuffers` "generates an interprocessor interrupt (IPI) to all
//! processors that are part of the current process affinity" (Microsoft Learn), and the return from
//! an interrupt is a context synchronization event (Arm ARM, glossary).

use windows_sys::Win32::System::Diagnostics::Debug::FlushInstructionCache;
use windows_sys::Win32::System::Threading::{FlushProcessWriteBuffers, GetCurrentProcess};

use crate::Error;

pub(crate) const BARRIERS: bool = cfg!(target_arch = "aarch64");

pub(super) fn check() -> Result<(), Error> {
    Ok(())
}

/// # Safety
/// - `len` bytes at `start` are mapped.
pub(crate) unsafe fn flush(start: *const u8, len: usize) -> Result<(), Error> {
    // SAFETY: a pseudo-handle, always valid.
    let process = unsafe { GetCurrentProcess() };
    // SAFETY: changes no contents.
    match unsafe { FlushInstructionCache(process, start.cast(), len) } {
        0 => Err(Error::system("FlushInstructionCache", std::io::Error::last_os_error())),
        _ => Ok(()),
    }
}

pub(crate) fn sync_cores() -> Result<(), Error> {
    if BARRIERS { serialize_cores() } else { Ok(()) }
}

/// Interrupts every core that runs a thread of the process; the return from an interrupt
/// serialises.
#[allow(clippy::unnecessary_wraps, reason = "as on the other systems")]
pub(super) fn serialize_cores() -> Result<(), Error> {
    // SAFETY: takes nothing, changes no contents.
    unsafe { FlushProcessWriteBuffers() };
    Ok(())
}
