//! A published function.

use std::borrow::Cow;
use std::fmt;
use std::mem::ManuallyDrop;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::ptr::NonNull;

use super::core::{Core, bytes_of};
use super::events::observer::Live;
use super::handle::{self, Handle};
use super::lookup::Entry;
use crate::Error;
use crate::units::GRANULE;

/// A live, executable block of an arena. Dropping it retires it.
///
/// The block keeps its arena's memory alive: handles and blocks may be dropped in any order.
///
/// Dropping takes the block out of [`lookup`](crate::CodeArena::lookup) at once; its space is used
/// again when no guard that was taken before the drop is left. Without guards that is at once too:
/// whoever drops a block must know that no thread is running it, or take guards. In a forked child
/// a drop changes nothing.
pub struct CodeBlock {
    /// Kept by this block, which is counted in a heap.
    core: NonNull<Core>,
    start: u32,
    len: u32,
}

// A runtime keeps one for each function.
const _: () = assert!(
    size_of::<CodeBlock>() == size_of::<usize>() + 8 && size_of::<Option<CodeBlock>>() == size_of::<CodeBlock>()
);

// SAFETY: it is used like an `Arc` of the core, which is both; the block itself is never changed.
unsafe impl Send for CodeBlock {}
// SAFETY: as above.
unsafe impl Sync for CodeBlock {}

impl CodeBlock {
    /// Returns the block of an entry.
    ///
    /// # Safety
    /// - The entry is live in the handle's arena and counted in a heap, and no other value owns it.
    pub(crate) unsafe fn new(handle: &Handle, entry: Entry) -> Self {
        Self { core: handle.core(), start: entry.start, len: entry.len }
    }

    pub(super) fn core(&self) -> &Core {
        // SAFETY: this block is counted in a heap, which keeps the core.
        unsafe { self.core.as_ref() }
    }

    /// The block as it was entered, without its tag.
    fn entry(&self) -> Entry {
        Entry::new(self.start, self.len, 0)
    }

    /// The address of the first byte, aligned as asked for.
    pub fn as_ptr(&self) -> *const u8 {
        self.core().memory.address(self.offset())
    }

    pub(super) fn offset(&self) -> usize {
        self.start as usize * GRANULE
    }

    /// Bytes of code, as published.
    #[allow(clippy::len_without_is_empty, reason = "no block is empty")]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// The code, as it stands in memory; a copy of it in [`PerThread`](crate::WxMode::PerThread),
    /// where threads differ in what they may read, and in a forked child in modes with shared
    /// memory, where it is what the parent has there now. A copy is allocated, so a signal handler
    /// may call this only where there is none.
    ///
    /// ```
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let block = arena.publish(&[0x90, 0xc3])?;
    /// assert_eq!(block.as_bytes()[..], [0x90, 0xc3]);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn as_bytes(&self) -> Cow<'_, [u8]> {
        // SAFETY: this block's, which lives for as long as it is borrowed.
        unsafe { Live::new(&self.core().memory, self.offset(), self.len()) }.bytes()
    }

    /// What [`Code::tag`](crate::Code::tag) said.
    pub fn tag(&self) -> u64 {
        self.core().lookup.at(self.start).map_or(0, |entry| entry.tag)
    }

    /// The first byte as a function pointer. Its size is checked when the program is compiled.
    ///
    /// ```
    /// # #[cfg(target_arch = "x86_64")] {
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let block = arena.publish(&[0x8d, 0x04, 0x37, 0xc3])?; // lea eax, [rdi + rsi]; ret
    /// // SAFETY: this is what the code above does, in the calling convention of Unix.
    /// let add = unsafe { block.as_fn::<unsafe extern "sysv64" fn(i32, i32) -> i32>() };
    /// // SAFETY: the block is alive.
    /// assert_eq!(unsafe { add(40, 2) }, 42);
    /// # }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Safety
    /// - `F` is a function pointer type (`extern` and, as a rule, `unsafe`) that the code is
    ///   written for.
    /// - The pointer is not called after the block was dropped, but for a thread that holds a guard
    ///   taken before.
    pub unsafe fn as_fn<F: Copy>(&self) -> F {
        self.core().memory.let_read();
        // SAFETY: passed on to the caller.
        unsafe { crate::entry::cast(self.as_ptr()) }
    }

    /// Gives the block up without retiring it: it lives until
    /// [`CodeArena::from_raw`](crate::CodeArena::from_raw), and keeps the arena's memory alive.
    pub fn into_raw(self) -> *const u8 {
        ManuallyDrop::new(self).as_ptr()
    }

    /// Gives back what lies behind the first `len` bytes, for code that became shorter than what
    /// was published. To the last byte that stays it is what it was; lookups, in signal handlers
    /// too, see the old length or the new one.
    ///
    /// The space waits for guards as that of a dropped block does: a thread may be running it. Less
    /// than 16 bytes, and what is left of the last 16, stay with the block.
    ///
    /// ```
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let mut block = arena.publish(&[0xc3; 1_000])?;
    /// block.shrink(100)?;
    /// assert_eq!((block.len(), arena.stats().live_bytes), (100, 100));
    /// assert!(arena.lookup(block.as_ptr().wrapping_add(100)).is_none());
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::ZeroSize`] for no bytes, [`Error::PastCapacity`] for more than there are.
    /// - [`Error::Unsupported`] in an arena with observers: profilers and unwinders know functions
    ///   by the length with which they were published, and another function may come to lie within.
    ///   [`CodeArena::publish_with`][with] cuts before it tells them.
    /// - [`Error::Forked`] in a child.
    ///
    /// [with]: crate::CodeArena::publish_with
    pub fn shrink(&mut self, len: usize) -> Result<(), Error> {
        match len {
            0 => return Err(Error::ZeroSize),
            len if len > self.len() => return Err(Error::PastCapacity { offset: 0, len, capacity: self.len() }),
            _ => {}
        }
        self.core().memory.check_own("shrink")?;
        let is_observed = || !self.core().observers.is_empty();
        let refused = match &self.core().kept {
            Some(kept) => !kept.cut(self.start, len as u32, is_observed),
            None => is_observed(),
        };
        if refused {
            return Err(Error::unsupported("shrinking a block", "observers know it by its length"));
        }
        if len < self.len() {
            self.core().cut_off(self.start, self.len, len as u32);
            self.len = len as u32;
        }
        Ok(())
    }

    /// Overwrites code that may be in use. The bytes are flushed, and other cores brought up to
    /// date, before it returns.
    ///
    /// # Errors
    /// [`Error::PastCapacity`] outside the block; [`Error::Unsupported`] in `Flip` where the system
    /// has no kernel write; [`Error::Forked`] in a child. [`Error::OperatingSystem`] if the write
    /// is refused, or other cores cannot be reached any more: then some of the bytes may be there,
    /// or all of them but not for every core, and the block is not to be run before a patch of the
    /// same bytes succeeds.
    ///
    /// # Safety
    /// - No other thread writes the same bytes, and no slice from [`CodeBlock::as_bytes`] is used
    ///   from now on. No observer is being [attached](crate::CodeArena::attach).
    /// - No thread runs the bytes while they change, or the architecture permits just this change
    ///   under a running thread. The store is not promised to be one piece.
    pub unsafe fn patch(&self, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        if offset.checked_add(bytes.len()).is_none_or(|end| end > self.len()) {
            return Err(Error::PastCapacity { offset, len: bytes.len(), capacity: self.len() });
        }
        let memory = &self.core().memory;
        memory.check_own("patch")?;
        if bytes.is_empty() {
            return Ok(());
        }
        let at = self.offset() + offset;
        // SAFETY: inside this live block; the rest is passed on to the caller.
        unsafe { memory.write(at, bytes)? };
        memory.counters.flushed.add(bytes.len() as u64);
        memory.flush(at..at + bytes.len())?;
        memory.sync_cores()
    }
}

// What is behind a block is whole after a panic, whoever panicked: calls of code can be caught.
impl UnwindSafe for CodeBlock {}
impl RefUnwindSafe for CodeBlock {}

impl Drop for CodeBlock {
    fn drop(&mut self) {
        // SAFETY: this block owns its entry, and is gone after this.
        unsafe { handle::retire(self.core, self.start, self.len) };
    }
}

impl fmt::Debug for CodeBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = bytes_of(self.entry().run());
        f.debug_struct("CodeBlock")
            .field("start", &self.as_ptr())
            .field("len", &self.len())
            .field("tag", &self.tag())
            .field("offset", &bytes.start)
            .finish()
    }
}
