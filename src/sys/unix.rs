//! The calls that all Unix systems share.
//!
//! - *Reservations*: private memory without access. It costs no memory, and no commit on systems
//!   that count commits (`MAP_NORESERVE`). Near an address, one candidate after another is tried
//!   (`gaps`).
//! - *Protections*: `mprotect` by whole pages.
//! - *Views* of a file: shared mappings, anywhere or in the place of reserved pages.
//! - *Fresh pages*: a new private mapping in the place of old pages, which drops their content.
//!
//! Each function makes one call and returns its error with the name of the call and the bytes. What
//! differs from system to system is in the files of the systems.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use super::gaps::{Taken, blind, candidates};
use super::place::Near;
use super::{Access, Place, Refused, Result, Span};
use crate::sync::{AtomicUsize, Ordering};

/// The flag that keeps `mmap` from replacing a mapping. Without it the address is a hint.
const NO_REPLACE: libc::c_int = {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // `MAP_FIXED_NOREPLACE`, from the kernel's `asm-generic/mman-common.h`. The `libc` crate
        // does not have it for Android.
        0x10_0000
    }
    #[cfg(target_os = "freebsd")]
    {
        libc::MAP_FIXED | libc::MAP_EXCL
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    {
        0
    }
};

/// The flag that keeps address space from counting as memory.
const NO_RESERVE: libc::c_int = {
    #[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
    {
        // Not known there. Address space without access does not count.
        0
    }
    #[cfg(not(any(target_os = "freebsd", target_os = "dragonfly")))]
    {
        libc::MAP_NORESERVE
    }
};

/// The part of `mmap`'s protection that says what `mprotect` may set later. On NetBSD it is
/// `PROT_MPROTECT`, without which PaX MPROTECT refuses to make executable what was writable. On
/// FreeBSD it is `PROT_MAX`, without which `vm.imply_prot_max` refuses it. It allows one *or* the
/// other; both at once stay refused (`mmap(2)` of both systems).
pub(super) const LATER: libc::c_int = {
    let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    if cfg!(target_os = "netbsd") {
        all << 3
    } else if cfg!(target_os = "freebsd") {
        all << 16
    } else {
        0
    }
};

/// Returns the bytes of a page. It is asked for once. There is no lock, because a forked child
/// could inherit it in the locked state.
pub(super) fn page_size() -> usize {
    static KNOWN: AtomicUsize = AtomicUsize::new(0);
    let known = KNOWN.load(Ordering::Relaxed);
    if known > 0 {
        return known;
    }
    // SAFETY: it takes a number only.
    let asked = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let size = usize::try_from(asked).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096);
    KNOWN.store(size, Ordering::Relaxed);
    size
}

/// Returns the span that `mmap` mapped, or its error.
pub(super) fn mapped(address: *mut libc::c_void, len: usize) -> Result<Span> {
    match NonNull::new(address.cast()) {
        Some(start) if address != libc::MAP_FAILED => Ok(Span { start, len }),
        _ => Err(Refused::last("mmap").of(len)),
    }
}

pub(super) fn map(len: usize) -> Result<Span> {
    if LATER != 0 {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE | LATER, libc::MAP_PRIVATE | libc::MAP_ANON);
        // SAFETY: a new mapping at an address that the system chooses.
        return mapped(unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags, -1, 0) }, len);
    }
    let map = memmap2::MmapRaw::from(memmap2::MmapMut::map_anon(len).map_err(|e| Refused::new("mmap", e).of(len))?);
    let start =
        NonNull::new(map.as_mut_ptr()).ok_or_else(|| Refused::new("mmap", io::ErrorKind::OutOfMemory.into()))?;
    // Taken from `memmap2`, because its drop would ignore a failed `munmap`.
    std::mem::forget(map);
    Ok(Span { start, len })
}

/// Reserves `len` bytes at `hint`, or (without a flag that forbids it) wherever the system chooses.
fn reserve_at(hint: usize, len: usize, access: libc::c_int, flags: libc::c_int) -> Result<Span> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON | flags;
    // SAFETY: a new mapping at an address that the system chooses, or (by the flags) only where
    // nothing is mapped.
    mapped(unsafe { libc::mmap(std::ptr::without_provenance_mut(hint), len, access, flags, -1, 0) }, len)
}

/// Replaces private pages by fresh pages without access. Their memory is given back at once.
///
/// It is for systems where no advice does that. There `MADV_FREE` takes the memory only when the
/// system needs some, and counts it to the process until then. `MADV_DONTNEED` keeps the contents
/// there. Mapping over our own pages is one step under the lock of the address space, so no other
/// thread can map anything in between.
///
/// # Safety
/// - As for [`super::Os::decommit`].
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) unsafe fn renew(span: Span) -> Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON | NO_RESERVE | libc::MAP_FIXED;
    // SAFETY: passed on to the caller, who owns the replaced pages. Nobody needs their content.
    let got = unsafe { libc::mmap(span.start.as_ptr().cast(), span.len, libc::PROT_NONE | LATER, flags, -1, 0) };
    mapped(got, span.len).map(drop)
}

/// Sets what a forked child inherits of pages.
///
/// # Safety
/// - `span` is whole pages of a mapping that the caller owns. No child needs more of them than
///   `how` leaves to it.
#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
))]
pub(super) unsafe fn inherit(span: Span, how: libc::c_int) -> Result<()> {
    // SAFETY: passed on to the caller.
    match unsafe { libc::minherit(span.start.as_ptr().cast(), span.len, how) } {
        0 => Ok(()),
        _ => Err(Refused::last("minherit")),
    }
}

pub(super) fn reserve(place: &Place) -> Result<Span> {
    reserve_as(place, libc::PROT_NONE | LATER, NO_RESERVE)
}

/// Reserves address space as [`reserve`] does, with access and with more flags of `mmap`.
pub(super) fn reserve_as(place: &Place, access: libc::c_int, flags: libc::c_int) -> Result<Span> {
    let len = place.total();
    let Some(Near { address, within }) = place.is_near() else {
        let whole = reserve_at(0, place.anywhere(), access, flags).map_err(|refused| refused.of(len))?;
        return Ok(cut(whole, place));
    };
    let none = || Refused::new("mmap", io::ErrorKind::AddrNotAvailable.into());
    let (mut refused, mut any_taken) = (none(), false);
    // Another thread may take a gap first. Then the next gap is tried, or all gaps are listed
    // again.
    for _ in 0..4 {
        let (starts, unknown) = match taken(within) {
            Ok(taken) => (candidates(place, *address, within, &taken), None),
            Err(unknown) => (blind(place, *address, within), Some(unknown)),
        };
        for start in starts {
            match reserve_at(start, len, access, flags | NO_REPLACE) {
                Ok(span) if span.address() == start => return Ok(span),
                // Without a flag for it, the system maps elsewhere.
                // SAFETY: mapped just now, and nobody else has it.
                Ok(span) => unsafe { release(span)? },
                Err(other) if is_taken(&other.source) => any_taken = true,
                // The address is not the reason.
                Err(other) => refused = other,
            }
        }
        if let Some(unknown) = unknown.filter(|_| refused.source.kind() == io::ErrorKind::AddrNotAvailable) {
            return Err(unknown);
        }
    }
    // If some places were only taken by other mappings, a lack of memory is not what kept the
    // others from being used.
    Err(if any_taken { none() } else { refused })
}

/// Returns whether an address was refused because something else is mapped there.
fn is_taken(refused: &io::Error) -> bool {
    // FreeBSD has the same answer for that and for a lack of memory (`MAP_EXCL` in mmap(2)).
    let answer = if cfg!(target_os = "freebsd") { libc::ENOMEM } else { libc::EEXIST };
    refused.raw_os_error() == Some(answer)
}

/// Releases the parts of a reservation that are not needed.
fn cut(whole: Span, place: &Place) -> Span {
    let first = place.start_after(whole.address()).unwrap_or(whole.address());
    let before = first - whole.address();
    let behind = whole.len - before - place.total();
    // SAFETY: `before` is less than the alignment, by which the reservation is larger than what is
    // needed.
    let start = unsafe { whole.start.add(before) };
    // SAFETY: as above.
    let end = unsafe { start.add(place.total()) };
    for (start, len) in [(whole.start, before), (end, behind)] {
        if len > 0 {
            // SAFETY: an end of the reservation, mapped just now, and nobody else has it. If the
            // release is refused, some address space without access stays mapped.
            let _ = unsafe { release(Span { start, len }) };
        }
    }
    Span { start, len: place.total() }
}

/// Returns the address space that is in use.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn taken(_within: &Range<usize>) -> Result<Vec<Taken>> {
    let list = super::maps::mappings()?;
    let taken = |mapping: &super::maps::Mapping| Taken {
        start: mapping.start,
        end: mapping.end,
        grows_up: mapping.is_heap,
        grows_down: mapping.is_stack,
    };
    Ok(list.iter().map(taken).collect())
}

/// Returns the address space that is in use.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn taken(within: &Range<usize>) -> Result<Vec<Taken>> {
    super::gaps::query(within)
}

/// Sets the protection of pages.
///
/// # Safety
/// - As for [`super::Os::protect`].
pub(super) unsafe fn protect(span: Span, access: Access) -> Result<()> {
    // The `region` crate is not used, because it does not know landing pads, and takes a lock to
    // get the size of a page.
    let protection = match access {
        Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        Access::ReadExecute => libc::PROT_READ | libc::PROT_EXEC,
        Access::Read => libc::PROT_READ,
        Access::ReadExecuteLanding => LANDING,
    };
    // SAFETY: passed on to the caller.
    match unsafe { libc::mprotect(span.start.as_ptr().cast(), span.len, protection) } {
        0 => Ok(()),
        _ => Err(Refused::last("mprotect").of(span.len)),
    }
}

/// The protection with `PROT_BTI` (which the builder refuses elsewhere), from the kernel's
/// `asm/mman.h` for AArch64. The `libc` crate does not have it.
const LANDING: libc::c_int = libc::PROT_READ | libc::PROT_EXEC | 0x10;

/// Unmaps a span.
///
/// # Safety
/// - As for [`super::Os::release`].
pub(super) unsafe fn release(span: Span) -> Result<()> {
    // SAFETY: passed on to the caller.
    match unsafe { libc::munmap(span.start.as_ptr().cast(), span.len) } {
        0 => Ok(()),
        _ => Err(Refused::last("munmap")),
    }
}

/// Gives advice about pages.
///
/// # Safety
/// - `span` is whole pages of a mapping that the caller owns.
/// - The effect of `advice` on their content harms nobody.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) unsafe fn advise(span: Span, advice: libc::c_int) -> Result<()> {
    // SAFETY: passed on to the caller.
    match unsafe { libc::madvise(span.start.as_ptr().cast(), span.len, advice) } {
        0 => Ok(()),
        _ => Err(Refused::last("madvise")),
    }
}

/// Maps fresh private memory in place of private pages.
///
/// # Safety
/// - `span` is whole pages of a private mapping that the caller owns. Nobody needs their content.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) unsafe fn map_private_at(span: Span, access: Access) -> Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON | NO_RESERVE | libc::MAP_FIXED;
    // SAFETY: passed on to the caller, who owns the replaced pages. Nobody needs their content.
    let got = unsafe { libc::mmap(span.start.as_ptr().cast(), span.len, protection(access), flags, -1, 0) };
    mapped(got, span.len).map(drop)
}

/// Maps shared memory in place of reserved pages.
///
/// # Safety
/// - `span` is whole pages of a reservation that the caller owns, and nobody uses them.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
pub(super) unsafe fn map_shared_at(memory: &std::fs::File, span: Span, access: Access) -> Result<()> {
    use std::os::fd::AsRawFd;
    let (start, flags) = (span.start.as_ptr().cast(), libc::MAP_SHARED | libc::MAP_FIXED);
    let protection = protection(access);
    // SAFETY: passed on to the caller, who owns the replaced pages. Nobody uses them.
    mapped(unsafe { libc::mmap(start, span.len, protection, flags, memory.as_raw_fd(), 0) }, span.len).map(drop)
}

/// Maps shared memory wherever the system chooses.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn map_shared(memory: &std::fs::File, len: usize, access: Access) -> Result<Span> {
    use std::os::fd::AsRawFd;
    let (start, protection) = (std::ptr::null_mut(), protection(access));
    // SAFETY: a new mapping at an address that the system chooses.
    mapped(unsafe { libc::mmap(start, len, protection, libc::MAP_SHARED, memory.as_raw_fd(), 0) }, len)
}

/// Returns the protection with which shared memory is mapped.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn protection(access: Access) -> libc::c_int {
    let protection = match access {
        Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        Access::ReadExecute => libc::PROT_READ | libc::PROT_EXEC,
        Access::ReadExecuteLanding => LANDING,
        Access::Read => libc::PROT_READ,
    };
    // `PROT_MAX`: this protection, and never another one.
    if cfg!(target_os = "freebsd") { protection | protection << 16 } else { protection }
}

/// Returns an address that is chosen at random. Mappings that are made one after another also lie
/// one after another, so the address of one view would reveal the other's. The address lies between
/// 1/8 and all of the space below the largest power of two below the stack. Systems fill that half
/// of the address space last.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn anywhere() -> usize {
    use std::hash::{BuildHasher, RandomState};
    let stack = first_stack();
    // The system seeds it for each process, differently each time.
    let random = RandomState::new().hash_one(stack) as usize;
    let top = 1 << stack.ilog2();
    (top / 8 + random % (top / 8 * 7)) & !(page_size() - 1)
}

/// Returns the place of the first stack of the process, near the end of the address space. Other
/// stacks lie where the program puts them.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn first_stack() -> usize {
    // SAFETY: it takes a number only. It returns the address of 16 bytes there (`getauxval(3)`), or
    // 0.
    let there = unsafe { libc::getauxval(libc::AT_RANDOM) } as usize;
    if there == 0 { (&raw const there).addr() } else { there }
}

#[cfg(target_os = "freebsd")]
fn first_stack() -> usize {
    let (mut end, mut len) = (0_usize, size_of::<usize>());
    // SAFETY: the name of a number of this length, which is valid for the call to write to. Nothing
    // is set.
    let got = unsafe {
        libc::sysctlbyname(c"kern.usrstack".as_ptr(), (&raw mut end).cast(), &raw mut len, std::ptr::null(), 0)
    };
    if got != 0 || end < 2 { (&raw const end).addr() } else { end - 1 }
}

/// Maps `len` bytes without access at the first of these addresses where nothing else is mapped, or
/// wherever the system chooses.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn reserve_at_one_of(mut addresses: impl Iterator<Item = usize>, len: usize) -> Result<Span> {
    // FreeBSD adds to a hint.
    let exactly = if cfg!(target_os = "freebsd") { NO_REPLACE } else { 0 };
    let try_at = |hint, flags| reserve_at(hint, len, libc::PROT_NONE | LATER, NO_RESERVE | flags);
    let chosen = addresses.find_map(|address| {
        let got = try_at(address, exactly).ok()?;
        // SAFETY: mapped just now, and nobody else has it.
        (got.address() == address || unsafe { release(got) }.is_err()).then_some(got)
    });
    chosen.map_or_else(|| try_at(0, 0), Ok)
}

/// Maps `len` bytes without access at a multiple of `align`, a power of two above the page size.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
pub(super) fn reserve_aligned(len: usize, align: usize) -> Result<Span> {
    let refused = || Refused::new("mmap", io::ErrorKind::OutOfMemory.into());
    let total = len.checked_add(align).ok_or_else(refused)?;
    // In four gigabytes there is no room for a choice.
    let tries = if cfg!(target_pointer_width = "64") { 16 } else { 0 };
    let whole = reserve_at_one_of(std::iter::repeat_with(anywhere).take(tries), total)?;
    let skip = whole.address().wrapping_neg() & (align - 1);
    // SAFETY: `skip` is less than `align`, by which the reservation is larger than `len`.
    let start = unsafe { whole.start.add(skip) };
    // SAFETY: as above.
    let end = unsafe { start.add(len) };
    for (from, len) in [(whole.start, skip), (end, align - skip)] {
        if len > 0 {
            // SAFETY: an end of the reservation, mapped just now, and nobody else has it. If the
            // release is refused, some address space without access stays mapped.
            let _ = unsafe { release(Span { start: from, len }) };
        }
    }
    Ok(Span { start, len })
}

#[cfg(all(test, not(loom), target_os = "linux", target_pointer_width = "64"))]
mod tests {
    use super::*;

    const LEN: usize = 1 << 20;

    fn at(address: usize) -> Span {
        reserve_at(address, LEN, libc::PROT_NONE, NO_RESERVE).unwrap()
    }

    fn give_back(span: Span) {
        // SAFETY: mapped by this test, and nobody uses it.
        unsafe { release(span) }.unwrap();
    }

    #[test]
    fn an_address_that_is_taken_is_passed_over() {
        let is_free = |address: &usize| {
            let span = at(*address);
            give_back(span);
            span.address() == *address
        };
        // Some tools leave a program no choice.
        let Some(free) = std::iter::repeat_with(anywhere).take(16).find(is_free) else { return };
        let taken = at(0);
        let got = reserve_at_one_of([taken.address(), free].into_iter(), LEN).unwrap();
        assert_eq!(got.address(), free);
        let elsewhere = reserve_at_one_of([taken.address(), free].into_iter(), LEN).unwrap();
        assert!(![taken.address(), free].contains(&elsewhere.address()));
        [taken, got, elsewhere].into_iter().for_each(give_back);
    }
}
