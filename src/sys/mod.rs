//! The operating system: one trait, and one implementation for each system, chosen in one table.
//!
//! All other modules call [`Os`] and never the system. So tests can count its calls, refuse them,
//! and fail the n-th one.
//!
//! ```text
//! modes -> region -> Os --> Native: linux, apple, bsd, windows, unsupported; in tests: Faulty
//! ```
//!
//! A call that a system does not have returns an error that says so: see the defaults of the trait.
//! Errors are [`Refused`]: the call, the system's error and the bytes.

use std::ffi::CStr;
use std::fmt::Debug;
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
mod limits;
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
mod refused;
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
use refused::missing;
pub(crate) use refused::{Refused, Result};
pub(crate) use window::WriteWindow;
pub(crate) use word::Word;

/// The protection of a page. There is no value for writable *and* executable.
#[allow(clippy::enum_variant_names, reason = "pages with code stay readable")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadWrite,
    ReadExecute,
    /// Only readable. The content stays as it is.
    #[cfg_attr(
        not(any(feature = "cranelift", target_os = "linux", target_os = "android")),
        allow(dead_code, reason = "constants of modules")
    )]
    Read,
    /// As `ReadExecute`. Indirect branches may arrive at landing pads only (`BTI` of AArch64).
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

    /// Returns the code of a reservation made for `place`.
    pub(crate) fn code(self, place: &Place) -> Self {
        debug_assert!(self.len >= place.total());
        // SAFETY: the reservation was made for this place, so the code lies in it.
        Self { start: unsafe { self.start.add(place.skip(self.address())) }, len: place.len() }
    }

    /// Returns the data of a reservation made for `place`.
    pub(crate) fn data(self, place: &Place) -> Self {
        let skip = place.skip(self.address()) + place.data_offset();
        // Without data there may be no such address.
        let skip = if place.data_len() == 0 { 0 } else { skip };
        // SAFETY: as for the code.
        Self { start: unsafe { self.start.add(skip) }, len: place.data_len() }
    }
}

// SAFETY: a span is an address range. Using it takes `unsafe` calls.
unsafe impl Send for Span {}
// SAFETY: as for `Send`.
unsafe impl Sync for Span {}

/// The largest number of bytes that get memory by one call of [`Os::prefault_code_file`].
pub(crate) const PREFAULTED: usize = 16 << 10;

/// The calls that an arena makes. All of them are thread-safe. Calls that only some systems have
/// are refused unless an implementation overrides them.
pub(crate) trait Os: Send + Sync + Debug {
    /// Returns the bytes of a page.
    fn page_size(&self) -> usize;

    /// Returns whether pages have to be committed before use. Then a reservation costs nothing,
    /// opening private pages commits them, decommitted pages are not even readable until they are
    /// opened again, and shared pages need [`Os::commit_shared`].
    fn commits(&self) -> bool {
        false
    }

    /// Returns whether the memory of shared pages can be given back while they are mapped.
    fn returns_shared(&self) -> bool {
        true
    }

    /// Returns whether pages without memory stay executable and read as zeros, in every mode, until
    /// [`Os::protect`] or [`Os::protect_window`] changes that.
    fn leaves_executable(&self) -> bool {
        false
    }

    /// Maps `len` bytes of fresh private memory for reading and writing.
    fn map(&self, len: usize) -> Result<Span>;

    /// Reserves address space without access, for private memory.
    /// [`std::io::ErrorKind::AddrNotAvailable`] says that there is none in the wanted place.
    fn reserve(&self, place: &Place) -> Result<Span>;

    /// Sets the protection of whole pages. Pages that become writable have memory. Pages without
    /// memory that become executable stay without.
    ///
    /// # Safety
    /// - `span` is whole pages of a mapping that the caller owns.
    /// - No thread uses them in a way that `access` forbids.
    unsafe fn protect(&self, span: Span, access: Access) -> Result<()>;

    /// Gives the memory of private pages back to the system. With a kernel writer they stay
    /// executable and read as zeros. Otherwise nobody may touch them before they are made writable
    /// again.
    ///
    /// # Safety
    /// - `span` is whole pages of a private mapping that the caller owns. Nobody needs their
    ///   content.
    unsafe fn decommit(&self, span: Span) -> Result<()>;

    /// Returns whether all of these pages are executable, as far as can be found out.
    fn is_executable(&self, _span: Span) -> bool {
        false
    }

    /// Replaces private pages by fresh ones. Their content is lost. It is for systems on which only
    /// pages that were never writable may become executable.
    ///
    /// # Safety
    /// - `span` is whole pages of a private mapping that the caller owns. Nobody needs their
    ///   content.
    unsafe fn replace(&self, _span: Span, _access: Access) -> Result<()> {
        missing("new pages in the place of others")
    }

    /// Gives address space and memory back.
    ///
    /// # Safety
    /// - `span` is a whole mapping that the caller owns, and nobody uses it from now on.
    unsafe fn release(&self, span: Span) -> Result<()>;

    /// Seals pages until the process ends: their protection cannot change, and they stay mapped.
    ///
    /// # Safety
    /// - `span` is whole pages of a mapping that the caller owns, which is never released.
    unsafe fn freeze(&self, _span: Span) -> Result<()> {
        missing("sealing of mappings")
    }

    /// Names memory in the system's list of mappings. It is a hint.
    ///
    /// # Safety
    /// - `span` is whole pages of a mapping that the caller owns.
    unsafe fn name(&self, _span: Span, _name: &CStr) -> Result<()> {
        missing("names of mappings")
    }

    /// Sets whether pages are part of core dumps and of snapshots by debuggers, which get memory
    /// for the pages that they read. It is a hint.
    ///
    /// # Safety
    /// - `span` is whole pages of a mapping that the caller owns.
    unsafe fn set_dumped(&self, _span: Span, _yes: bool) -> Result<()> {
        missing("core dumps without pages")
    }

    /// Asks for huge pages. It is a hint.
    ///
    /// # Safety
    /// - `span` is whole pages of a mapping that the caller owns.
    unsafe fn advise_huge(&self, _span: Span) -> Result<()> {
        missing("huge pages")
    }

    /// Moves the memory of whole pages into huge pages now, whatever their content and users.
    ///
    /// # Safety
    /// - `span` is whole pages of a mapping that the caller owns.
    unsafe fn collapse(&self, _span: Span) -> Result<()> {
        missing("huge pages")
    }

    /// Gets memory for whole writable pages before they are used. It is a hint.
    ///
    /// # Safety
    /// - `span` is whole pages of a mapping that the caller owns.
    unsafe fn populate(&self, _span: Span) -> Result<()> {
        missing("memory ahead of use")
    }

    /// Opens the writer to pages of this process that are not writable.
    fn open_kernel_writer(&self) -> Result<KernelWriter>;

    /// Writes all of `bytes` to `at` through the kernel, whatever the protection of the pages.
    ///
    /// # Safety
    /// - `at` and the bytes behind it lie in a private mapping that the caller owns.
    /// - Nobody reads, runs or writes those bytes meanwhile.
    unsafe fn kernel_write(&self, writer: &KernelWriter, at: NonNull<u8>, bytes: &[u8]) -> Result<()>;

    /// Reads the bytes that the kernel writer sees at `at`.
    fn kernel_read(&self, writer: &KernelWriter, at: NonNull<u8>, bytes: &mut [u8]) -> Result<()>;

    /// Reserves address space for pages with a window. It is refused as [`Os::reserve`] is.
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

    /// Writes all of `bytes` to `at`. No other thread can write there meanwhile.
    ///
    /// # Safety
    /// - `at` and the bytes behind it lie in the pages that the window was made for.
    /// - Nobody reads, runs or writes those bytes meanwhile.
    unsafe fn window_write(&self, window: &WriteWindow, at: NonNull<u8>, bytes: &[u8]) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { window.write(at, bytes) };
        Ok(())
    }

    /// Writes by one store, as [`Os::window_write`] does. Other threads may run the bytes
    /// meanwhile.
    ///
    /// # Safety
    /// - As for [`Os::window_write`], except that others may run the bytes.
    /// - `at` is aligned to the word's length.
    unsafe fn window_store(&self, window: &WriteWindow, at: NonNull<u8>, word: Word) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { window.store(at, word) };
        Ok(())
    }

    /// Makes pages with a window executable, or not executable. The rights to write and to read
    /// stay as they are.
    ///
    /// # Safety
    /// - `span` is whole pages of those that the window was made for.
    /// - If they become not executable, no thread runs them.
    unsafe fn protect_window(&self, window: &WriteWindow, span: Span, executable: bool) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { window.protect(span, executable) }
    }

    /// Decommits pages with a window. They can be written to and run as before.
    ///
    /// # Safety
    /// - As for [`Os::decommit`].
    unsafe fn decommit_window(&self, span: Span) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { self.decommit(span) }
    }

    /// Makes `len` bytes of memory that can be mapped more than once.
    fn share(&self, len: usize) -> Result<SharedMemory>;

    /// Reserves address space and maps all of the shared memory, with `access`, where the code is
    /// to lie. It is refused as [`Os::reserve`] is. Then nothing stays mapped.
    fn map_executable(&self, memory: &SharedMemory, place: &Place, access: Access) -> Result<Span>;

    /// Maps shared memory for reading and writing, anywhere. Forked children do not inherit it.
    fn map_writable(&self, memory: &SharedMemory, len: usize) -> Result<Span>;

    /// Gets memory for shared pages, which are named in both views.
    ///
    /// # Safety
    /// - The spans are the same whole pages, in a view made by `map_executable` and in one made by
    ///   `map_writable`.
    unsafe fn commit_shared(&self, _executable: Span, _writable: Span) -> Result<()> {
        Ok(())
    }

    /// Gives the memory of shared pages back to the system, named in the writable view.
    ///
    /// # Safety
    /// - `span` is whole pages of a view made by `map_writable`. Nobody needs their content in any
    ///   view.
    unsafe fn decommit_shared(&self, _span: Span) -> Result<()> {
        missing("giving back shared memory")
    }

    /// Unlocks a writable view, so that its memory can be given back if the process locks its
    /// memory (`mlockall`).
    ///
    /// # Safety
    /// - `view` is the whole of a view made by `map_writable`.
    unsafe fn unlock_shared(&self, _view: Span) -> Result<()> {
        missing("memory that is not locked")
    }

    /// Makes an anonymous file of `len` bytes for code. Only its holder can write to it.
    fn create_code_file(&self, len: usize, name: Option<&CStr>) -> Result<CodeFile> {
        CodeFile::new(len, name)
    }

    /// Reserves address space and maps all of the file, with `access`, where the code is to lie.
    /// Nobody can make the view writable. It is refused as [`Os::reserve`] is. Then nothing stays
    /// mapped.
    fn map_code_file(&self, file: &CodeFile, place: &Place, access: Access) -> Result<Span> {
        file.map(place, access)
    }

    /// Writes all of `bytes` to the file. After an error some of them may be written.
    ///
    /// # Safety
    /// - The bytes lie inside the file. Nobody reads, runs or writes them in any view meanwhile.
    unsafe fn write_code_file(&self, file: &CodeFile, offset: usize, bytes: &[u8]) -> Result<()> {
        file.write(offset, bytes)
    }

    /// Gets memory for up to [`PREFAULTED`] bytes of the file, whole pages that have none, and
    /// leaves them zero. After an error some of them may have memory.
    ///
    /// # Safety
    /// - The pages lie inside the file. Nobody runs or writes them in any view meanwhile, and
    ///   nobody needs their content.
    unsafe fn prefault_code_file(&self, file: &CodeFile, offset: usize, len: usize) -> Result<()> {
        file.prefault(offset, len)
    }

    /// Gives the memory of whole pages of the file back to the system.
    ///
    /// # Safety
    /// - The pages lie inside the file. Nobody needs their content in any view.
    unsafe fn decommit_code_file(&self, file: &CodeFile, offset: usize, len: usize) -> Result<()> {
        file.give_back(offset, len)
    }
}
