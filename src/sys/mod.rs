//! The operating system: one trait, one implementation for each system, chosen in one table.
//!
//! Everything above talks to [`Os`] and never to the system, so that tests can count its calls,
//! refuse them, and fail the n-th one.

use std::ffi::CStr;
use std::fmt::Debug;
use std::io;
use std::ptr::NonNull;

#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "linux.rs"]
mod native;
#[cfg(target_vendor = "apple")]
#[path = "apple.rs"]
mod native;
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android", target_vendor = "apple"))))]
#[path = "bsd/mod.rs"]
mod native;
#[cfg(windows)]
#[path = "windows/mod.rs"]
mod native;
#[cfg(not(any(unix, windows)))]
#[path = "unsupported.rs"]
mod native;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[path = "pkeys.rs"]
mod window;
#[cfg(all(target_os = "macos", target_arch = "aarch64"))]
#[path = "map_jit.rs"]
mod window;
#[cfg(not(any(all(target_os = "linux", target_arch = "x86_64"), all(target_os = "macos", target_arch = "aarch64"))))]
#[path = "no_window.rs"]
mod window;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod code_file;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[path = "no_code_file.rs"]
mod code_file;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod descriptor;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod maps;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod own_memory;

#[cfg(any(unix, windows))]
mod gaps;
#[cfg(unix)]
mod generation;
mod parked;
mod place;
#[cfg(any(
    any(target_os = "linux", target_os = "android"),
    all(feature = "perf", unix),
    all(feature = "gdb", unix, not(target_vendor = "apple")),
    feature = "cache",
    feature = "cranelift",
    feature = "unwind",
    all(
        feature = "vtune",
        any(target_os = "linux", target_os = "windows", target_os = "macos", target_os = "freebsd"),
        any(target_arch = "x86", target_arch = "x86_64")
    )
))]
pub(crate) mod process_lock;
#[cfg(unix)]
mod unix;
mod word;

pub(crate) use code_file::CodeFile;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) use code_file::elsewhere;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use descriptor::elsewhere;
#[cfg(unix)]
pub(crate) use generation::generation;
#[cfg(not(unix))]
pub(crate) use native::generation;
pub(crate) use native::{KernelWriter, Native, SharedMemory};
#[cfg(all(test, not(loom)))]
pub(crate) use parked::parked_bytes;
pub(crate) use parked::{release_before, release_or_park};
pub(crate) use place::Place;
pub(crate) use window::WriteWindow;
pub(crate) use word::Word;

/// What a page may be used for. Writable *and* executable cannot be said.
#[allow(clippy::enum_variant_names, reason = "pages with code stay readable")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadWrite,
    ReadExecute,
    /// Neither; what was written before stays as it is.
    #[cfg_attr(
        not(any(feature = "cranelift", target_os = "linux", target_os = "android")),
        allow(dead_code, reason = "constants of modules")
    )]
    Read,
    /// As `ReadExecute`, and indirect branches may arrive at landing pads only (`BTI` of AArch64).
    ReadExecuteLanding,
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

    /// The code of a reservation made for `place`.
    pub(crate) fn code(self, place: &Place) -> Self {
        debug_assert!(self.len >= place.total());
        // SAFETY: the reservation was made for this place, so the code lies in it.
        Self { start: unsafe { self.start.add(place.skip(self.address())) }, len: place.len() }
    }

    /// The data of a reservation made for `place`.
    pub(crate) fn data(self, place: &Place) -> Self {
        let skip = place.skip(self.address()) + place.data_offset();
        // Without data there may be no such address.
        let skip = if place.data_len() == 0 { 0 } else { skip };
        // SAFETY: as for the code.
        Self { start: unsafe { self.start.add(skip) }, len: place.data_len() }
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
    /// Bytes asked for, if the call was about an amount.
    pub(crate) bytes: Option<usize>,
}

impl Refused {
    pub(crate) fn new(call: &'static str, source: io::Error) -> Self {
        Self { call, source, bytes: None }
    }

    /// The same, with the amount that was asked for.
    #[cfg(unix)]
    pub(crate) fn of(self, bytes: usize) -> Self {
        Self { bytes: Some(bytes), ..self }
    }

    #[cfg(unix)]
    pub(crate) fn last(call: &'static str) -> Self {
        Self::new(call, io::Error::last_os_error())
    }

    /// Whether it was for want of memory or of descriptors. That passes, and says nothing about
    /// what the system allows.
    pub(crate) fn passes(&self) -> bool {
        #[cfg(unix)]
        const PASSING: &[i32] = &[libc::EMFILE, libc::ENFILE, libc::ENOMEM];
        #[cfg(not(unix))]
        const PASSING: &[i32] = &[];
        self.source.raw_os_error().is_some_and(|number| PASSING.contains(&number))
    }
}

impl From<Refused> for crate::Error {
    fn from(refused: Refused) -> Self {
        crate::Error::OperatingSystem { call: refused.call, bytes: refused.bytes, path: None, source: refused.source }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Refused>;

/// What a system does not have.
fn missing<T>(call: &'static str) -> Result<T> {
    Err(Refused::new(call, io::ErrorKind::Unsupported.into()))
}

/// The calls that an arena makes. All of them are thread-safe. What only some systems have is
/// refused unless they say otherwise.
pub(crate) trait Os: Send + Sync + Debug {
    /// Bytes in a page.
    fn page_size(&self) -> usize;

    /// Whether pages have to be committed before they can be used at all. Then a reservation costs
    /// nothing, opening private pages commits them, decommitted ones are not even readable until
    /// they are opened again, and shared pages need [`Os::commit_shared`].
    fn commits(&self) -> bool {
        false
    }

    /// Whether the memory behind shared pages can be given back while they are mapped.
    fn returns_shared(&self) -> bool {
        true
    }

    /// Whether pages without memory stay executable and read as zeros, in every mode, until
    /// somebody changes that: by [`Os::protect`], or with a window by [`Os::protect_window`].
    fn leaves_executable(&self) -> bool {
        false
    }

    /// Maps `len` bytes of fresh private memory for reading and writing.
    fn map(&self, len: usize) -> Result<Span>;

    /// Reserves address space without access, for private memory.
    /// [`io::ErrorKind::AddrNotAvailable`] says that there is none where it was asked for.
    fn reserve(&self, place: &Place) -> Result<Span>;

    /// Sets what whole pages may be used for. Made writable, they have memory; made executable,
    /// those without stay so.
    ///
    /// # Safety
    /// - `span` is whole pages of a mapping of the caller's.
    /// - No thread uses them in a way that `access` forbids.
    unsafe fn protect(&self, span: Span, access: Access) -> Result<()>;

    /// Gives the memory of private pages back to the system. Where there is a kernel writer they
    /// stay executable and read as zeros; elsewhere nobody may touch them before they are made
    /// writable again.
    ///
    /// # Safety
    /// - `span` is whole pages of a private mapping of the caller's, whose contents nobody needs.
    unsafe fn decommit(&self, span: Span) -> Result<()>;

    /// Whether all of these pages are executable, as far as can be found out.
    fn is_executable(&self, _span: Span) -> bool {
        false
    }

    /// Puts fresh private pages in the place of others, whose contents go. For systems that let
    /// what was never writable become executable, and nothing else.
    ///
    /// # Safety
    /// - `span` is whole pages of a private mapping of the caller's, whose contents nobody needs.
    unsafe fn replace(&self, _span: Span, _access: Access) -> Result<()> {
        missing("new pages in the place of others")
    }

    /// Gives address space and memory back.
    ///
    /// # Safety
    /// - `span` is a mapping of the caller's, whole, which nobody uses from now on.
    unsafe fn release(&self, span: Span) -> Result<()>;

    /// From now on, until the process ends, what these pages may be used for cannot change and they
    /// stay mapped.
    ///
    /// # Safety
    /// - `span` is whole pages of a mapping of the caller's, which is never released.
    unsafe fn freeze(&self, _span: Span) -> Result<()> {
        missing("sealing of mappings")
    }

    /// Names memory for whoever looks at the system's list of mappings; a hint.
    ///
    /// # Safety
    /// - `span` is whole pages of a mapping of the caller's.
    unsafe fn name(&self, _span: Span, _name: &CStr) -> Result<()> {
        missing("names of mappings")
    }

    /// Whether pages are part of core dumps and of snapshots by debuggers; a hint. What reads pages
    /// for one gets memory for them.
    ///
    /// # Safety
    /// - `span` is whole pages of a mapping of the caller's.
    unsafe fn set_dumped(&self, _span: Span, _yes: bool) -> Result<()> {
        missing("core dumps without pages")
    }

    /// Asks for huge pages; a hint.
    ///
    /// # Safety
    /// - `span` is whole pages of a mapping of the caller's.
    unsafe fn advise_huge(&self, _span: Span) -> Result<()> {
        missing("huge pages")
    }

    /// Puts the memory of whole pages into huge pages, now, whatever they hold and whoever uses
    /// them.
    ///
    /// # Safety
    /// - `span` is whole pages of a mapping of the caller's.
    unsafe fn collapse(&self, _span: Span) -> Result<()> {
        missing("huge pages")
    }

    /// Gets memory for whole writable pages ahead of use; a hint.
    ///
    /// # Safety
    /// - `span` is whole pages of a mapping of the caller's.
    unsafe fn populate(&self, _span: Span) -> Result<()> {
        missing("memory ahead of use")
    }

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

    /// Reserves address space for pages that a window is to be made for. Refused as [`Os::reserve`]
    /// is.
    fn reserve_window(&self, place: &Place) -> Result<Span> {
        self.reserve(place)
    }

    /// Makes reserved pages readable and executable, and writable only for a thread inside
    /// `window_write`.
    ///
    /// # Safety
    /// - `span` is the code of a reservation by `reserve_window` that nobody uses.
    /// - It is released before the window is dropped.
    unsafe fn make_window(&self, span: Span) -> Result<WriteWindow> {
        // SAFETY: passed on to the caller.
        unsafe { WriteWindow::new(span) }
    }

    /// Writes all of `bytes` to `at`, while which no other thread can write there.
    ///
    /// # Safety
    /// - `at` and the bytes behind it lie in the pages that the window was made for.
    /// - Nobody reads, runs or writes those bytes meanwhile.
    unsafe fn window_write(&self, window: &WriteWindow, at: NonNull<u8>, bytes: &[u8]) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { window.write(at, bytes) };
        Ok(())
    }

    /// As [`Os::window_write`], by one store. Other threads may run the bytes meanwhile.
    ///
    /// # Safety
    /// - As for [`Os::window_write`], but for that.
    /// - `at` is aligned to the word's length.
    unsafe fn window_store(&self, window: &WriteWindow, at: NonNull<u8>, word: Word) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { window.store(at, word) };
        Ok(())
    }

    /// Makes pages with a window executable, or takes that away. Who can write to them and read
    /// them stays as it is.
    ///
    /// # Safety
    /// - `span` is whole pages of those that the window was made for.
    /// - No thread runs them if they are to be not executable.
    unsafe fn protect_window(&self, window: &WriteWindow, span: Span, executable: bool) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { window.protect(span, executable) }
    }

    /// As [`Os::decommit`], for pages with a window: they can be written to and run as before.
    ///
    /// # Safety
    /// - As for [`Os::decommit`].
    unsafe fn decommit_window(&self, span: Span) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { self.decommit(span) }
    }

    /// Makes `len` bytes of memory that can be mapped more than once.
    fn share(&self, len: usize) -> Result<SharedMemory>;

    /// Reserves address space and maps shared memory, all of it, with `access` where the code is to
    /// lie. Refused as [`Os::reserve`] is; nothing is left behind then.
    fn map_executable(&self, memory: &SharedMemory, place: &Place, access: Access) -> Result<Span>;

    /// Maps shared memory for reading and writing, anywhere; forked children do not inherit it.
    fn map_writable(&self, memory: &SharedMemory, len: usize) -> Result<Span>;

    /// Gets memory for shared pages, named in both views.
    ///
    /// # Safety
    /// - The spans are the same whole pages, in a view made by `map_executable` and in one made by
    ///   `map_writable`.
    unsafe fn commit_shared(&self, _executable: Span, _writable: Span) -> Result<()> {
        Ok(())
    }

    /// Gives the memory behind shared pages back to the system, seen through the writable view.
    ///
    /// # Safety
    /// - `span` is whole pages of a view made by `map_writable`, whose contents nobody needs in any
    ///   view.
    unsafe fn decommit_shared(&self, _span: Span) -> Result<()> {
        missing("giving back shared memory")
    }

    /// Lets the system take memory behind a writable view back, which it keeps as long as the
    /// process has that view locked in memory (`mlockall`).
    ///
    /// # Safety
    /// - `view` is the whole of a view made by `map_writable`.
    unsafe fn unlock_shared(&self, _view: Span) -> Result<()> {
        missing("memory that is not locked")
    }

    /// Makes an anonymous file of `len` bytes for code. Only who holds it can write to it.
    fn create_code_file(&self, len: usize, name: Option<&CStr>) -> Result<CodeFile> {
        CodeFile::new(len, name)
    }

    /// Reserves address space and maps the file, all of it, with `access` where the code is to lie;
    /// nobody can make the view writable. Refused as [`Os::reserve`] is; nothing is left behind
    /// then.
    fn map_code_file(&self, file: &CodeFile, place: &Place, access: Access) -> Result<Span> {
        file.map(place, access)
    }

    /// Writes all of `bytes` to the file. After an error some of them may be there.
    ///
    /// # Safety
    /// - Inside the file; nobody reads, runs or writes those bytes in any view meanwhile.
    unsafe fn write_code_file(&self, file: &CodeFile, offset: usize, bytes: &[u8]) -> Result<()> {
        file.write(offset, bytes)
    }

    /// Gives the memory of whole pages of the file back to the system.
    ///
    /// # Safety
    /// - Inside the file, and nobody needs the contents in any view.
    unsafe fn decommit_code_file(&self, file: &CodeFile, offset: usize, len: usize) -> Result<()> {
        file.give_back(offset, len)
    }
}
