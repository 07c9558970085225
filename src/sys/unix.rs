//! What all Unix systems share.

use std::io;
use std::ptr::NonNull;

use super::gaps::candidates;
use super::{Access, Place, Refused, Result, Span};

/// A span from what `mmap` returned.
fn mapped(address: *mut libc::c_void, len: usize) -> Result<Span> {
    match NonNull::new(address.cast()) {
        Some(start) if address != libc::MAP_FAILED => Ok(Span { start, len }),
        _ => Err(Refused::last("mmap")),
    }
}

pub(super) fn map(len: usize) -> Result<Span> {
    let map = memmap2::MmapRaw::from(memmap2::MmapMut::map_anon(len).map_err(|e| Refused::new("mmap", e))?);
    let start =
        NonNull::new(map.as_mut_ptr()).ok_or_else(|| Refused::new("mmap", io::ErrorKind::OutOfMemory.into()))?;
    // Out of `memmap2`'s hands: dropped there, a failed `munmap` would be ignored.
    std::mem::forget(map);
    Ok(Span { start, len })
}

/// `len` bytes without access, at `hint` or (with `flags` 0) wherever the system likes.
fn reserve_at(hint: usize, len: usize, flags: libc::c_int) -> Result<Span> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_NORESERVE | flags;
    // SAFETY: a new mapping at an address of the system's choice, or (by the flags) only where nothing is mapped.
    mapped(unsafe { libc::mmap(std::ptr::without_provenance_mut(hint), len, libc::PROT_NONE, flags, -1, 0) }, len)
}

pub(super) fn reserve(place: &Place, no_replace: libc::c_int) -> Result<Span> {
    let len = place.total();
    let Some(within) = &place.within else { return reserve_at(0, len, 0) };
    // Another thread may take a gap before we do; then the next one serves, or another look at them all.
    for _ in 0..4 {
        for start in candidates(len, within, region::page::size())? {
            if let Ok(span) = reserve_at(start, len, no_replace) {
                if within.start <= span.address() && span.address() + len <= within.end {
                    return Ok(span);
                }
                // SAFETY: mapped just now and given to nobody.
                unsafe { release(span)? };
            }
        }
    }
    Err(Refused::new("mmap", io::ErrorKind::AddrNotAvailable.into()))
}

/// # Safety
/// - As for [`super::Os::protect`].
pub(super) unsafe fn protect(span: Span, access: Access) -> Result<()> {
    let protection = match access {
        Access::ReadWrite => region::Protection::READ_WRITE,
        Access::ReadExecute => region::Protection::READ_EXECUTE,
    };
    // SAFETY: passed on to the caller.
    unsafe { region::protect(span.start.as_ptr(), span.len, protection) }
        .map_err(|e| Refused::new("mprotect", e.into()))
}

/// # Safety
/// - As for [`super::Os::release`].
pub(super) unsafe fn release(span: Span) -> Result<()> {
    // SAFETY: passed on to the caller.
    match unsafe { libc::munmap(span.start.as_ptr().cast(), span.len) } {
        0 => Ok(()),
        _ => Err(Refused::last("munmap")),
    }
}

/// # Safety
/// - `span` is whole pages of a mapping of the caller's.
/// - What `advice` does to their contents harms nobody.
pub(super) unsafe fn advise(span: Span, advice: libc::c_int) -> Result<()> {
    // SAFETY: passed on to the caller.
    match unsafe { libc::madvise(span.start.as_ptr().cast(), span.len, advice) } {
        0 => Ok(()),
        _ => Err(Refused::last("madvise")),
    }
}

/// Maps shared memory in place of reserved pages.
///
/// # Safety
/// - `span` is whole pages of a reservation of the caller's that nobody uses.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) unsafe fn map_shared_at(memory: &std::fs::File, span: Span, access: Access) -> Result<()> {
    use std::os::fd::AsRawFd;
    let protection = libc::PROT_READ
        | match access {
            Access::ReadWrite => libc::PROT_WRITE,
            Access::ReadExecute => libc::PROT_EXEC,
        };
    let (start, flags) = (span.start.as_ptr().cast(), libc::MAP_SHARED | libc::MAP_FIXED);
    // SAFETY: passed on to the caller: what this replaces is theirs and unused.
    mapped(unsafe { libc::mmap(start, span.len, protection, flags, memory.as_raw_fd(), 0) }, span.len).map(drop)
}

/// `len` bytes without access at a multiple of `align`, a power of two above the page size.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn reserve_aligned(len: usize, align: usize) -> Result<Span> {
    let refused = || Refused::new("mmap", io::ErrorKind::OutOfMemory.into());
    let whole = reserve_at(0, len.checked_add(align).ok_or_else(refused)?, 0)?;
    let skip = whole.address().wrapping_neg() & (align - 1);
    // SAFETY: `skip` is less than `align`, by which the reservation exceeds `len`.
    let start = unsafe { whole.start.add(skip) };
    // SAFETY: as above.
    let end = unsafe { start.add(len) };
    for (from, len) in [(whole.start, skip), (end, align - skip)] {
        if len > 0 {
            // SAFETY: an end of the reservation, mapped just now and given to nobody. Should it be refused, some
            // address space without access stays behind.
            let _ = unsafe { release(Span { start: from, len }) };
        }
    }
    Ok(Span { start, len })
}
