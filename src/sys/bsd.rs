//! The Unix systems beside Linux: private memory and protection changes, which is all that `Flip` needs.

use std::io;
use std::ptr::NonNull;

use super::{Access, Os, Place, Refused, Result, Span, unix};

/// The system itself.
#[derive(Debug)]
pub(crate) struct Native;

/// There is no way to write through the kernel here.
#[derive(Debug)]
pub(crate) enum KernelWriter {}

/// There is no second view here.
#[derive(Debug)]
pub(crate) enum SharedMemory {}

fn missing<T>(call: &'static str) -> Result<T> {
    Err(Refused::new(call, io::ErrorKind::Unsupported.into()))
}

impl Os for Native {
    fn page_size(&self) -> usize {
        region::page::size()
    }

    fn map(&self, len: usize) -> Result<Span> {
        unix::map(len)
    }

    fn reserve(&self, place: &Place) -> Result<Span> {
        unix::reserve(place, 0)
    }

    unsafe fn protect(&self, span: Span, access: Access) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { unix::protect(span, access) }
    }

    unsafe fn decommit(&self, span: Span) -> Result<()> {
        // SAFETY: passed on to the caller, who needs the contents no more.
        unsafe { unix::advise(span, libc::MADV_FREE) }
    }

    unsafe fn release(&self, span: Span) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { unix::release(span) }
    }

    unsafe fn advise_huge(&self, _span: Span) -> Result<()> {
        missing("huge pages")
    }

    unsafe fn collapse(&self, _span: Span) -> Result<()> {
        missing("huge pages")
    }

    unsafe fn populate(&self, _span: Span) -> Result<()> {
        missing("memory ahead of use")
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

    fn share(&self, _len: usize) -> Result<SharedMemory> {
        missing("second mapping")
    }

    fn map_executable(&self, memory: &SharedMemory, _place: &Place) -> Result<Span> {
        match *memory {}
    }

    fn map_writable(&self, memory: &SharedMemory, _len: usize) -> Result<Span> {
        match *memory {}
    }

    unsafe fn decommit_shared(&self, _span: Span) -> Result<()> {
        missing("second mapping")
    }
}

/// A number that tells a forked child from its parent.
pub(crate) fn generation() -> u64 {
    u64::from(std::process::id())
}
