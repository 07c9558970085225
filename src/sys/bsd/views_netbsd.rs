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

/// How often a place is looked for that no other thread takes meanwhile.
const TRIES: usize = 8;

pub(super) fn map_executable(memory: &SharedMemory, place: &Place) -> Result<Span> {
    let from = *memory.0.get().ok_or_else(|| Refused::new("mremap", std::io::ErrorKind::InvalidInput.into()))?;
    let mut tries = 1;
    loop {
        match duplicate(from, place) {
            Err(_) if tries < TRIES => tries += 1,
            made => return made,
        }
    }
}

/// Reserves address space and duplicates a mapping into the middle of it. `mremap` of a fixed
/// address wants the range to be free (mremap(2)), so the middle is unmapped first. Another thread
/// may take it then: that is an error, and what lies there is its own.
fn duplicate(from: Span, place: &Place) -> Result<Span> {
    let reservation = unix::reserve(place)?;
    let code = reservation.code(place);
    let before = Span { len: code.address() - reservation.address(), ..reservation };
    // SAFETY: the end of the code is inside the reservation.
    let behind = unsafe { code.start.add(code.len) };
    let behind = Span { start: behind, len: reservation.len - before.len - code.len };
    let release = |span| {
        // SAFETY: a part of the reservation, made just now and given to nobody.
        let _ = unsafe { unix::release(span) };
    };
    // SAFETY: as above.
    unsafe { unix::release(code) }.inspect_err(|_| release(reservation))?;
    let (flags, to) = (libc::MAP_REMAPDUP | libc::MAP_FIXED, code.start.as_ptr().cast());
    // SAFETY: duplicates a mapping of ours to addresses where nothing is, or fails.
    let got = unsafe { libc::mremap(from.start.as_ptr().cast(), from.len, to, code.len, flags) };
    if got == libc::MAP_FAILED {
        let refused = Refused::last("mremap").of(code.len);
        release(before);
        release(behind);
        return Err(refused);
    }
    // SAFETY: pages of the duplicate, which nobody uses yet. It was as writable as its original
    // until here, at an address that nobody knows, and executable only from here on.
    let executable = unsafe { unix::protect(code, Access::ReadExecute) };
    // SAFETY: children go on running what they inherit.
    let shared = executable.and_then(|()| unsafe { unix::inherit(code, libc::MAP_INHERIT_SHARE) });
    // Three mappings next to each other, which go with one call.
    shared.map(|()| reservation).inspect_err(|_| release(reservation))
}
