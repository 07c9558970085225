//! Windows.
//!
//! ```text
//! Flip      one reservation: pages are committed when they are opened, decommitted by a trim
//! DualMap   section (SEC_RESERVE) --> view in the reservation: read, execute
//!                                 `-> view elsewhere: read, write
//! ```
//!
//! *Private memory* is one reservation. Its pages are committed when they are opened, and
//! decommitted when they are trimmed. Commitment counts against the system's limit, whether it is
//! used or not, so a region must not commit pages that it does not use. There are no mappings to
//! merge, and only memory limits their number.
//!
//! *Shared memory* is a section that is backed by the paging file and mapped twice: for reading and
//! executing inside the reservation (which is made of placeholders if the system has them, see
//! [`placeholder`]), and for reading and writing elsewhere. With `SEC_RESERVE` it costs nothing
//! until its pages are committed. The section allows both kinds of access, but each view is limited
//! to its own for ever: `VirtualProtect` cannot give a view an access for which it was not mapped
//! ("VirtualProtect function", Microsoft Learn). Committed pages stay committed until the section
//! is closed ("VirtualFree function": only private pages can be decommitted).
//!
//! There is no kernel write. `WriteProcessMemory` makes pages writable for a moment if they are
//! not, and so takes the right to execute from running threads.
//!
//! *Control Flow Guard*: pages that are allocated, or first made executable, with `PAGE_EXECUTE_*`
//! contain only valid call targets, unless `PAGE_TARGETS_INVALID` is asked for ("Memory Protection
//! Constants", Microsoft Learn). So programs built with it can call code of an arena, and nothing
//! has to be registered.
//!
//! *Arbitrary Code Guard* (`ProcessDynamicCodePolicy`) refuses all of this with
//! `ERROR_DYNAMIC_CODE_BLOCKED`, which is reported as a lack of permission.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr::{self, NonNull};

use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::System::Memory::{
    CreateFileMappingW, FILE_MAP_EXECUTE, FILE_MAP_READ, FILE_MAP_WRITE, MEM_COMMIT, MEM_DECOMMIT, MEM_RESERVE,
    PAGE_EXECUTE_READ, PAGE_EXECUTE_READWRITE, PAGE_NOACCESS, PAGE_READONLY, PAGE_READWRITE, SEC_RESERVE,
};

use super::gaps::{candidates, query};
use super::place::Near;
use super::{Access, Os, Place, Refused, Result, Span, missing, release_or_park};

mod calls;
mod placeholder;

/// The unit of addresses of allocations and views, on every Windows. It is not the page size.
const GRANULARITY: usize = 64 << 10;

/// The real system.
#[derive(Debug)]
pub(crate) struct Native;

/// A writer through the kernel. It cannot be made here.
#[derive(Debug)]
pub(crate) enum KernelWriter {}

/// A section. The views keep the memory. The handle is needed only to make them, and no child
/// inherits it.
#[derive(Debug)]
pub(crate) struct SharedMemory(OwnedHandle);

/// Makes a reservation by `attempt`, at address 0 (which stands for anywhere), or in the gap
/// nearest to the wanted address.
fn reserve_with(place: &Place, attempt: impl Fn(usize) -> Result<Span>) -> Result<Span> {
    /// The error for a range in which something is already reserved.
    const ERROR_INVALID_ADDRESS: i32 = 487;
    let Some(Near { address, within }) = place.is_near() else { return attempt(0) };
    let mut refused = Refused::new("VirtualAlloc", io::ErrorKind::AddrNotAvailable.into());
    // Another thread may take a gap first. Then the next gap is tried, or all gaps are listed
    // again.
    for _ in 0..4 {
        for start in candidates(place, *address, within, &query(within)?) {
            match attempt(start) {
                Ok(span) => return Ok(span),
                Err(other) if other.source.raw_os_error() == Some(ERROR_INVALID_ADDRESS) => {}
                // The address is not the reason.
                Err(other) => refused = other,
            }
        }
    }
    Err(refused)
}

impl Os for Native {
    fn page_size(&self) -> usize {
        region::page::size()
    }

    fn commits(&self) -> bool {
        true
    }

    fn returns_shared(&self) -> bool {
        false
    }

    fn map(&self, len: usize) -> Result<Span> {
        calls::allocate(0, len, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE)
    }

    fn reserve(&self, place: &Place) -> Result<Span> {
        reserve_with(place, |at| calls::allocate(at, place.total(), MEM_RESERVE, PAGE_NOACCESS))
    }

    unsafe fn protect(&self, span: Span, access: Access) -> Result<()> {
        let protection = match access {
            Access::ReadWrite => PAGE_READWRITE,
            // The builder refuses landing pads here.
            Access::ReadExecute | Access::ReadExecuteLanding => PAGE_EXECUTE_READ,
            Access::Read => PAGE_READONLY,
        };
        // SAFETY: passed on to the caller.
        let Err(refused) = (unsafe { calls::protect(span, protection) }) else { return Ok(()) };
        // The call needs all pages to be committed.
        if access == Access::ReadWrite {
            // SAFETY: passed on to the caller. Committing committed pages changes no contents.
            unsafe { calls::commit(span, protection)? };
            // SAFETY: passed on to the caller.
            return unsafe { calls::protect(span, protection) };
        }
        let committed = calls::committed(span)?;
        if committed == [span] {
            return Err(refused);
        }
        // SAFETY: parts of the caller's pages. The others have no memory, and so no code to run.
        committed.into_iter().try_for_each(|part| unsafe { calls::protect(part, protection) })
    }

    unsafe fn decommit(&self, span: Span) -> Result<()> {
        // SAFETY: passed on to the caller, who does not need the contents any more.
        unsafe { calls::free(span, MEM_DECOMMIT) }
    }

    unsafe fn release(&self, span: Span) -> Result<()> {
        let mut pieces = calls::allocations(span)?.into_iter();
        if let Some(first) = pieces.next() {
            // SAFETY: passed on to the caller.
            unsafe { first.release()? };
        }
        for piece in pieces {
            // The span is not whole any more, so a piece that cannot be released now is parked by
            // itself.
            // SAFETY: passed on to the caller.
            unsafe { release_or_park(&Native, piece.span) };
        }
        Ok(())
    }

    fn open_kernel_writer(&self) -> Result<KernelWriter> {
        missing("kernel write")
    }

    unsafe fn kernel_write(&self, writer: &KernelWriter, _at: NonNull<u8>, _bytes: &[u8]) -> Result<()> {
        match *writer {}
    }

    fn kernel_read(&self, writer: &KernelWriter, _at: NonNull<u8>, _bytes: &mut [u8]) -> Result<()> {
        match *writer {}
    }

    fn share(&self, len: usize) -> Result<SharedMemory> {
        let protection = PAGE_EXECUTE_READWRITE | SEC_RESERVE;
        let (high, low) = ((len as u64 >> 32) as u32, len as u32);
        // SAFETY: no file, no security attributes, no name. It takes numbers otherwise.
        let handle =
            unsafe { CreateFileMappingW(INVALID_HANDLE_VALUE, ptr::null(), protection, high, low, ptr::null()) };
        if handle.is_null() {
            return Err(calls::last("CreateFileMapping"));
        }
        // SAFETY: a new handle that nobody else owns.
        Ok(SharedMemory(unsafe { OwnedHandle::from_raw_handle(handle) }))
    }

    fn map_executable(&self, memory: &SharedMemory, place: &Place, _access: Access) -> Result<Span> {
        match placeholder::calls() {
            Some(calls) => placeholder::map(calls, memory.0.as_raw_handle(), place),
            None => map_in_turn(memory, place),
        }
    }

    fn map_writable(&self, memory: &SharedMemory, len: usize) -> Result<Span> {
        calls::map_view(memory.0.as_raw_handle(), FILE_MAP_READ | FILE_MAP_WRITE, 0, len)
    }

    unsafe fn commit_shared(&self, executable: Span, writable: Span) -> Result<()> {
        // The memory belongs to the section, whichever view it is committed through. Each view has
        // its own protection.
        // SAFETY: passed on to the caller.
        unsafe { calls::commit(writable, PAGE_READWRITE)? };
        // SAFETY: passed on to the caller.
        unsafe { calls::commit(executable, PAGE_EXECUTE_READ) }
    }
}

/// Maps without placeholders (before Windows 10 version 1803): reserves all of the range to find a
/// free one, releases it, and takes it again piece by piece. If another thread takes a piece in
/// between, it starts again elsewhere.
fn map_in_turn(memory: &SharedMemory, place: &Place) -> Result<Span> {
    let mut refused = Refused::new("MapViewOfFileEx", io::ErrorKind::AddrNotAvailable.into());
    for _ in 0..8 {
        let whole = Native.reserve(place)?;
        let code = whole.code(place);
        // SAFETY: reserved just now, and nobody else has it.
        unsafe { Native.release(whole)? };
        let (mut made, end) = (Vec::new(), whole.address() + whole.len);
        let after = (code.address() + code.len).next_multiple_of(GRANULARITY);
        let mut all = || -> Result<()> {
            let before = code.address() - whole.address();
            made.push(calls::allocate(whole.address(), before, MEM_RESERVE, PAGE_NOACCESS)?);
            let handle = memory.0.as_raw_handle();
            made.push(calls::map_view(handle, FILE_MAP_READ | FILE_MAP_EXECUTE, code.address(), code.len)?);
            if after < end {
                made.push(calls::allocate(after, end - after, MEM_RESERVE, PAGE_NOACCESS)?);
            }
            Ok(())
        };
        match all() {
            Ok(()) => return Ok(whole),
            Err(error) => refused = error,
        }
        for span in made {
            // SAFETY: made just now, and nobody else has it.
            unsafe { release_or_park(&Native, span) };
        }
    }
    Err(refused)
}

/// Returns a constant, because nothing forks here.
pub(crate) fn generation() -> u64 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::common::child;

    /// Both ways of mapping give the same result, run the same, and release all of it.
    #[test]
    fn views_lie_in_the_middle_of_a_reservation_that_goes_whole() {
        // In a process of its own, where no other test takes the addresses that are released.
        child::run("views_lie_in_the_middle_of_a_reservation_that_goes_whole", || {
            if placeholder::calls().is_none() {
                eprintln!("this system has no placeholders: not tried");
            }
            let by_placeholder =
                |memory: &SharedMemory, place: &Place| Native.map_executable(memory, place, Access::ReadExecute);
            for map in [by_placeholder, map_in_turn] {
                // Not whole units of allocation: the rest of the last unit belongs to nobody.
                let place = Place::new(37 * Native.page_size(), 0, Native.page_size()).unwrap();
                let memory = Native.share(place.len()).unwrap();
                let writable = Native.map_writable(&memory, place.len()).unwrap();
                let whole = map(&memory, &place).unwrap();
                let code = whole.code(&place);
                drop(memory);
                assert_eq!(code.address() % place.align(), 0);
                for outside in [whole.address(), code.address() - 1, code.address() + code.len] {
                    assert!(calls::committed_at(outside).is_none());
                }
                let page = Native.page_size();
                for at in [0, 5 * page, 36 * page] {
                    let part = |of: Span| {
                        // SAFETY: inside the views.
                        let start = unsafe { of.start.add(at) };
                        Span { start, len: page }
                    };
                    assert!(calls::committed_at(part(code).address()).is_none());
                    // SAFETY: the same page of both views.
                    unsafe { Native.commit_shared(part(code), part(writable)).unwrap() };
                    assert_eq!(calls::committed_at(part(code).address()), Some(PAGE_EXECUTE_READ));
                    assert_eq!(calls::committed_at(part(writable).address()), Some(PAGE_READWRITE));
                    // SAFETY: committed, and nobody else's.
                    unsafe { part(writable).start.write(7) };
                    // SAFETY: as above.
                    assert_eq!(unsafe { part(code).start.read() }, 7);
                    // Neither view can be turned into the other, or into both.
                    for (view, protections) in [
                        (code, [PAGE_READWRITE, PAGE_EXECUTE_READWRITE]),
                        (writable, [PAGE_EXECUTE_READ, PAGE_EXECUTE_READWRITE]),
                    ] {
                        for protection in protections {
                            // SAFETY: nobody uses the page meanwhile.
                            assert!(unsafe { calls::protect(part(view), protection) }.is_err());
                        }
                    }
                }
                // SAFETY: mapped above, and not used any more.
                unsafe { Native.release(whole).unwrap() };
                // SAFETY: as above.
                unsafe { Native.release(writable).unwrap() };
                for span in [whole, writable, code] {
                    assert!(calls::is_free(span.address()));
                }
            }
        });
    }

    /// Sealing pages of which some were never committed makes the others executable, and leaves
    /// those without access.
    #[test]
    fn pages_without_memory_stay_so_when_they_are_sealed() {
        let page = Native.page_size();
        let place = Place::new(8 * page, 0, page).unwrap();
        let whole = Native.reserve(&place).unwrap();
        let code = whole.code(&place);
        let part = |from: usize, pages: usize| {
            // SAFETY: inside the code.
            let start = unsafe { code.start.add(from * page) };
            Span { start, len: pages * page }
        };
        // SAFETY: (here and below) pages of the reservation, which nobody else knows.
        unsafe { Native.protect(part(2, 3), Access::ReadWrite).unwrap() };
        // SAFETY: as above.
        unsafe { Native.protect(code, Access::ReadExecute).unwrap() };
        let found = || (0..8).map(|n| calls::committed_at(part(n, 1).address())).collect::<Vec<_>>();
        let x = Some(PAGE_EXECUTE_READ);
        assert_eq!(found(), [None, None, x, x, x, None, None, None]);
        // Opening works on all of them, and decommitting twice does no harm.
        // SAFETY: as above.
        unsafe { Native.protect(code, Access::ReadWrite).unwrap() };
        assert_eq!(found(), [Some(PAGE_READWRITE); 8]);
        for _ in 0..2 {
            // SAFETY: as above.
            unsafe { Native.decommit(part(1, 5)).unwrap() };
        }
        let w = Some(PAGE_READWRITE);
        assert_eq!(found(), [w, None, None, None, None, None, w, w]);
        // SAFETY: as above.
        unsafe { Native.protect(part(1, 1), Access::ReadWrite).unwrap() };
        // SAFETY: opened just now.
        assert_eq!(unsafe { part(1, 1).start.read() }, 0);
        // SAFETY: as above, and not used any more.
        unsafe { Native.release(whole).unwrap() };
        assert!(calls::is_free(whole.address()) && calls::is_free(code.address()));
    }

    #[test]
    fn a_policy_against_new_code_is_a_lack_of_permission() {
        use windows_sys::Win32::Foundation::{ERROR_DYNAMIC_CODE_BLOCKED, SetLastError};
        // SAFETY: takes a number.
        unsafe { SetLastError(ERROR_DYNAMIC_CODE_BLOCKED) };
        let refused = calls::last("VirtualProtect");
        assert_eq!(refused.source.kind(), io::ErrorKind::PermissionDenied);
        assert!(refused.source.to_string().contains("1655"), "{}", refused.source);
    }
}
