//! Memory with two views on Linux and Android.
//!
//! It is anonymous shared memory, whose mapping is duplicated by `mremap` with an old length of 0:
//! the kernel then leaves the old mapping in place ("If the value of old_size is zero, and
//! old_address refers to a shareable mapping, then mremap() will create a new mapping of the same
//! pages", mremap(2)). Mappings of a `memfd_create` serve where that is refused, and on 32 bits.
//!
//! Either way the memory is the kernel's own temporary file system; what differs is the name.
//! Anonymous shared memory is called `/dev/zero (deleted)`, and that is one of the few names for
//! which `perf` looks up functions in a perf map. A mapping called `/memfd:…` it takes for a file
//! that it cannot find. And there is no file to be limited in size, no descriptor, and no policy
//! against `memfd_create`.

use std::fs::File;
use std::io;
use std::ptr;

use super::{Access, Place, Refused, Result, Span, unix};
use crate::sys::code_file;
use crate::units::MAX_ALIGN;

/// What the views are made from.
#[derive(Debug)]
pub(crate) enum SharedMemory {
    Anonymous(Source),
    File(File),
}

/// A mapping of the first page, there to be duplicated; the views keep the memory. Executable and
/// never writable, so that views can become what they are to be under a policy that lets nothing
/// become executable that was not before (`PR_SET_MDWE`).
#[derive(Debug)]
pub(crate) struct Source(Span);

// SAFETY: the pages are reached through the views alone.
unsafe impl Send for Source {}
// SAFETY: as for `Send`.
unsafe impl Sync for Source {}

impl Drop for Source {
    fn drop(&mut self) {
        // SAFETY: the mapping is nobody else's. Should it be refused, some address space stays
        // behind.
        let _ = unsafe { unix::release(self.0) };
    }
}

impl Source {
    fn new(len: usize) -> Result<Self> {
        let (access, flags) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the system's choice.
        let got = unsafe { libc::mmap(ptr::null_mut(), len, access, flags | libc::MAP_NORESERVE, -1, 0) };
        let mut source = Self(unix::mapped(got, len)?);
        let page = unix::page_size();
        if let Some(rest) = len.checked_sub(page).filter(|rest| *rest > 0) {
            // The memory is as long as the first mapping of it was, and a duplicate as long as is
            // asked for. So that address space, which may be limited, is needed for the views
            // alone, one page stays.
            // SAFETY: inside the mapping.
            let start = unsafe { source.0.start.add(page) };
            // SAFETY: mapped just now and given to nobody.
            if unsafe { unix::release(Span { start, len: rest }) }.is_ok() {
                source.0.len = page;
            }
        }
        // Emulators may not know that a length of 0 is something else: then there is no duplicate,
        // or not of these pages.
        let page = unix::map(page)?;
        let duplicated = source.duplicate(page);
        // SAFETY: mapped just now and given to nobody, whichever mapping is there.
        unsafe { unix::release(page)? };
        duplicated?;
        Ok(source)
    }

    /// The first pages of the memory in place of others of ours that nobody uses.
    fn duplicate(&self, at: Span) -> Result<Span> {
        // `MREMAP_MAYMOVE | MREMAP_FIXED`, from the kernel's `linux/mman.h`; the `libc` crate has
        // neither these nor the call for Android.
        const MOVE_TO: libc::c_long = 1 | 2;
        let (from, to, old_len) = (self.0.start.as_ptr(), at.start.as_ptr(), 0 as libc::c_long);
        // SAFETY: what it replaces is the caller's and unused; the source stays as it is.
        match unsafe { libc::syscall(libc::SYS_mremap, from, old_len, at.len, MOVE_TO, to) } {
            -1 => Err(Refused::last("mremap").of(at.len)),
            made if made as usize == at.address() => Ok(at),
            _ => Err(Refused::new("mremap", io::ErrorKind::Unsupported.into())),
        }
    }
}

pub(super) fn share(len: usize) -> Result<SharedMemory> {
    // qemu 10 as an emulator of 32-bit programs ends itself at such a call ("Assertion
    // `start <= last' failed").
    let source = if cfg!(target_pointer_width = "64") { Source::new(len).ok() } else { None };
    if let Some(source) = source {
        return Ok(SharedMemory::Anonymous(source));
    }
    let file = code_file::memory_file(c"gaia-jit", 0)?;
    code_file::check_file_size(len)?;
    file.set_len(len as u64).map_err(|e| Refused::new("ftruncate", e).of(len))?;
    Ok(SharedMemory::File(file))
}

pub(super) fn map_executable(memory: &SharedMemory, place: &Place, access: Access) -> Result<Span> {
    let reservation = unix::reserve(place)?;
    // SAFETY: pages of the reservation, made just now and given to nobody.
    let mapped = unsafe { map_at(memory, reservation.code(place), access) };
    mapped.map(|()| reservation).inspect_err(|_| {
        // SAFETY: as above.
        let _ = unsafe { unix::release(reservation) };
    })
}

pub(super) fn map_writable(memory: &SharedMemory, len: usize) -> Result<Span> {
    // Huge pages have to lie alike in both views.
    let span = unix::reserve_aligned(len, MAX_ALIGN)?;
    // Writable only once children do not get it: another thread may fork at any moment.
    // SAFETY: reserved just now and given to nobody.
    let mapped = unsafe { map_at(memory, span, Access::Read) }
        // SAFETY: as above; children are the only ones who lose by the advice.
        .and_then(|()| unsafe { unix::advise(span, libc::MADV_DONTFORK) })
        // SAFETY: as above.
        .and_then(|()| unsafe { unix::protect(span, Access::ReadWrite) });
    mapped.map(|()| span).inspect_err(|_| {
        // SAFETY: mapped just now and given to nobody.
        let _ = unsafe { unix::release(span) };
    })
}

/// # Safety
/// - `span` is whole pages of a reservation of the caller's that nobody uses.
unsafe fn map_at(memory: &SharedMemory, span: Span, access: Access) -> Result<()> {
    match memory {
        SharedMemory::Anonymous(source) => {
            let view = source.duplicate(span)?;
            if !matches!(access, Access::ReadExecute) {
                // SAFETY: passed on to the caller.
                return unsafe { unix::protect(view, access) };
            }
            // It is executable, as the source is. But `mremap` tells `perf record` nothing, while
            // `mprotect` does.
            // SAFETY: passed on to the caller.
            if unsafe { told(view) }.is_err() {
                // Not under that policy.
                source.duplicate(span)?;
            }
            Ok(())
        }
        // SAFETY: passed on to the caller.
        SharedMemory::File(file) => unsafe { unix::map_shared_at(file, span, access) },
    }
}

/// Takes the right to execute away and gives it back.
///
/// # Safety
/// - `span` is whole pages of a view of the caller's that nobody uses.
unsafe fn told(span: Span) -> Result<()> {
    // SAFETY: passed on to the caller.
    match unsafe { libc::mprotect(span.start.as_ptr().cast(), span.len, libc::PROT_READ) } {
        // SAFETY: passed on to the caller.
        0 => unsafe { unix::protect(span, Access::ReadExecute) },
        _ => Err(Refused::last("mprotect")),
    }
}
