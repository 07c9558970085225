//! RISC-V on Linux: `fence.i` acts only on the hart that runs it, so the kernel has to reach the
//! other harts.
//!
//! `riscv_flush_icache` with flags 0 makes every thread of the process see the new bytes. Flag 1
//! would do so for the calling thread only (RISC-V unprivileged specification, "Zifencei"; kernel
//! documentation, "CMODX").

use crate::Error;

/// The flush reaches the other harts, so there is no further barrier.
pub(crate) const BARRIERS: bool = false;

/// `__NR_riscv_flush_icache`, from the kernel's `asm/unistd.h`.
const FLUSH_ICACHE: libc::c_long = 259;

/// Checks that the call exists and is permitted. In a sandbox that does not know it, every flush
/// would do nothing, without an error.
pub(super) fn check() -> Result<(), Error> {
    static PROBE: [u8; 16] = [0; 16];
    let (start, flags) = (PROBE.as_ptr(), 0 as libc::c_long);
    // SAFETY: it changes no memory.
    answer(unsafe { libc::syscall(FLUSH_ICACHE, start, start.wrapping_add(PROBE.len()), flags) })
}

fn answer(answer: libc::c_long) -> Result<(), Error> {
    match answer {
        0 => Ok(()),
        _ => Err(Error::system("riscv_flush_icache", std::io::Error::last_os_error())),
    }
}

/// Makes written bytes visible to instruction fetches of all harts.
///
/// # Safety
/// - `len` bytes at `start` are mapped.
pub(crate) unsafe fn flush(start: *const u8, len: usize) -> Result<(), Error> {
    // A filter that the process entered since may refuse the call. Then other harts would run the
    // old bytes.
    // SAFETY: it changes no memory.
    answer(unsafe { libc::syscall(FLUSH_ICACHE, start, start.wrapping_add(len), 0 as libc::c_long) })
}

pub(crate) fn sync_cores() -> Result<(), Error> {
    Ok(())
}
