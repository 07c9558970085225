//! RISC-V on Linux: `fence.i` covers only the hart that runs it, so the kernel has to reach the
//! others.
//!
//! `riscv_flush_icache` with flags 0 makes every thread of the process see the new bytes; flag 1
//! would cover only the calling thread (RISC-V unprivileged specification, "Zifencei"; kernel
//! documentation, "CMODX").

use crate::Error;

/// The flush reaches the other harts itself.
pub(crate) const BARRIERS: bool = false;

/// `__NR_riscv_flush_icache`, from the kernel's `asm/unistd.h`.
const FLUSH_ICACHE: libc::c_long = 259;

/// Whether the call is there and permitted: a sandbox that does not know it would make every flush
/// a silent nothing.
pub(super) fn check() -> Result<(), Error> {
    static PROBE: [u8; 16] = [0; 16];
    let (start, flags) = (PROBE.as_ptr(), 0 as libc::c_long);
    // SAFETY: changes no memory.
    answer(unsafe { libc::syscall(FLUSH_ICACHE, start, start.wrapping_add(PROBE.len()), flags) })
}

fn answer(answer: libc::c_long) -> Result<(), Error> {
    match answer {
        0 => Ok(()),
        _ => Err(Error::system("riscv_flush_icache", std::io::Error::last_os_error())),
    }
}

/// # Safety
/// - `len` bytes at `start` are mapped.
pub(crate) unsafe fn flush(start: *const u8, len: usize) -> Result<(), Error> {
    // A filter that was entered since may refuse it, and then other harts would run what was there
    // before.
    // SAFETY: changes no memory.
    answer(unsafe { libc::syscall(FLUSH_ICACHE, start, start.wrapping_add(len), 0 as libc::c_long) })
}

pub(crate) fn sync_cores() -> Result<(), Error> {
    Ok(())
}
