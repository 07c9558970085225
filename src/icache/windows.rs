//! Windows, on every architecture: the system is called about new code.
//!
//! "Applications should call FlushInstructionCache if they generate or modify code in memory"
//! (Microsoft Learn, "FlushInstructionCache function"). The hardware of x86 does not need it. But
//! the process may run on another architecture: the emulator of x86 and x64 on Arm translates code
//! once, and this call tells it that the code changed (dotnet/runtime pull request 72693 describes
//! the failure without the call).
//!
//! On AArch64 that call leaves the instructions that other cores fetched before, so each core has
//! to be interrupted. `FlushProcessWriteBuffers` "generates an interprocessor interrupt (IPI) to
//! all processors that are part of the current process affinity" (Microsoft Learn). The return from
//! an interrupt is a context synchronization event (Arm ARM, glossary).

use windows_sys::Win32::System::Diagnostics::Debug::FlushInstructionCache;
use windows_sys::Win32::System::Threading::{FlushProcessWriteBuffers, GetCurrentProcess};

use crate::Error;

pub(crate) const BARRIERS: bool = cfg!(target_arch = "aarch64");

pub(super) fn check() -> Result<(), Error> {
    Ok(())
}

/// Makes written bytes visible to instruction fetches, and to emulators.
///
/// # Safety
/// - `len` bytes at `start` are mapped.
pub(crate) unsafe fn flush(start: *const u8, len: usize) -> Result<(), Error> {
    // SAFETY: a pseudo-handle, which is always valid.
    let process = unsafe { GetCurrentProcess() };
    // SAFETY: it changes no contents.
    match unsafe { FlushInstructionCache(process, start.cast(), len) } {
        0 => Err(Error::system("FlushInstructionCache", std::io::Error::last_os_error())),
        _ => Ok(()),
    }
}

pub(crate) fn sync_cores() -> Result<(), Error> {
    if BARRIERS { serialize_cores() } else { Ok(()) }
}

/// Interrupts every core that runs a thread of the process. The return from an interrupt
/// serialises.
#[allow(clippy::unnecessary_wraps, reason = "as on the other systems")]
pub(super) fn serialize_cores() -> Result<(), Error> {
    // SAFETY: it takes nothing and changes no contents.
    unsafe { FlushProcessWriteBuffers() };
    Ok(())
}
