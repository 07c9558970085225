//! Placeholders: reserved address space in which a view replaces a part. There is no moment in
//! between in which another thread could take that part. Windows has them since version 10, 1803.
//! They are looked for at run time, because programs that ask the loader for them do not start on
//! older systems.

use std::ffi::c_void;

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleW, GetProcAddress};
use windows_sys::Win32::System::Memory::{
    MEM_EXTENDED_PARAMETER, MEM_PRESERVE_PLACEHOLDER, MEM_RELEASE, MEM_REPLACE_PLACEHOLDER, MEM_RESERVE,
    MEM_RESERVE_PLACEHOLDER, MEMORY_MAPPED_VIEW_ADDRESS, PAGE_EXECUTE_READ, PAGE_NOACCESS, VIRTUAL_ALLOCATION_TYPE,
};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

use super::{GRANULARITY, Native, Place, Result, Span, calls, release_or_park, reserve_with};
use crate::sync::OnceLock;

type VirtualAlloc2 = unsafe extern "system" fn(
    process: HANDLE,
    base: *const c_void,
    size: usize,
    kind: VIRTUAL_ALLOCATION_TYPE,
    protection: u32,
    parameters: *mut MEM_EXTENDED_PARAMETER,
    count: u32,
) -> *mut c_void;

type MapViewOfFile3 = unsafe extern "system" fn(
    section: HANDLE,
    process: HANDLE,
    base: *const c_void,
    offset: u64,
    size: usize,
    kind: VIRTUAL_ALLOCATION_TYPE,
    protection: u32,
    parameters: *mut MEM_EXTENDED_PARAMETER,
    count: u32,
) -> MEMORY_MAPPED_VIEW_ADDRESS;

#[derive(Clone, Copy)]
pub(super) struct Calls {
    allocate: VirtualAlloc2,
    map_view: MapViewOfFile3,
}

/// Returns the calls, if the system has them and they work. An emulation may know only the names of
/// the first ones.
pub(super) fn calls() -> Option<Calls> {
    static CALLS: OnceLock<Option<Calls>> = OnceLock::new();
    *CALLS.get_or_init(|| {
        // SAFETY: a name that ends with a zero. The library is in every process and is never
        // unloaded.
        let library = unsafe { GetModuleHandleW(windows_sys::w!("kernelbase.dll")) };
        // SAFETY: as above. A library that does not exist has no such function either.
        let allocate = unsafe { GetProcAddress(library, windows_sys::s!("VirtualAlloc2")) }?;
        // SAFETY: as above.
        let map_view = unsafe { GetProcAddress(library, windows_sys::s!("MapViewOfFile3")) }?;
        let calls = Calls {
            // SAFETY: the type is that of the function's documentation.
            allocate: unsafe { std::mem::transmute::<unsafe extern "system" fn() -> isize, VirtualAlloc2>(allocate) },
            // SAFETY: as above.
            map_view: unsafe { std::mem::transmute::<unsafe extern "system" fn() -> isize, MapViewOfFile3>(map_view) },
        };
        let tried = calls.reserve(0, GRANULARITY).ok()?;
        // SAFETY: reserved just now, and nobody else has it.
        unsafe { release_or_park(&Native, tried) };
        Some(calls)
    })
}

/// Reserves address space, and maps all of a section for executing in its middle.
pub(super) fn map(calls: Calls, section: HANDLE, place: &Place) -> Result<Span> {
    let whole = reserve_with(place, |at| calls.reserve(at, place.total()))?;
    let code = whole.code(place);
    // SAFETY: part of a placeholder made just now, which is split around it.
    let split = unsafe { calls::free(code, MEM_RELEASE | MEM_PRESERVE_PLACEHOLDER) };
    // SAFETY: now the code is a placeholder by itself.
    let mapped = split.and_then(|()| unsafe { calls.replace(section, code) });
    let mapped = mapped.and_then(|()| match place.data_len() {
        0 => Ok(()),
        // The part behind the code becomes an ordinary reservation, in which pages can be
        // committed.
        _ => {
            // SAFETY: the end of the code, inside the reservation.
            let start = unsafe { code.start.add(code.len) };
            let len = whole.address() + whole.len - (code.address() + code.len);
            // SAFETY: the whole rest of the placeholder, because the code was split off.
            unsafe { calls.renew(Span { start, len }) }
        }
    });
    mapped.map(|()| whole).inspect_err(|_| {
        // SAFETY: made just now, and nobody else has it.
        unsafe { release_or_park(&Native, whole) };
    })
}

impl Calls {
    fn reserve(self, at: usize, len: usize) -> Result<Span> {
        let kind = MEM_RESERVE | MEM_RESERVE_PLACEHOLDER;
        let base = std::ptr::without_provenance(at);
        // SAFETY: a pseudo-handle, always valid.
        let process = unsafe { GetCurrentProcess() };
        // SAFETY: it reserves address space, and fails where something is mapped. There are no
        // further parameters.
        let got = unsafe { (self.allocate)(process, base, len, kind, PAGE_NOACCESS, std::ptr::null_mut(), 0) };
        calls::made("VirtualAlloc2", got, len)
    }

    /// Makes an ordinary reservation of a placeholder.
    ///
    /// # Safety
    /// - `span` is a whole placeholder that the caller owns.
    unsafe fn renew(self, span: Span) -> Result<()> {
        let kind = MEM_RESERVE | MEM_REPLACE_PLACEHOLDER;
        let start = span.start.as_ptr().cast_const().cast();
        // SAFETY: a pseudo-handle, always valid.
        let process = unsafe { GetCurrentProcess() };
        // SAFETY: passed on to the caller. There are no further parameters.
        let got = unsafe { (self.allocate)(process, start, span.len, kind, PAGE_NOACCESS, std::ptr::null_mut(), 0) };
        calls::made("VirtualAlloc2", got, span.len).map(drop)
    }

    /// Maps a section in place of a placeholder.
    ///
    /// # Safety
    /// - `span` is a whole placeholder that the caller owns.
    unsafe fn replace(self, section: HANDLE, span: Span) -> Result<()> {
        let (start, none) = (span.start.as_ptr().cast(), std::ptr::null_mut());
        let kind = MEM_REPLACE_PLACEHOLDER;
        // SAFETY: a pseudo-handle, always valid.
        let process = unsafe { GetCurrentProcess() };
        // SAFETY: passed on to the caller. There are no further parameters.
        let got = unsafe { (self.map_view)(section, process, start, 0, span.len, kind, PAGE_EXECUTE_READ, none, 0) };
        calls::made("MapViewOfFile3", got.Value, span.len).map(drop)
    }
}
