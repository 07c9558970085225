//! NetBSD: anonymous shared memory, and a duplicate of its mapping with other permissions.

use super::{Place, Result, Span};
use crate::sync::OnceLock;
use crate::sys::{Access, Refused, unix};

/// The writable view, if it exists. The other view is made from it.
#[derive(Debug)]
pub(crate) struct SharedMemory(OnceLock<Span>);

#[allow(clippy::unnecessary_wraps, reason = "as on the other systems")]
pub(super) fn share(_len: usize) -> Result<SharedMemory> {
    Ok(SharedMemory(OnceLock::new()))
}

pub(super) fn map_writable(memory: &SharedMemory, len: usize) -> Result<Span> {
    // Shared, because a private mapping would differ from its duplicate after the first fork.
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE | unix::LATER, libc::MAP_SHARED | libc::MAP_ANON);
    // SAFETY: a new mapping at an address that the system chooses.
    let got = unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags, -1, 0) };
    let span = unix::mapped(got, len)?;
    // SAFETY: mapped just now. It takes the pages from children only.
    unsafe { unix::inherit(span, libc::MAP_INHERIT_NONE) }.inspect_err(|_| {
        // SAFETY: mapped just now, and nobody else has it.
        let _ = unsafe { unix::release(span) };
    })?;
    Ok(*memory.0.get_or_init(|| span))
}

/// The number of times that a place is looked for that no other thread takes meanwhile.
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

/// Reserves address space and duplicates a mapping into the middle of it. `mremap` to a fixed
/// address needs a free range (mremap(2)), so the middle is unmapped first. Another thread may map
/// something there in between. That is an error, and its mapping stays.
fn duplicate(from: Span, place: &Place) -> Result<Span> {
    let reservation = unix::reserve(place)?;
    let code = reservation.code(place);
    let before = Span { len: code.address() - reservation.address(), ..reservation };
    // SAFETY: the end of the code is inside the reservation.
    let behind = unsafe { code.start.add(code.len) };
    let behind = Span { start: behind, len: reservation.len - before.len - code.len };
    let release = |span| {
        // SAFETY: a part of the reservation, made just now, and nobody else has it.
        let _ = unsafe { unix::release(span) };
    };
    // SAFETY: as above.
    unsafe { unix::release(code) }.inspect_err(|_| release(reservation))?;
    let (flags, to) = (libc::MAP_REMAPDUP | libc::MAP_FIXED, code.start.as_ptr().cast());
    // SAFETY: duplicates a mapping of ours to addresses where nothing is mapped, or fails.
    let got = unsafe { libc::mremap(from.start.as_ptr().cast(), from.len, to, code.len, flags) };
    if got == libc::MAP_FAILED {
        let refused = Refused::last("mremap").of(code.len);
        release(before);
        release(behind);
        return Err(refused);
    }
    // SAFETY: pages of the duplicate, which nobody uses yet. Until here it was as writable as its
    // original, at an address that nobody knows. It is executable only from here on.
    let executable = unsafe { unix::protect(code, Access::ReadExecute) };
    // SAFETY: children continue to run what they inherit.
    let shared = executable.and_then(|()| unsafe { unix::inherit(code, libc::MAP_INHERIT_SHARE) });
    // Three adjacent mappings, which one call unmaps.
    shared.map(|()| reservation).inspect_err(|_| release(reservation))
}
