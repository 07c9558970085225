//! One block of executable memory for one piece of code.
//!
//! A block is a mapping of its own. Each page is in one of two states:
//!
//! ```text
//!            write: open the pages
//!          <-----------------------
//! writable                          executable
//!          ----------------------->
//!            make_executable, entry: flush, then close
//! ```
//!
//! Two sets of pages keep track: pages that are surely not writable (`closed`), and pages that were
//! written since they were last executable (`changed`). A failed call leaves the sets so that the
//! next call repairs the pages.

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;

use crate::Error;
use crate::icache;
use crate::space::bit_set::BitSet;
use crate::sys::{self, Access, Native, Os, Span};
use crate::units::round_up;

/// One block of executable memory: write code, make it executable, call it.
///
/// Each page of the block is either writable or executable, never both. Writing makes the pages
/// that it touches writable. Its cost does not grow with the block.
/// [`make_executable`](Self::make_executable) and [`entry`](Self::entry) make the pages that were
/// written to executable again.
///
/// ```
/// use gaia_jit::JitMemory;
///
/// fn main() -> std::io::Result<()> {
///     let mut jit = JitMemory::new(4096)?;
/// #   #[cfg(any(target_arch = "x86", target_arch = "x86_64"))] {
///     jit.write(&[0x90, 0xc3])?;
///     jit.make_executable()?;
///     unsafe {
///         let f: unsafe extern "C" fn() = jit.as_fn();
///         f();
///     }
/// #   }
///     Ok(())
/// }
/// ```
///
/// # Limits
///
/// A page that is written to again is not executable until the next `make_executable`. If a thread
/// runs code on such a page, or returns into it, the process gets a fault. So it does **not** work
/// to put a `JitMemory` into a `Mutex`, and to add functions on one thread while other threads run
/// functions that are already there. The lock does not help, because all threads see the change of
/// protection. Put code that other threads run into a [`CodeArena`](crate::CodeArena), which never
/// takes the right to execute from a page with live code:
///
/// ```
/// # #[cfg(any(target_arch = "x86", target_arch = "x86_64"))] {
/// # use gaia_jit::{CodeArena, CodeBlock};
/// # let compiled: [&[u8]; 2] = [&[0xb8, 1, 0, 0, 0, 0xc3], &[0xb8, 2, 0, 0, 0, 0xc3]]; // mov eax, n; ret
/// let arena = CodeArena::builder().capacity(1 << 20).build()?;
/// let mut functions: Vec<CodeBlock> = Vec::new();
/// for code in compiled {
///     functions.push(arena.publish(code)?); // other threads go on calling the functions already there
/// }
/// // SAFETY: the code takes nothing and returns a number; the blocks are alive.
/// let call = |block: &CodeBlock| unsafe { block.as_fn::<unsafe extern "C" fn() -> i32>()() };
/// assert_eq!(functions.iter().map(call).collect::<Vec<_>>(), [1, 2]);
/// # }
/// # Ok::<(), gaia_jit::Error>(())
/// ```
pub struct JitMemory {
    os: &'static dyn Os,
    block: Span,
    len: usize,
    page: usize,
    /// The pages that may not be writable, and the pages that are executable. After a failed call
    /// some pages may be neither, because the system changes one mapping after another and may stop
    /// in between.
    closed: BitSet,
    executable: BitSet,
    /// The pages that were written to since they were last executable.
    changed: BitSet,
    /// Whether code was flushed without other cores having been synchronised.
    unseen: bool,
}

impl JitMemory {
    /// Maps a block of `capacity` bytes, rounded up to whole pages. It is writable and empty.
    ///
    /// ```
    /// let jit = gaia_jit::JitMemory::new(100)?;
    /// assert!(jit.capacity() >= 4096 && jit.is_empty());
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::ZeroSize`] if `capacity` is 0.
    /// - [`Error::TooLarge`] if `capacity` is above the limit.
    /// - [`Error::OperatingSystem`] if the system has no memory.
    /// - [`Error::Unsupported`] on systems and architectures for which the crate does not know how
    ///   to run code.
    pub fn new(capacity: usize) -> Result<Self, Error> {
        Self::with_os(capacity, &Native)
    }

    pub(crate) fn with_os(capacity: usize, os: &'static dyn Os) -> Result<Self, Error> {
        icache::check()?;
        let page = os.page_size();
        let limit = isize::MAX as usize & !(page - 1);
        let len = match round_up(capacity, page) {
            Some(0) => return Err(Error::ZeroSize),
            Some(len) if len <= limit => len,
            _ => return Err(Error::TooLarge { asked: capacity, limit }),
        };
        let pages = len / page;
        // The system comes first, because it refuses an impossible size before anything is changed.
        let block = os.map(len)?;
        let set = || BitSet::empty(pages);
        match (set(), set(), set()) {
            (Ok(closed), Ok(executable), Ok(changed)) => {
                Ok(Self { os, block, len: 0, page, closed, executable, changed, unseen: false })
            }
            _ => {
                // SAFETY: it was mapped above, and nobody else has it.
                unsafe { sys::release_or_park(os, block) };
                Err(Error::out_of_memory())
            }
        }
    }

    /// Appends code. Returns the offset at which it was written.
    ///
    /// ```
    /// # use gaia_jit::{Error, JitMemory};
    /// let mut jit = JitMemory::new(4096)?;
    /// assert_eq!((jit.write(&[0xc3; 10])?, jit.write(&[0xc3])?), (0, 10));
    /// assert!(matches!(jit.write(&vec![0; jit.capacity()]), Err(Error::PastCapacity { .. })));
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// After an error nothing was written.
    ///
    /// - [`Error::PastCapacity`] if the code does not fit.
    /// - [`Error::OperatingSystem`] if the system refuses to make the pages writable.
    pub fn write(&mut self, code: &[u8]) -> Result<usize, Error> {
        let at = self.len;
        self.write_at(at, code)?;
        Ok(at)
    }

    /// Writes code at an offset: over the code that is there, or behind it. The bytes between the
    /// end and `offset` keep their content, which is zeros at first.
    ///
    /// ```
    /// let mut jit = gaia_jit::JitMemory::new(4096)?;
    /// jit.write_at(16, &[0xc3])?;
    /// assert_eq!((jit.len(), jit.as_slice()[16]), (17, 0xc3));
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`JitMemory::write`].
    pub fn write_at(&mut self, offset: usize, code: &[u8]) -> Result<(), Error> {
        let end = offset.checked_add(code.len()).filter(|end| *end <= self.capacity());
        let end = end.ok_or(Error::PastCapacity { offset, len: code.len(), capacity: self.capacity() })?;
        if code.is_empty() {
            return Ok(());
        }
        let pages = self.pages_of(offset..end);
        // Noted first, because if only some of the pages can be changed, these have to be made
        // executable again.
        self.changed.insert(pages.clone());
        self.make_pages_writable(pages)?;
        // SAFETY: `offset` is inside the block.
        let to = unsafe { self.block.start.add(offset) };
        // SAFETY: the pages are writable now, and `&mut self` excludes every slice of them. `code`
        // lies elsewhere, because a slice of this block would be borrowed from `self`.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(code).cast(), code.len()) };
        self.len = self.len.max(end);
        Ok(())
    }

    /// Makes written code executable. Returns the address of the block's first byte. Only pages
    /// that changed since the last call are flushed and protected.
    ///
    /// ```
    /// let mut jit = gaia_jit::JitMemory::new(4096)?;
    /// jit.write(&[0xc3])?;
    /// assert_eq!(jit.make_executable()?, jit.as_ptr());
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::OperatingSystem`] if the system refuses. The call can be repeated.
    pub fn make_executable(&mut self) -> Result<*const u8, Error> {
        while let Some(pages) = self.changed.first_run() {
            self.make_pages_executable(pages.clone())?;
            let start = self.as_ptr().wrapping_add(pages.start * self.page);
            // SAFETY: whole pages of the block, which is mapped and readable.
            unsafe { icache::flush(start, pages.len() * self.page)? };
            self.changed.remove(pages);
            self.unseen = true;
        }
        if self.unseen {
            icache::sync_cores()?;
            self.unseen = false;
        }
        Ok(self.as_ptr())
    }

    /// Makes all code writable again. This is not needed before [`JitMemory::write`], which makes
    /// the pages writable that it needs.
    ///
    /// ```
    /// let mut jit = gaia_jit::JitMemory::new(4096)?;
    /// jit.write(&[0xc3])?;
    /// jit.make_executable()?;
    /// jit.make_writable()?; // now no thread may run it
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::OperatingSystem`] if the system refuses.
    pub fn make_writable(&mut self) -> Result<(), Error> {
        let pages = self.pages_of(0..self.len);
        self.changed.insert(pages.clone());
        self.make_pages_writable(pages)
    }

    /// Returns the code at `offset` as a function pointer. If the block is not executable, it is
    /// made so first.
    ///
    /// ```
    /// # #[cfg(any(target_arch = "x86", target_arch = "x86_64"))] {
    /// # use gaia_jit::JitMemory;
    /// let mut jit = JitMemory::new(4096)?;
    /// jit.write(&[0xb8, 1, 0, 0, 0, 0xc3])?; // mov eax, 1; ret
    /// let second = jit.write(&[0xb8, 2, 0, 0, 0, 0xc3])?;
    /// // SAFETY: the code takes nothing and returns a number.
    /// let f = unsafe { jit.entry::<unsafe extern "C" fn() -> i32>(second)? };
    /// // SAFETY: the block is alive and was not written to since.
    /// assert_eq!(unsafe { f() }, 2);
    /// # }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::PastCapacity`] if nothing was written there.
    /// - As for [`JitMemory::make_executable`].
    ///
    /// # Safety
    /// - `F` is a function pointer type that the code at `offset` is written for.
    /// - The pointer is not called after the block was dropped, and not while its pages are
    ///   writable.
    pub unsafe fn entry<F: Copy>(&mut self, offset: usize) -> Result<F, Error> {
        if offset >= self.len {
            return Err(Error::PastCapacity { offset, len: 1, capacity: self.len });
        }
        let base = self.make_executable()?;
        // A gap that a write left may lie in a page that was not written to.
        self.make_pages_executable(self.pages_of(offset..offset + 1))?;
        // SAFETY: passed on to the caller.
        Ok(unsafe { crate::entry::cast(base.wrapping_add(offset)) })
    }

    /// Returns the address of the block's first byte as a function pointer.
    ///
    /// ```
    /// # #[cfg(any(target_arch = "x86", target_arch = "x86_64"))] {
    /// let mut jit = gaia_jit::JitMemory::new(4096)?;
    /// jit.write(&[0xb8, 7, 0, 0, 0, 0xc3])?; // mov eax, 7; ret
    /// jit.make_executable()?;
    /// // SAFETY: the code takes nothing and returns a number. The block is executable and alive.
    /// assert_eq!(unsafe { jit.as_fn::<unsafe extern "C" fn() -> i32>()() }, 7);
    /// # }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Safety
    /// - As for [`JitMemory::entry`]. The block was made executable before.
    pub unsafe fn as_fn<F: Copy>(&self) -> F {
        // SAFETY: passed on to the caller.
        unsafe { crate::entry::cast(self.as_ptr()) }
    }

    /// Makes the block empty, to be written from the start. The bytes stay until they are
    /// overwritten.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Returns the bytes that were written, up to the end of the last code.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the bytes that can be written: a multiple of the page size.
    pub fn capacity(&self) -> usize {
        self.block.len
    }

    /// Returns whether nothing was written since the block was made or cleared.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the code as it is in memory.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` bytes of the block, readable in both states, initialised at least to zeros.
        // They change only through `&mut self`.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }

    /// Returns the address of the first byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.block.start.as_ptr()
    }

    fn pages_of(&self, bytes: Range<usize>) -> Range<usize> {
        bytes.start / self.page..bytes.end.div_ceil(self.page)
    }

    /// Makes pages writable that are not surely writable, with one call for each run of them.
    fn make_pages_writable(&mut self, pages: Range<usize>) -> Result<(), Error> {
        while let Some(run) = self.closed.next_run(pages.clone(), true) {
            self.executable.remove(run.clone());
            self.flip(run.clone(), Access::ReadWrite)?;
            self.closed.remove(run);
        }
        Ok(())
    }

    /// Makes pages executable that are not surely executable, with one call for each run of them.
    fn make_pages_executable(&mut self, pages: Range<usize>) -> Result<(), Error> {
        while let Some(run) = self.executable.next_run(pages.clone(), false) {
            self.closed.insert(run.clone());
            self.flip(run.clone(), Access::ReadExecute)?;
            self.executable.insert(run);
        }
        Ok(())
    }

    fn flip(&self, pages: Range<usize>, access: Access) -> Result<(), Error> {
        // SAFETY: the pages are inside the block.
        let start = unsafe { self.block.start.add(pages.start * self.page) };
        let span = Span { start, len: pages.len() * self.page };
        // SAFETY: whole pages of the block. The caller keeps away threads that run code there:
        // calling into the block is unsafe, and its safety list says so.
        Ok(unsafe { self.os.protect(span, access) }?)
    }
}

impl Drop for JitMemory {
    fn drop(&mut self) {
        // SAFETY: the whole block, which nobody uses any more.
        unsafe { sys::release_or_park(self.os, self.block) };
    }
}

impl fmt::Debug for JitMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JitMemory")
            .field("start", &self.as_ptr())
            .field("len", &self.len)
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

// SAFETY: the block is owned. Its bytes change only through `&mut self`.
unsafe impl Send for JitMemory {}
// SAFETY: as for `Send`. `&self` only reads.
unsafe impl Sync for JitMemory {}
