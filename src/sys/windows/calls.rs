//! The calls for memory, each with its error.
//!
//! Windows distinguishes reserved from committed memory, and remembers which call made an
//! allocation: memory is released by the same kind of call, and as a whole.
//!
//! | made by | released by |
//! |---|---|
//! | `VirtualAlloc` (reserve, then commit) | `VirtualFree` |
//! | `MapViewOfFile` of a section | `UnmapViewOfFile` |
//! | a placeholder that was split | `VirtualFree`, piece by piece |
//!
//! So a span is taken apart into its [allocations](allocations) before it is released.

use std::io;
use std::ptr::NonNull;

use windows_sys::Win32::Foundation::{ERROR_DYNAMIC_CODE_BLOCKED, HANDLE};
use windows_sys::Win32::System::Memory::{
    FILE_MAP, MEM_COMMIT, MEM_FREE, MEM_MAPPED, MEM_RELEASE, MEMORY_BASIC_INFORMATION, MEMORY_MAPPED_VIEW_ADDRESS,
    MapViewOfFileEx, PAGE_PROTECTION_FLAGS, UnmapViewOfFile, VIRTUAL_ALLOCATION_TYPE, VIRTUAL_FREE_TYPE, VirtualAlloc,
    VirtualFree, VirtualProtect, VirtualQuery,
};

use super::{Refused, Result, Span};

/// Returns the last error of the system. A policy against generated code becomes a lack of
/// permission, because the standard library does not know that error.
pub(super) fn last(call: &'static str) -> Refused {
    let error = io::Error::last_os_error();
    let blocked = error.raw_os_error() == Some(ERROR_DYNAMIC_CODE_BLOCKED as i32);
    Refused::new(call, if blocked { io::Error::new(io::ErrorKind::PermissionDenied, error) } else { error })
}

fn succeeded(call: &'static str, result: i32) -> Result<()> {
    if result == 0 { Err(last(call)) } else { Ok(()) }
}

pub(super) fn made(call: &'static str, address: *mut core::ffi::c_void, len: usize) -> Result<Span> {
    NonNull::new(address.cast()).map(|start| Span { start, len }).ok_or_else(|| last(call))
}

/// Makes a new allocation at an address where nothing is mapped, or for address 0 anywhere.
pub(super) fn allocate(
    at: usize,
    len: usize,
    kind: VIRTUAL_ALLOCATION_TYPE,
    protection: PAGE_PROTECTION_FLAGS,
) -> Result<Span> {
    // SAFETY: it reserves address space, and fails where something is mapped.
    let got = unsafe { VirtualAlloc(std::ptr::without_provenance(at), len, kind, protection) };
    made("VirtualAlloc", got, len)
}

/// Maps all of a section at an address where nothing is mapped, or for address 0 anywhere.
pub(super) fn map_view(section: HANDLE, access: FILE_MAP, at: usize, len: usize) -> Result<Span> {
    // SAFETY: a new view. It fails where something is mapped.
    let got = unsafe { MapViewOfFileEx(section, access, 0, 0, len, std::ptr::without_provenance(at)) };
    made("MapViewOfFileEx", got.Value, len)
}

/// Commits pages.
///
/// # Safety
/// - `span` is whole pages of a reservation or of a view that the caller owns.
pub(super) unsafe fn commit(span: Span, protection: PAGE_PROTECTION_FLAGS) -> Result<()> {
    // SAFETY: passed on to the caller. Committed pages keep their contents.
    let got = unsafe { VirtualAlloc(span.start.as_ptr().cast(), span.len, MEM_COMMIT, protection) };
    made("VirtualAlloc", got, span.len).map(drop)
}

/// Sets the protection of pages.
///
/// # Safety
/// - As for [`super::Os::protect`].
pub(super) unsafe fn protect(span: Span, protection: PAGE_PROTECTION_FLAGS) -> Result<()> {
    let mut before = 0;
    // SAFETY: passed on to the caller. `before` is valid for the call to write to.
    let done = unsafe { VirtualProtect(span.start.as_ptr().cast(), span.len, protection, &raw mut before) };
    succeeded("VirtualProtect", done)
}

/// Decommits or releases pages.
///
/// # Safety
/// - `span` is whole pages of an allocation that the caller owns. The effect of `kind` on them
///   harms nobody.
pub(super) unsafe fn free(span: Span, kind: VIRTUAL_FREE_TYPE) -> Result<()> {
    // SAFETY: passed on to the caller.
    succeeded("VirtualFree", unsafe { VirtualFree(span.start.as_ptr().cast(), span.len, kind) })
}

fn query(address: usize) -> Result<MEMORY_BASIC_INFORMATION> {
    let mut info = MEMORY_BASIC_INFORMATION::default();
    // SAFETY: `info` is valid for the call to write to, and its size is right.
    let got = unsafe { VirtualQuery(std::ptr::without_provenance(address), &raw mut info, size_of_val(&info)) };
    if got == 0 { Err(last("VirtualQuery")) } else { Ok(info) }
}

/// Returns the system's information about `span`: parts of pages that are alike, in order, cut to
/// the span.
fn uniform_parts(span: Span) -> Result<Vec<(Span, MEMORY_BASIC_INFORMATION)>> {
    let mut found = Vec::new();
    let mut offset = 0;
    while offset < span.len {
        let info = query(span.address() + offset)?;
        let len = (info.BaseAddress.addr() + info.RegionSize - (span.address() + offset)).min(span.len - offset);
        // SAFETY: `offset` is less than the span's length.
        found.push((Span { start: unsafe { span.start.add(offset) }, len }, info));
        offset += len;
    }
    Ok(found)
}

/// Returns the parts of `span` that are committed, in order.
pub(super) fn committed(span: Span) -> Result<Vec<Span>> {
    let mut parts: Vec<Span> = Vec::new();
    for (part, info) in uniform_parts(span)? {
        match parts.last_mut() {
            _ if info.State != MEM_COMMIT => {}
            Some(last) if last.address() + last.len == part.address() => last.len += part.len,
            _ => parts.push(part),
        }
    }
    Ok(parts)
}

/// An allocation, a placeholder or a view: a unit that the system releases as one.
pub(super) struct Piece {
    pub(super) span: Span,
    base: usize,
    mapped: bool,
}

/// Returns the pieces of `span`, in order.
pub(super) fn allocations(span: Span) -> Result<Vec<Piece>> {
    let mut pieces: Vec<Piece> = Vec::new();
    for (part, info) in uniform_parts(span)? {
        let base = info.AllocationBase.addr();
        match pieces.last_mut() {
            // The rest of a view's last unit of allocation.
            _ if info.State == MEM_FREE => {}
            Some(last) if last.base == base => last.span.len += part.len,
            _ => pieces.push(Piece { span: part, base, mapped: info.Type == MEM_MAPPED }),
        }
    }
    Ok(pieces)
}

impl Piece {
    /// Releases the piece.
    ///
    /// # Safety
    /// - The caller owns the piece, and nobody uses it from now on.
    pub(super) unsafe fn release(&self) -> Result<()> {
        let start = self.span.start.as_ptr().cast();
        if self.mapped {
            // SAFETY: passed on to the caller.
            return succeeded("UnmapViewOfFile", unsafe {
                UnmapViewOfFile(MEMORY_MAPPED_VIEW_ADDRESS { Value: start })
            });
        }
        // SAFETY: passed on to the caller. Length 0 stands for all of it.
        succeeded("VirtualFree", unsafe { VirtualFree(start, 0, MEM_RELEASE) })
    }
}

/// Returns the protection of a page, if it is committed.
#[cfg(test)]
pub(super) fn committed_at(address: usize) -> Option<PAGE_PROTECTION_FLAGS> {
    query(address).ok().filter(|info| info.State == MEM_COMMIT).map(|info| info.Protect)
}

#[cfg(test)]
pub(super) fn is_free(address: usize) -> bool {
    query(address).is_ok_and(|info| info.State == MEM_FREE)
}
