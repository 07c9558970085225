//! The BSDs, and other Unix systems except Linux and Apple's. This file was checked by the
//! compiler, and was never run.
//!
//! - *FreeBSD*: shared memory is made by `shm_open(SHM_ANON)`. The policy `kern.elf64.allow_wx=0`
//!   forbids pages that are writable and executable at once. There are none.
//! - *NetBSD*: PaX MPROTECT lets pages become executable only if `mmap` asked for it. A second view
//!   of the same memory is made by `mremap(MAP_REMAPDUP)`, which exists for JITs ("Extend the
//!   mremap(2) interface to allow duplicating mappings", and the example in `mremap(2)`).
//! - *OpenBSD*: `mprotect` may change writable pages to executable ones and back. Outside of file
//!   systems mounted `wxallowed` both at once is refused (`mmap(2)`, `mprotect(2)`: `ENOTSUP`).
//!   There is no anonymous shared memory with a descriptor, and the pages of a named file depend on
//!   where it lies, so there is no second view.

use std::ptr::NonNull;

use super::{Access, Os, Place, Result, Span, missing, unix};

#[cfg_attr(target_os = "freebsd", path = "views_freebsd.rs")]
#[cfg_attr(target_os = "netbsd", path = "views_netbsd.rs")]
mod views;

pub(crate) use views::SharedMemory;

/// The real system.
#[derive(Debug)]
pub(crate) struct Native;

/// A writer through the kernel. It cannot be made here.
#[derive(Debug)]
pub(crate) enum KernelWriter {}

impl Os for Native {
    fn page_size(&self) -> usize {
        unix::page_size()
    }

    fn returns_shared(&self) -> bool {
        false
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
        unsafe { unix::renew(span) }
    }

    unsafe fn release(&self, span: Span) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { unix::release(span) }
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
        views::share(len)
    }

    fn map_executable(&self, memory: &SharedMemory, place: &Place, _access: Access) -> Result<Span> {
        views::map_executable(memory, place)
    }

    fn map_writable(&self, memory: &SharedMemory, len: usize) -> Result<Span> {
        views::map_writable(memory, len)
    }
}
