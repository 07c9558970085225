//! Systems without executable memory (WebAssembly, bare machines). `icache` refuses them before
//! anything here is called, with an error that says so. Each call here is refused too.

use std::io;
use std::ptr::NonNull;

use super::{Access, Os, Place, Refused, Result, Span};

/// The real system.
#[derive(Debug)]
pub(crate) struct Native;

/// It cannot be made here.
#[derive(Debug)]
pub(crate) enum KernelWriter {}

/// It cannot be made here.
#[derive(Debug)]
pub(crate) enum SharedMemory {}

fn missing<T>() -> Result<T> {
    Err(Refused::new("executable memory", io::ErrorKind::Unsupported.into()))
}

impl Os for Native {
    fn page_size(&self) -> usize {
        4096
    }

    fn map(&self, _len: usize) -> Result<Span> {
        missing()
    }

    fn reserve(&self, _place: &Place) -> Result<Span> {
        missing()
    }

    unsafe fn protect(&self, _span: Span, _access: Access) -> Result<()> {
        missing()
    }

    unsafe fn decommit(&self, _span: Span) -> Result<()> {
        missing()
    }

    unsafe fn release(&self, _span: Span) -> Result<()> {
        missing()
    }

    fn open_kernel_writer(&self) -> Result<KernelWriter> {
        missing()
    }

    unsafe fn kernel_write(&self, writer: &KernelWriter, _at: NonNull<u8>, _bytes: &[u8]) -> Result<()> {
        match *writer {}
    }

    fn kernel_read(&self, writer: &KernelWriter, _at: NonNull<u8>, _bytes: &mut [u8]) -> Result<()> {
        match *writer {}
    }

    fn share(&self, _len: usize) -> Result<SharedMemory> {
        missing()
    }

    fn map_executable(&self, memory: &SharedMemory, _place: &Place, _access: Access) -> Result<Span> {
        match *memory {}
    }

    fn map_writable(&self, memory: &SharedMemory, _len: usize) -> Result<Span> {
        match *memory {}
    }
}

/// Returns a constant, because nothing forks here.
pub(crate) fn generation() -> u64 {
    1
}
