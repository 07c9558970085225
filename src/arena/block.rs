//! A published function, and the value that owns it.
//!
//! A [`CodeBlock`] is 16 bytes on a 64-bit system: a pointer to the arena's core, and the place and
//! length of the function. It has no count of its own. The heap that owns its first span counts it,
//! and the sum of these counts keeps the core alive (`handle`).
//!
//! ```text
//! CodeBlock   | core: 8 bytes | start, in granules: 4 | length, in bytes: 4 |
//! ```
//!
//! Everything else that is known of a function is in the lookup: a block asks there for its tag. A
//! drop takes the lock of one heap (`life::retire`).

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

/// A live, executable block of an arena. Dropping it retires the function.
///
/// The block keeps the memory of its arena alive, so handles and blocks may be dropped in any
/// order.
///
/// Dropping removes the block from [`lookup`](crate::CodeArena::lookup) at once. Its space is used
/// again when every guard that was taken before the drop has ended. If there is no such guard, it
/// may be used again at once. So before you drop a block, be sure that no thread is running it, or
/// that every thread that may run it holds a [guard](crate::CodeArena::pin).
///
/// ```
/// let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
/// let block = arena.publish(&[0xc3; 20])?;
/// let address = block.as_ptr();
/// assert!(arena.lookup(address.wrapping_add(19)).is_some());
/// drop(block);
/// assert!(arena.lookup(address).is_none());
/// # Ok::<(), gaia_jit::Error>(())
/// ```
///
/// # Signal safety
/// A signal handler must not drop a block, because the drop takes a lock.
///
/// # Fork
/// In a forked child a drop changes nothing.
pub struct CodeBlock {
    /// The shared state of the arena. This block keeps it alive, because a heap counts the block.
    core: NonNull<Core>,
    start: u32,
    len: u32,
}

// A runtime keeps one of these for each function, so it is small.
const _: () = assert!(
    size_of::<CodeBlock>() == size_of::<usize>() + 8 && size_of::<Option<CodeBlock>>() == size_of::<CodeBlock>()
);

// SAFETY: the block is used like an `Arc` of the core, which is `Send` and `Sync`. The block itself
// is never changed.
unsafe impl Send for CodeBlock {}
// SAFETY: as above.
unsafe impl Sync for CodeBlock {}

impl CodeBlock {
    /// Returns the block of an entry.
    ///
    /// # Safety
    /// - The entry is live in the handle's arena and counted in a heap. No other value owns it.
    pub(crate) unsafe fn new(handle: &Handle, entry: Entry) -> Self {
        Self { core: handle.core(), start: entry.start, len: entry.len }
    }

    pub(super) fn core(&self) -> &Core {
        // SAFETY: this block is counted in a heap, and that count keeps the core alive.
        unsafe { self.core.as_ref() }
    }

    /// Returns the block as it was entered in the lookup, without its tag.
    fn entry(&self) -> Entry {
        Entry::new(self.start, self.len, 0)
    }

    /// Returns the address of the first byte. It has the alignment that was asked for.
    pub fn as_ptr(&self) -> *const u8 {
        self.core().memory.address(self.offset())
    }

    pub(super) fn offset(&self) -> usize {
        self.start as usize * GRANULE
    }

    /// Returns the bytes of code, without padding.
    #[allow(clippy::len_without_is_empty, reason = "no block is empty")]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Returns the code as it is in memory.
    ///
    /// The bytes are a copy in [`PerThread`](crate::WxMode::PerThread), because threads differ in
    /// what they may read. They are also a copy in a forked child in modes with shared memory; the
    /// copy shows what the parent has there at that moment.
    ///
    /// # Signal safety
    /// A signal handler may call this only where it makes no copy, because a copy is allocated.
    ///
    /// ```
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let block = arena.publish(&[0x90, 0xc3])?;
    /// assert_eq!(block.as_bytes()[..], [0x90, 0xc3]);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn as_bytes(&self) -> Cow<'_, [u8]> {
        // SAFETY: these are the bytes of this block, which lives as long as it is borrowed.
        unsafe { Live::new(&self.core().memory, self.offset(), self.len()) }.bytes()
    }

    /// Returns the number that [`Code::tag`](crate::Code::tag) set.
    pub fn tag(&self) -> u64 {
        self.core().lookup.at(self.start).map_or(0, |entry| entry.tag)
    }

    /// Returns the address of the first byte as a function pointer. The size of `F` is checked when
    /// the program is compiled.
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
    /// - `F` is a function pointer type (`extern`, and usually `unsafe`) that the code is written
    ///   for.
    /// - The pointer is not called after the block was dropped, except by a thread that holds a
    ///   guard taken before the drop.
    pub unsafe fn as_fn<F: Copy>(&self) -> F {
        self.core().memory.let_read();
        // SAFETY: passed on to the caller.
        unsafe { crate::entry::cast(self.as_ptr()) }
    }

    /// Gives the block up without retiring it, and returns its address. The function lives until
    /// [`CodeArena::from_raw`](crate::CodeArena::from_raw) takes it back, and keeps the memory of
    /// the arena alive.
    ///
    /// ```
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let raw = arena.publish(&[0xc3])?.into_raw();
    /// assert_eq!(arena.stats().live_blocks, 1);
    /// // SAFETY: given up just now, and taken back once.
    /// drop(unsafe { arena.from_raw(raw)? });
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn into_raw(self) -> *const u8 {
        ManuallyDrop::new(self).as_ptr()
    }

    /// Frees the space behind the first `len` bytes, for code that became shorter than the
    /// published bytes. The first `len` bytes do not change. A lookup sees the old length or the
    /// new one, also in a signal handler.
    ///
    /// The freed space waits for guards, as the space of a dropped block does, because a thread may
    /// be running it. Space is freed in units of 16 bytes, so the rest of the last 16 bytes stays
    /// with the block.
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
    /// - [`Error::ZeroSize`] if `len` is 0.
    /// - [`Error::PastCapacity`] if `len` is more than the block has.
    /// - [`Error::Unsupported`] if the arena has observers. Profilers and unwinders know a function
    ///   by the length with which it was published, and another function may later lie in the freed
    ///   space. [`CodeArena::publish_with`][with] shortens a function before observers are called.
    /// - [`Error::Forked`] in a forked child.
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
            return Err(Error::unsupported("shrinking a block", "observers know it by its length: publish it anew"));
        }
        if len < self.len() {
            self.core().cut_off(self.start, self.len, len as u32);
            self.len = len as u32;
        }
        Ok(())
    }

    /// Overwrites published code. When this returns, the bytes were flushed and other cores were
    /// synchronised.
    ///
    /// ```
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let block = arena.publish(&[0x90, 0xc3])?;
    /// // SAFETY: no thread runs it, and nobody holds a slice of its bytes.
    /// match unsafe { block.patch(0, &[0xc3]) } {
    ///     Ok(()) => assert_eq!(block.as_bytes()[..], [0xc3, 0xc3]),
    ///     Err(refused) => println!("publish it anew: {refused}"), // `Flip` without the kernel write
    /// }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::PastCapacity`] if the bytes do not lie inside the block.
    /// - [`Error::Unsupported`] in `Flip` if the system has no kernel write.
    /// - [`Error::Forked`] in a forked child.
    /// - [`Error::OperatingSystem`] if the system refuses the write, or if other cores cannot be
    ///   synchronised. Some of the bytes may then be written, or all of them but not visible to
    ///   every core. Do not run the block before a patch of the same bytes succeeds.
    ///
    /// # Safety
    /// - No other thread writes the same bytes, and no slice from [`CodeBlock::as_bytes`] is used
    ///   from now on. No observer is being [attached](crate::CodeArena::attach).
    /// - No thread runs the bytes while they change, or the architecture permits this change under
    ///   a running thread. The write may take more than one store.
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
        // SAFETY: the bytes lie inside this live block. The rest is passed on to the caller.
        unsafe { memory.write(at, bytes)? };
        memory.counters.flushed.add(bytes.len() as u64);
        memory.flush(at..at + bytes.len())?;
        memory.sync_cores()
    }
}

// A block stays valid after a panic, because no panic leaves it half changed. So calls of code can
// be caught.
impl UnwindSafe for CodeBlock {}
impl RefUnwindSafe for CodeBlock {}

impl Drop for CodeBlock {
    fn drop(&mut self) {
        // SAFETY: this block owns its entry, and is not used after this.
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
