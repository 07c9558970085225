//! The operating system: one trait, one implementation for each system, chosen in one table.
//!
//! Everything above talks to [`Os`] and never to the system, so that tests can count its calls, refuse them, and fail
//! the n-th one.

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;

#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "linux.rs"]
mod native;
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
#[path = "bsd.rs"]
mod native;
#[cfg(not(unix))]
#[path = "unsupported.rs"]
mod native;

mod parked;
#[cfg(unix)]
mod unix;

pub(crate) use native::{KernelWriter, Native, SharedMemory, generation};
#[cfg(all(test, not(loom)))]
pub(crate) use parked::parked_bytes;
pub(crate) use parked::release_or_park;

/// What a page may be used for. Writable *and* executable cannot be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadWrite,
    ReadExecute,
}

/// Whole pages of address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: NonNull<u8>,
    pub(crate) len: usize,
}

impl Span {
    pub(crate) fn address(self) -> usize {
        self.start.as_ptr().addr()
    }
}

// SAFETY: a span is an address range; using what is there takes `unsafe` calls of their own.
unsafe impl Send for Span {}
// SAFETY: as for `Send`.
unsafe impl Sync for Span {}

/// A failed system call: its name, and what the system said.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) call: &'static str,
    pub(crate) source: io::Error,
}

impl Refused {
    pub(crate) fn new(call: &'static str, source: io::Error) -> Self {
        Self { call, source }
    }

    #[cfg(unix)]
    pub(crate) fn last(call: &'static str) -> Self {
        Self::new(call, io::Error::last_os_error())
    }
}

impl From<Refused> for crate::Error {
    fn from(refused: Refused) -> Self {
        crate::Error::OperatingSystem { call: refused.call, source: refused.source }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Refused>;

/// The calls that an arena makes. All of them are thread-safe.
pub(crate) trait Os: Send + Sync + Debug {
    /// Bytes in a page.
    fn page_size(&self) -> usize {
        region::page::size()
    }

    /// Maps `len` bytes of fresh private memory for reading and writing.
    fn map(&self, len: usize) -> Result<Span>;

    /// Reserves `len` bytes of address space without access; inside `within`, as near to its middle as can be, if given.
    fn reserve(&self, len: usize, within: Option<Range<usize>>) -> Result<Span>;

    /// Sets what whole pages may be used for.
    ///
    /// # Safety
    /// - `span` is whole pages of a mapping of the caller's.
    /// - No thread uses them in a way that `access` forbids.
    unsafe fn protect(&self, span: Span, access: Access) -> Result<()>;

    /// Gives the memory of private pages back to the system; they read as zeros from now on.
    ///
    /// # Safety
    /// - `span` is whole pages of a private mapping of the caller's, whose contents nobody needs.
    unsafe fn decommit(&self, span: Span) -> Result<()>;

    /// Gives address space and memory back.
    ///
    /// # Safety
    /// - `span` is a mapping of the caller's, whole, which nobody uses from now on.
    unsafe fn release(&self, span: Span) -> Result<()>;

    /// Asks for huge pages; a hint.
    ///
    /// # Safety
    /// - `span` is whole pages of a mapping of the caller's.
    unsafe fn advise_huge(&self, span: Span) -> Result<()>;

    /// Puts the memory of whole pages into huge pages, now, whatever they hold and whoever uses them.
    ///
    /// # Safety
    /// - `span` is whole pages of a mapping of the caller's.
    unsafe fn collapse(&self, span: Span) -> Result<()>;

    /// Gets memory for whole writable pages ahead of use; a hint.
    ///
    /// # Safety
    /// - `span` is whole pages of a mapping of the caller's.
    unsafe fn populate(&self, span: Span) -> Result<()>;

    /// Opens the way to write to pages of this process that are not writable.
    fn open_kernel_writer(&self) -> Result<KernelWriter>;

    /// Writes all of `bytes` to `at` through the kernel, whatever the protection of the pages.
    ///
    /// # Safety
    /// - `at` and the bytes behind it lie in a private mapping of the caller's.
    /// - Nobody reads, runs or writes those bytes meanwhile.
    unsafe fn kernel_write(&self, writer: &KernelWriter, at: NonNull<u8>, bytes: &[u8]) -> Result<()>;

    /// What the kernel writer sees at `at`.
    fn kernel_read(&self, writer: &KernelWriter, at: NonNull<u8>, bytes: &mut [u8]) -> Result<()>;

    /// Makes `len` bytes of memory that can be mapped more than once.
    fn share(&self, len: usize) -> Result<SharedMemory>;

    /// Maps shared memory for reading and executing, in place of the reserved pages `span`.
    ///
    /// # Safety
    /// - `span` is whole pages of a reservation of the caller's that nobody uses, as many as `memory` has.
    unsafe fn map_executable(&self, memory: &SharedMemory, span: Span) -> Result<()>;

    /// Maps shared memory for reading and writing, anywhere; forked children do not inherit it.
    fn map_writable(&self, memory: &SharedMemory, len: usize) -> Result<Span>;

    /// Gives the memory behind shared pages back to the system, seen through the writable view.
    ///
    /// # Safety
    /// - `span` is whole pages of a view made by `map_writable`, whose contents nobody needs in any view.
    unsafe fn decommit_shared(&self, span: Span) -> Result<()>;
}
