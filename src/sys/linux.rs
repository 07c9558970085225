//! Linux and Android.
//!
//! This file only says which call is made by which file:
//!
//! | calls | file |
//! |---|---|
//! | reservations, protections, advice | `unix` |
//! | memory with two views | `shared_linux` |
//! | an anonymous file | `code_file` |
//! | limits of the process | `limits` |
//! | the kernel write | `own_memory` |
//! | protection keys | `pkeys` |
//! | the list of mappings | `maps` |
//!
//! What only Linux has (`mseal`, names of mappings, core dumps, populating) is made here.

use std::ffi::CStr;
use std::ptr::NonNull;

use super::{Access, Os, Place, Refused, Result, Span, maps, unix};

pub(crate) use super::own_memory::KernelWriter;

#[path = "shared_linux.rs"]
mod shared;
pub(crate) use shared::SharedMemory;

/// The real system.
#[derive(Debug)]
pub(crate) struct Native;

/// From the kernel's `asm-generic/mman-common.h`. The `libc` crate has it for some targets only.
const MADV_DONTNEED_LOCKED: libc::c_int = 24;
/// From the same file, since kernel 6.1.
const MADV_COLLAPSE: libc::c_int = 25;

impl Os for Native {
    fn page_size(&self) -> usize {
        unix::page_size()
    }

    fn leaves_executable(&self) -> bool {
        true
    }

    fn map(&self, len: usize) -> Result<Span> {
        unix::map(len)
    }

    fn reserve(&self, place: &Place) -> Result<Span> {
        unix::reserve(place)
    }

    unsafe fn protect(&self, span: Span, access: Access) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { unix::protect(span, access) }
    }

    unsafe fn decommit(&self, span: Span) -> Result<()> {
        // SAFETY: passed on to the caller, who does not need the contents any more.
        let given = unsafe { unix::advise(span, libc::MADV_DONTNEED) };
        // For pages of a process that locks its memory. Known since kernel 5.18.
        // SAFETY: as above.
        given.or_else(|refused| unsafe { unix::advise(span, MADV_DONTNEED_LOCKED) }.map_err(|_| refused))
    }

    unsafe fn release(&self, span: Span) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { unix::release(span) }
    }

    unsafe fn freeze(&self, span: Span) -> Result<()> {
        /// The same number on all architectures; since kernel 6.10, on 64 bits.
        const SYS_MSEAL: libc::c_long = 462;
        let flags: libc::c_long = 0;
        // SAFETY: the pages stay as they are. The caller promises that nothing needs to change
        // them.
        match unsafe { libc::syscall(SYS_MSEAL, span.start.as_ptr(), span.len, flags) } {
            0 => Ok(()),
            _ => Err(Refused::last("mseal")),
        }
    }

    unsafe fn name(&self, span: Span, name: &CStr) -> Result<()> {
        // `linux/prctl.h`, since kernel 5.17, if the kernel was built with it.
        const PR_SET_VMA: libc::c_int = 0x5356_4d41;
        const PR_SET_VMA_ANON_NAME: libc::c_ulong = 0;
        let (start, len) = (span.address() as libc::c_ulong, span.len as libc::c_ulong);
        // SAFETY: the pages stay as they are, and the name is a C string that the kernel copies.
        match unsafe { libc::prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, start, len, name.as_ptr()) } {
            0 => Ok(()),
            _ => Err(Refused::last("prctl")),
        }
    }

    unsafe fn set_dumped(&self, span: Span, yes: bool) -> Result<()> {
        // SAFETY: the contents stay as they are.
        unsafe { unix::advise(span, if yes { libc::MADV_DODUMP } else { libc::MADV_DONTDUMP }) }
    }

    unsafe fn advise_huge(&self, span: Span) -> Result<()> {
        // SAFETY: the advice leaves the contents as they are.
        unsafe { unix::advise(span, libc::MADV_HUGEPAGE) }
    }

    unsafe fn collapse(&self, span: Span) -> Result<()> {
        // SAFETY: the contents stay as they are, for every thread.
        unsafe { unix::advise(span, MADV_COLLAPSE) }
    }

    unsafe fn populate(&self, span: Span) -> Result<()> {
        // SAFETY: the contents stay as they are.
        unsafe { unix::advise(span, libc::MADV_POPULATE_WRITE) }
    }

    fn open_kernel_writer(&self) -> Result<KernelWriter> {
        KernelWriter::open()
    }

    unsafe fn kernel_write(&self, writer: &KernelWriter, at: NonNull<u8>, bytes: &[u8]) -> Result<()> {
        // SAFETY: passed on to the caller. Pages with code are readable.
        unsafe { writer.write(at, bytes) }
    }

    fn kernel_read(&self, writer: &KernelWriter, at: NonNull<u8>, bytes: &mut [u8]) -> Result<()> {
        writer.read(at, bytes)
    }

    fn is_executable(&self, span: Span) -> bool {
        let Ok(list) = maps::mappings() else { return false };
        let mut at = span.address();
        for mapping in list.iter().filter(|mapping| mapping.start <= span.address() + span.len) {
            if mapping.start <= at && at < mapping.end && mapping.executable {
                at = mapping.end;
            }
        }
        at >= span.address() + span.len
    }

    unsafe fn replace(&self, span: Span, access: Access) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { unix::map_private_at(span, access) }
    }

    fn share(&self, len: usize) -> Result<SharedMemory> {
        shared::share(len)
    }

    fn map_executable(&self, memory: &SharedMemory, place: &Place, access: Access) -> Result<Span> {
        shared::map_executable(memory, place, access)
    }

    fn map_writable(&self, memory: &SharedMemory, len: usize) -> Result<Span> {
        shared::map_writable(memory, len)
    }

    unsafe fn unlock_shared(&self, view: Span) -> Result<()> {
        // SAFETY: the contents stay as they are.
        match unsafe { libc::munlock(view.start.as_ptr().cast(), view.len) } {
            0 => Ok(()),
            _ => Err(Refused::last("munlock")),
        }
    }

    unsafe fn decommit_shared(&self, span: Span) -> Result<()> {
        // SAFETY: passed on to the caller, who does not need the contents in any view any more.
        unsafe { unix::advise(span, libc::MADV_REMOVE) }
    }
}
