//! NetBSD: anonymous shared memory, and a duplicate of its mapping with other permissions.

use super::{Place, Result, Span};
use crate::sync::OnceLock;
use crate::sys::{Access, Refused, unix};

/// The writable view, once it is there: it is what the other one is made from.
#[derive(Debug)]
pub(crate) struct SharedMemory(OnceLock<Span>);

#[allow(clippy::unnecessary_wraps, reason = "as on the other systems")]
pub(super) fn share(_len: usize) -> Result<SharedMemory> {
    Ok(SharedMemory(OnceLock::new()))
}

pub(super) fn map_writable(memory: &SharedMemory, len: usize) -> Result<Span> {
    // Shared: a private mapping would part from its duplicate at the first fork.
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE | unix::LATER, libc::MAP_SHARED | libc::MAP_ANON);
    // SAFETY: a new mapping at an address of the system's choice.
    let got = unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags, -1, 0) };
    let span = unix::mapped(got, len)?;
    // SAFETY: mapped just now; children are the only ones who lose by it.
    unsafe { unix::inherit(span, libc::MAP_INHERIT_NONE) }.inspect_err(|_| {
        // SAFETY: mapped just now and given to nobody.
        let _ = unsafe { unix::release(span) };
    })?;
    Ok(*memory.0.get_or_init(|| span))
}

pub(super) fn map_executable(memory: &SharedMemory, place: &Place) -> Result<Span> {
    let from = *memory.0.get().ok_or_else(|| Refused::new("mremap", std::io::ErrorKind::InvalidInput.into()))?;
    let reservation = unix::reserve(place)?;
    let code = reservation.code(place);
    let flags = libc::MAP_REMAPDUP | libc::MAP_FIXED;
    // SAFETY: duplicates a mapping of ours into pages of the reservation, made just now and given to nobody.
    let got =
        unsafe { libc::mremap(from.start.as_ptr().cast(), from.len, code.start.as_ptr().cast(), code.len, flags) };
    let made = if got == libc::MAP_FAILED { Err(Refused::last("mremap")) } else { Ok(()) };
    // SAFETY: pages of the duplicate, which nobody uses yet. It was as writable as its original until here, at an
    // address that nobody knows, and executable only from here on.
    let executable = made.and_then(|()| unsafe { unix::protect(code, Access::ReadExecute) });
    // SAFETY: children go on running what they inherit.
    let shared = executable.and_then(|()| unsafe { unix::inherit(code, libc::MAP_INHERIT_SHARE) });
    shared.map(|()| reservation).inspect_err(|_| {
        // SAFETY: made just now and given to nobody.
        let _ = unsafe { unix::release(reservation) };
    })
}
