//! 32-bit Arm on Linux: user mode may not touch the caches, the kernel does it (`cacheflush`, a
//! system call of the Arm kernel alone).

use crate::Error;

pub(crate) const BARRIERS: bool = true;

/// `__ARM_NR_cacheflush`, from the kernel's `asm/unistd.h`.
const CACHEFLUSH: libc::c_long = 0x0f_0002;

/// Whether the calls are there and permitted: a sandbox that does not know them would make every
/// flush a silent nothing.
pub(super) fn check() -> Result<(), Error> {
    static PROBE: [u8; 16] = [0; 16];
    let (start, flags) = (PROBE.as_ptr(), 0 as libc::c_long);
    // SAFETY: changes no memory.
    answer(unsafe { libc::syscall(CACHEFLUSH, start, start.wrapping_add(PROBE.len()), flags) })?;
    super::membarrier::check()
}

fn answer(answer: libc::c_long) -> Result<(), Error> {
    match answer {
        -1 => Err(Error::system("cacheflush", std::io::Error::last_os_error())),
        // The kernel returns 0; emulators that keep instructions coherent by themselves return
        // anything.
        _ => Ok(()),
    }
}

/// # Safety
/// - `len` bytes at `start` are mapped.
pub(crate) unsafe fn flush(start: *const u8, len: usize) -> Result<(), Error> {
    // A filter that was entered since may refuse it.
    // SAFETY: cleans and invalidates caches over mapped memory, whose contents stay.
    answer(unsafe { libc::syscall(CACHEFLUSH, start, start.wrapping_add(len), 0 as libc::c_long) })
}

pub(crate) fn sync_cores() -> Result<(), Error> {
    super::membarrier::sync_cores()
}
