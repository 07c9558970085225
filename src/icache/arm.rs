//! 32-bit Arm on Linux: programs may not access the caches. The kernel does it (`cacheflush`, a
//! system call that only the Arm kernel has).

use crate::Error;

pub(crate) const BARRIERS: bool = true;

/// `__ARM_NR_cacheflush`, from the kernel's `asm/unistd.h`.
const CACHEFLUSH: libc::c_long = 0x0f_0002;

/// Checks that the calls exist and are permitted. In a sandbox that does not know them, every flush
/// would do nothing, without an error.
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
        // The kernel returns 0. Emulators that keep instructions coherent by themselves return any
        // value.
        _ => Ok(()),
    }
}

/// Makes written bytes visible to instruction fetches.
///
/// # Safety
/// - `len` bytes at `start` are mapped.
pub(crate) unsafe fn flush(start: *const u8, len: usize) -> Result<(), Error> {
    // A filter that the process entered since may refuse the call.
    // SAFETY: cleans and invalidates caches of mapped memory. Its contents stay as they are.
    answer(unsafe { libc::syscall(CACHEFLUSH, start, start.wrapping_add(len), 0 as libc::c_long) })
}

pub(crate) fn sync_cores() -> Result<(), Error> {
    super::membarrier::sync_cores()
}
