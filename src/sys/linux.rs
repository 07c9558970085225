//! Linux and Android.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use super::{Access, Os, Place, Refused, Result, Span, unix};
use crate::units::MAX_ALIGN;

/// The system itself.
#[derive(Debug)]
pub(crate) struct Native;

/// `/proc/self/mem`, opened by this very process: a child that inherited it would write to its parent.
#[derive(Debug)]
pub(crate) struct KernelWriter(File);

/// An anonymous file in memory. The mappings keep the memory; the descriptor is needed only to make them.
#[derive(Debug)]
pub(crate) struct SharedMemory(File);

/// From the kernel's `asm-generic/mman-common.h`; the `libc` crate has it for some targets only.
const MADV_DONTNEED_LOCKED: libc::c_int = 24;
/// Likewise; since kernel 6.1.
const MADV_COLLAPSE: libc::c_int = 25;

impl Os for Native {
    fn page_size(&self) -> usize {
        region::page::size()
    }

    fn map(&self, len: usize) -> Result<Span> {
        unix::map(len)
    }

    fn reserve(&self, place: &Place) -> Result<Span> {
        unix::reserve(place)
    }

    unsafe fn protect(&self, span: Span, access: Access) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { unix::protect(span, access) }
    }

    unsafe fn decommit(&self, span: Span) -> Result<()> {
        // SAFETY: passed on to the caller, who needs the contents no more.
        let given = unsafe { unix::advise(span, libc::MADV_DONTNEED) };
        // Pages of a process that locks its memory; known since kernel 5.18.
        // SAFETY: as above.
        given.or_else(|refused| unsafe { unix::advise(span, MADV_DONTNEED_LOCKED) }.map_err(|_| refused))
    }

    unsafe fn release(&self, span: Span) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { unix::release(span) }
    }

    unsafe fn freeze(&self, span: Span) -> Result<()> {
        /// The same number on all architectures; since kernel 6.10, on 64 bits.
        const SYS_MSEAL: libc::c_long = 462;
        let flags: libc::c_long = 0;
        // SAFETY: the pages stay as they are; that nothing needs to change is passed on to the caller.
        match unsafe { libc::syscall(SYS_MSEAL, span.start.as_ptr(), span.len, flags) } {
            0 => Ok(()),
            _ => Err(Refused::last("mseal")),
        }
    }

    unsafe fn name(&self, span: Span, name: &CStr) -> Result<()> {
        // `linux/prctl.h`; since kernel 5.17, if it was built so.
        const PR_SET_VMA: libc::c_int = 0x5356_4d41;
        const PR_SET_VMA_ANON_NAME: libc::c_ulong = 0;
        let (start, len) = (span.address() as libc::c_ulong, span.len as libc::c_ulong);
        // SAFETY: the pages stay as they are, and the name is a C string that the kernel copies.
        match unsafe { libc::prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, start, len, name.as_ptr()) } {
            0 => Ok(()),
            _ => Err(Refused::last("prctl")),
        }
    }

    unsafe fn advise_huge(&self, span: Span) -> Result<()> {
        // SAFETY: the advice leaves the contents as they are.
        unsafe { unix::advise(span, libc::MADV_HUGEPAGE) }
    }

    unsafe fn collapse(&self, span: Span) -> Result<()> {
        // SAFETY: the contents stay as they are, for every thread.
        unsafe { unix::advise(span, MADV_COLLAPSE) }
    }

    unsafe fn populate(&self, span: Span) -> Result<()> {
        // SAFETY: the contents stay as they are.
        unsafe { unix::advise(span, libc::MADV_POPULATE_WRITE) }
    }

    fn open_kernel_writer(&self) -> Result<KernelWriter> {
        let file = File::options().read(true).write(true).open("/proc/self/mem");
        file.map(KernelWriter).map_err(|e| Refused::new("open of /proc/self/mem", e))
    }

    unsafe fn kernel_write(&self, writer: &KernelWriter, at: NonNull<u8>, bytes: &[u8]) -> Result<()> {
        writer.0.write_all_at(bytes, at.addr().get() as u64).map_err(|e| Refused::new("pwrite to /proc/self/mem", e))
    }

    fn kernel_read(&self, writer: &KernelWriter, at: NonNull<u8>, bytes: &mut [u8]) -> Result<()> {
        writer.0.read_exact_at(bytes, at.addr().get() as u64).map_err(|e| Refused::new("pread of /proc/self/mem", e))
    }

    fn share(&self, len: usize, name: &CStr) -> Result<SharedMemory> {
        // Not a program to `execve`, whatever it is mapped for; kernels before 6.3 do not know the flag.
        let file = memory_file(name, libc::MFD_CLOEXEC | libc::MFD_NOEXEC_SEAL)
            .or_else(|_| memory_file(name, libc::MFD_CLOEXEC))?;
        check_file_size(len)?;
        file.set_len(len as u64).map_err(|e| Refused::new("ftruncate", e))?;
        Ok(SharedMemory(file))
    }

    fn map_executable(&self, memory: &SharedMemory, place: &Place, access: Access) -> Result<Span> {
        let reservation = self.reserve(place)?;
        // SAFETY: pages of the reservation, made just now and given to nobody.
        let mapped = unsafe { unix::map_shared_at(&memory.0, reservation.code(place), access) };
        mapped.map(|()| reservation).inspect_err(|_| {
            // SAFETY: as above.
            let _ = unsafe { unix::release(reservation) };
        })
    }

    fn map_writable(&self, memory: &SharedMemory, len: usize) -> Result<Span> {
        // Huge pages have to lie alike in both views.
        let span = unix::reserve_aligned(len, MAX_ALIGN)?;
        // SAFETY: reserved just now; children are the only ones who lose by the advice.
        let mapped = unsafe { unix::map_shared_at(&memory.0, span, Access::ReadWrite) }
            // SAFETY: as above.
            .and_then(|()| unsafe { unix::advise(span, libc::MADV_DONTFORK) });
        mapped.map(|()| span).inspect_err(|_| {
            // SAFETY: mapped just now and given to nobody.
            let _ = unsafe { unix::release(span) };
        })
    }

    unsafe fn decommit_shared(&self, span: Span) -> Result<()> {
        // SAFETY: passed on to the caller, who needs the contents no more in any view.
        unsafe { unix::advise(span, libc::MADV_REMOVE) }
    }
}

fn memory_file(name: &CStr, flags: libc::c_uint) -> Result<File> {
    // SAFETY: the name is a C string; the call has no other requirement.
    match unsafe { libc::memfd_create(name.as_ptr(), flags) } {
        -1 => Err(Refused::last("memfd_create")),
        // SAFETY: a new descriptor that nobody else owns.
        fd => Ok(unsafe { File::from_raw_fd(fd) }),
    }
}

/// Growing a file past `RLIMIT_FSIZE` would not fail but kill the process with `SIGXFSZ`.
fn check_file_size(len: usize) -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the call to write to.
    let got = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) };
    let limited = limit.rlim_cur != libc::RLIM_INFINITY;
    // The limit's type is 64 bits wide on some targets and as wide as a pointer on others.
    #[allow(clippy::useless_conversion)]
    if got == 0 && limited && len as u64 > u64::from(limit.rlim_cur) {
        return Err(Refused::new("ftruncate (RLIMIT_FSIZE)", io::Error::from_raw_os_error(libc::EFBIG)));
    }
    Ok(())
}
