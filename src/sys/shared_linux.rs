//! Memory with two views on Linux and Android.
//!
//! ```text
//! anonymous shared memory: one page mapped (r-x), the source
//!    |-- mremap, old length 0 --> view in the reservation   r-x
//!    `-- mremap, old length 0 --> view elsewhere            rw-, not inherited by children
//! ```
//!
//! The mapping of anonymous shared memory is duplicated by `mremap` with an old length of 0. The
//! kernel then leaves the old mapping in place ("If the value of old_size is zero, and old_address
//! refers to a shareable mapping, then mremap() will create a new mapping of the same pages",
//! mremap(2)). If that is refused, and on 32 bits, a file of `memfd_create` is mapped twice
//! instead.
//!
//! In both cases the memory is the kernel's own temporary file system. The name differs.
//! Anonymous shared memory is called `/dev/zero (deleted)`, which is one of the few names for
//! which `perf` looks up functions in a perf map. It takes a mapping called `/memfd:…` for a
//! file that it cannot find. Besides, without a file there is no limit on its size, no
//! descriptor, and no policy against `memfd_create`.

use std::fs::File;
use std::io;
use std::ptr;

use super::{Access, Place, Refused, Result, Span, unix};
use crate::sys::{code_file, limits};
use crate::units::MAX_ALIGN;

/// The memory from which the views are made.
#[derive(Debug)]
pub(crate) enum SharedMemory {
    Anonymous(Source),
    File(File),
}

/// A mapping of the first page, which is duplicated. The views keep the memory. It is executable
/// and never writable, so that the views can be made under a policy that lets nothing become
/// executable that was not so before (`PR_SET_MDWE`).
#[derive(Debug)]
pub(crate) struct Source(Span);

// SAFETY: the pages are accessed through the views alone.
unsafe impl Send for Source {}
// SAFETY: as for `Send`.
unsafe impl Sync for Source {}

impl Drop for Source {
    fn drop(&mut self) {
        // SAFETY: nobody else has the mapping. If the release is refused, some address space stays
        // mapped.
        let _ = unsafe { unix::release(self.0) };
    }
}

impl Source {
    fn new(len: usize) -> Result<Self> {
        let (access, flags) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address that the system chooses.
        let got = unsafe { libc::mmap(ptr::null_mut(), len, access, flags | libc::MAP_NORESERVE, -1, 0) };
        let mut source = Self(unix::mapped(got, len)?);
        let page = unix::page_size();
        if let Some(rest) = len.checked_sub(page).filter(|rest| *rest > 0) {
            // The memory is as long as its first mapping was, and a duplicate is as long as is
            // asked for. So one page is enough, and address space, which may be limited, is used
            // for the views alone.
            // SAFETY: inside the mapping.
            let start = unsafe { source.0.start.add(page) };
            // SAFETY: mapped just now, and nobody else has it.
            if unsafe { unix::release(Span { start, len: rest }) }.is_ok() {
                source.0.len = page;
            }
        }
        // Emulators may not know the special meaning of a length of 0. Then there is no duplicate,
        // or one of other pages.
        let page = unix::map(page)?;
        let duplicated = source.duplicate(page);
        // SAFETY: mapped just now, and nobody else has it, whichever mapping it is.
        unsafe { unix::release(page)? };
        duplicated?;
        Ok(source)
    }

    /// Maps the first pages of the memory in place of pages that the caller owns and nobody uses.
    fn duplicate(&self, at: Span) -> Result<Span> {
        // `MREMAP_MAYMOVE | MREMAP_FIXED`, from the kernel's `linux/mman.h`. The `libc` crate has
        // neither these nor the call for Android.
        const MOVE_TO: libc::c_long = 1 | 2;
        let (from, to, old_len) = (self.0.start.as_ptr(), at.start.as_ptr(), 0 as libc::c_long);
        // SAFETY: the caller owns the replaced pages, which nobody uses. The source stays as it is.
        match unsafe { libc::syscall(libc::SYS_mremap, from, old_len, at.len, MOVE_TO, to) } {
            -1 => Err(Refused::last("mremap").of(at.len)),
            made if made as usize == at.address() => Ok(at),
            _ => Err(Refused::new("mremap", io::ErrorKind::Unsupported.into())),
        }
    }
}

pub(super) fn share(len: usize) -> Result<SharedMemory> {
    // qemu 10 as an emulator of 32-bit programs ends itself at such a call ("Assertion `start <=
    // last' failed").
    let source = if cfg!(target_pointer_width = "64") { Source::new(len).ok() } else { None };
    if let Some(source) = source {
        return Ok(SharedMemory::Anonymous(source));
    }
    let file = code_file::memory_file(c"gaia-jit", 0)?;
    limits::grow(&file, len)?;
    Ok(SharedMemory::File(file))
}

pub(super) fn map_executable(memory: &SharedMemory, place: &Place, access: Access) -> Result<Span> {
    let reservation = unix::reserve(place)?;
    // SAFETY: pages of the reservation, made just now, and nobody else has it.
    let mapped = unsafe { map_at(memory, reservation.code(place), access) };
    mapped.map(|()| reservation).inspect_err(|_| {
        // SAFETY: as above.
        let _ = unsafe { unix::release(reservation) };
    })
}

pub(super) fn map_writable(memory: &SharedMemory, len: usize) -> Result<Span> {
    // Huge pages need the same alignment in both views.
    let span = unix::reserve_aligned(len, MAX_ALIGN)?;
    // It becomes writable only after children do not inherit it, because another thread may fork at
    // any moment.
    // SAFETY: reserved just now, and nobody else has it.
    let mapped = unsafe { map_at(memory, span, Access::Read) }
        // SAFETY: as above. The advice takes the pages from children only.
        .and_then(|()| unsafe { unix::advise(span, libc::MADV_DONTFORK) })
        // SAFETY: as above.
        .and_then(|()| unsafe { unix::protect(span, Access::ReadWrite) });
    mapped.map(|()| span).inspect_err(|_| {
        // SAFETY: mapped just now, and nobody else has it.
        let _ = unsafe { unix::release(span) };
    })
}

/// Maps the memory over reserved pages.
///
/// # Safety
/// - `span` is whole pages of a reservation that the caller owns, and nobody uses them.
unsafe fn map_at(memory: &SharedMemory, span: Span, access: Access) -> Result<()> {
    match memory {
        SharedMemory::Anonymous(source) => {
            let view = source.duplicate(span)?;
            if !matches!(access, Access::ReadExecute) {
                // SAFETY: passed on to the caller.
                return unsafe { unix::protect(view, access) };
            }
            // It is executable, as the source is. But `perf record` does not see `mremap`, while it
            // sees `mprotect`.
            // SAFETY: passed on to the caller.
            if unsafe { report_to_perf(view) }.is_err() {
                // Not possible under that policy.
                source.duplicate(span)?;
            }
            Ok(())
        }
        // SAFETY: passed on to the caller.
        SharedMemory::File(file) => unsafe { unix::map_shared_at(file, span, access) },
    }
}

/// Takes the right to execute away and gives it back, so that `perf record` sees the mapping.
///
/// # Safety
/// - `span` is whole pages of a view that the caller owns, and nobody uses them.
unsafe fn report_to_perf(span: Span) -> Result<()> {
    // SAFETY: passed on to the caller.
    match unsafe { libc::mprotect(span.start.as_ptr().cast(), span.len, libc::PROT_READ) } {
        // SAFETY: passed on to the caller.
        0 => unsafe { unix::protect(span, Access::ReadExecute) },
        _ => Err(Refused::last("mprotect")),
    }
}
