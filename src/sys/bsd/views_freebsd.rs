//! FreeBSD: an anonymous shared memory object that is mapped twice.

use std::fs::File;
use std::os::fd::FromRawFd;

use super::{Place, Result, Span};
use crate::sys::{Access, Refused, unix};
use crate::units::MAX_ALIGN;

/// The object. The mappings keep the memory. The descriptor is needed only to make them, and is
/// closed on `exec`.
#[derive(Debug)]
pub(crate) struct SharedMemory(File);

pub(super) fn share(len: usize) -> Result<SharedMemory> {
    // SAFETY: the constant stands for no name. The call has no other requirement.
    let file = match unsafe { libc::shm_open(libc::SHM_ANON, libc::O_RDWR | libc::O_CLOEXEC, 0) } {
        -1 => return Err(Refused::last("shm_open")),
        // SAFETY: a new descriptor that nobody else owns.
        fd => unsafe { File::from_raw_fd(fd) },
    };
    file.set_len(len as u64).map_err(|e| Refused::new("ftruncate", e).of(len))?;
    Ok(SharedMemory(file))
}

pub(super) fn map_executable(memory: &SharedMemory, place: &Place) -> Result<Span> {
    let reservation = unix::reserve(place)?;
    // SAFETY: pages of the reservation, made just now, and nobody else has it.
    let mapped = unsafe { unix::map_shared_at(&memory.0, reservation.code(place), Access::ReadExecute) };
    kept(reservation, mapped)
}

pub(super) fn map_writable(memory: &SharedMemory, len: usize) -> Result<Span> {
    // Large pages need the same alignment in both views.
    let span = unix::reserve_aligned(len, MAX_ALIGN)?;
    // SAFETY: reserved just now, and nobody else has it.
    let mapped = unsafe { unix::map_shared_at(&memory.0, span, Access::ReadWrite) };
    // SAFETY: as above. It takes the pages from children only.
    kept(span, mapped.and_then(|()| unsafe { unix::inherit(span, libc::INHERIT_NONE) }))
}

/// Returns the span, or the error after the span was released.
fn kept(span: Span, outcome: Result<()>) -> Result<Span> {
    outcome.map(|()| span).inspect_err(|_| {
        // SAFETY: mapped by the caller just now, and nobody else has it.
        let _ = unsafe { unix::release(span) };
    })
}
