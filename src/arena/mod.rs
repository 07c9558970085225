//! The code cache: many functions in one reservation of address space.
//!
//! ```text
//! reservation   | no access | code                                       | no access | data area | no access |
//!                           | span 0 | span 1 | span 2 | span 3 | ...      64 KiB each, never less than a page
//! owner                       heap 1   heap 1   heap 2   pool
//! blocks                      [a][b].[ c      ]..[d].    (free)            [x] block   . hole
//!                                  \ a block may lie across spans of one owner
//!
//! heap      lock, cursor, hints (small holes), index (large holes), blocks that wait for guards, counts
//! lookup    one word for each span -> one line for each bin of 2 KiB -> start and length of a block
//! guards    16 counters, each with its epoch
//! ```
//!
//! The life of a block:
//!
//! ```text
//!            heap's lock            no lock                      heap's lock          heap's lock
//!   free ----------------> placed ----------> live ----------> retired ----------> free
//!          granules taken,         bytes copied,     drop: the          no guard of its
//!          lookup entered          flushed, cores    lookup forgets     epoch or before
//!                                  synchronised      the block          it is left
//! ```
//!
//! - [`CodeArena`], [`builder`], [`block`], [`batch`], [`code`], [`reserve`], [`typed`], [`patch`]
//!   and [`weak`] are the public interface.
//! - [`core`](mod@core) is the state that they share. [`handle`] keeps it alive.
//! - [`heaps`] owns the space, and has the locks. [`life`] leads from placing to decommitting.
//! - [`lookup`] finds the block at an address.
//! - [`guards`] counts the guards. `waiting` lists what waits for them beside blocks.
//! - [`events`] calls the observers. [`figures`] has statistics and maps.
//! - [`data`] places data beside the code. `in_place` is for Cranelift, which writes code at its
//!   final address.
//!
//! Locks are taken in this order: `system` (held while the system or an observer is called about
//! granules that are in flight), the heaps by their numbers, then the pool or the epochs of the
//! guards. A thread that holds one heap only tries to lock others.

mod batch;
mod block;
mod builder;
mod code;
mod core;
mod data;
mod events;
mod figures;
mod getters;
mod guards;
mod handle;
mod heaps;
#[cfg(feature = "cranelift")]
mod in_place;
mod life;
mod lookup;
#[cfg(all(test, loom))]
mod loom_models;
mod patch;
mod reserve;
#[cfg(all(test, not(loom)))]
mod tests;
mod typed;
#[cfg(all(feature = "cache", not(loom)))]
mod waiting;
mod weak;

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};

#[cfg(feature = "cranelift")]
pub(crate) use batch::notes::Notes;
#[cfg(all(feature = "cache", not(loom)))]
pub(crate) use batch::room::{MakeRoom, Room};
pub use batch::{Batch, DataSlot, Slot};
pub use block::CodeBlock;
pub use builder::ArenaBuilder;
pub use code::{Code, UnwindInfo};
use core::Core;
pub use data::block::{DataAccess, DataBlock};
#[cfg(feature = "cranelift")]
pub(crate) use data::{DataKind, DataPages};
pub use events::attach::Blocks;
pub use events::observer::{Observer, Published, Reservation};
pub use figures::map::{Hole, Map, PageUse};
pub use figures::stats::Stats;
pub use guards::Guard;
use handle::Handle;
#[cfg(feature = "cranelift")]
pub(crate) use in_place::InPlace;
pub use lookup::BlockInfo;
pub use patch::Word;
pub use reserve::Reserve;
pub use typed::Typed;
pub use weak::WeakArena;

use crate::Error;
pub use crate::modes::{GivenCopy, GivenMemory, GivenWriter, Unfilled, WxMode};
use crate::sync::Arc;
use crate::units::GRANULE;

/// A code cache: one reservation of address space into which many functions are packed.
///
/// This type is a handle. Its clones share the arena. The memory lives as long as any handle,
/// block, batch or guard of the arena.
///
/// ```
/// use gaia_jit::CodeArena;
///
/// let arena = CodeArena::builder().capacity(1 << 20).build()?;
/// let block = arena.publish(&[0xc3])?;
/// assert!(arena.contains(block.as_ptr()));
/// drop(block);
/// assert_eq!(arena.stats().live_blocks, 0);
/// # Ok::<(), gaia_jit::Error>(())
/// ```
#[derive(Clone)]
pub struct CodeArena {
    handle: Arc<Handle>,
}

// As for `CodeBlock`.
impl UnwindSafe for CodeArena {}
impl RefUnwindSafe for CodeArena {}

impl CodeArena {
    /// Builds an arena with the default settings: `Flip`, and 256 MiB of address space (128 MiB on
    /// AArch64, 32 MiB on 32-bit systems).
    ///
    /// ```
    /// let arena = gaia_jit::CodeArena::new()?;
    /// let block = arena.publish(&[0xc3])?;
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`ArenaBuilder::build`].
    pub fn new() -> Result<Self, Error> {
        Self::builder().build()
    }

    /// Returns the default settings, to be changed before the arena is built.
    pub fn builder() -> ArenaBuilder {
        ArenaBuilder::new()
    }

    fn from_core(core: Core) -> Self {
        core.announce_reserved();
        Self { handle: Arc::new(Handle::new(core)) }
    }

    fn core(&self) -> &Core {
        &self.handle
    }

    #[cfg(feature = "cranelift")]
    fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    /// Sends this thread to one of the heaps. Heaps up to that number are made, as far as the arena
    /// may have so many.
    #[cfg(all(any(test, fuzzing), not(loom)))]
    pub(crate) fn go_to_heap(&self, index: usize) {
        self.core().heaps.go_to(index);
    }

    /// Copies `code` into the arena and makes it executable.
    ///
    /// When this returns, a thread that receives the address by any means of synchronisation runs
    /// the new bytes, even if the address was used before.
    ///
    /// A signal handler must not call this, because it takes locks.
    ///
    /// ```
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let block = arena.publish(&[0x90, 0xc3])?;
    /// assert_eq!(block.len(), 2);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// After an error the arena is as it was before the call.
    ///
    /// - [`Error::ArenaFull`] if no hole is large enough. Evict code and try again.
    /// - [`Error::ZeroSize`] if there are no bytes.
    /// - [`Error::TooLarge`] if the code is larger than the capacity.
    /// - [`Error::BadAlignment`] if the alignment is no power of two, or above the limit of
    ///   [`Code::align`].
    /// - [`Error::OperatingSystem`] if a system call fails.
    /// - [`Error::Forked`] in a forked child.
    ///
    /// # Panics
    /// If an [`Observer`] panics. The code is then dropped again.
    pub fn publish<'c>(&self, code: impl Into<Code<'c>>) -> Result<CodeBlock, Error> {
        Core::publish(&self.handle, code.into())
    }

    /// Begins a batch: functions that are published together.
    pub fn batch(&self) -> Batch {
        Batch::new(Arc::clone(&self.handle))
    }

    /// Takes a guard, which declares that this thread may be running code of the arena. It lasts
    /// until the guard is dropped.
    ///
    /// The space of code that is dropped from now on is not used again while the guard lives. Code
    /// that was dropped earlier is not protected. Take the guard *before* you read the address of a
    /// function from the place where it is published. Drop the guard after the last return from the
    /// code.
    ///
    /// The cost does not depend on the number of guards. If guards of more than 16 ages are held at
    /// once, a dropped block may also wait for some guards that were taken after its drop. (An age
    /// is the time between two drops.)
    ///
    /// # Signal safety
    /// A signal handler may call this and may drop the guard, because neither allocates or takes a
    /// lock.
    ///
    /// ```
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let block = arena.publish(&[0xc3])?;
    /// let guard = arena.pin();
    /// drop(block);
    /// assert_eq!(arena.stats().pending_blocks, 1);
    /// drop(guard);
    /// assert_eq!(arena.stats().pending_blocks, 0);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn pin(&self) -> Guard<'_> {
        self.core().memory.let_read();
        self.core().guards.pin()
    }

    /// Returns the live block that contains the byte at `address`.
    ///
    /// The lookup is wait-free: it takes no lock, and its number of steps is bounded.
    ///
    /// A block is found from a moment before its publication returns. Its bytes may not all be
    /// there at that moment. A guard protects a block that was found under it, unless the
    /// publication of the block fails.
    ///
    /// # Signal safety
    /// A signal handler may call this, because it allocates nothing and takes no lock.
    ///
    /// # Fork
    /// A forked child may call this.
    ///
    /// ```
    /// # use gaia_jit::Code;
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let block = arena.publish(Code::new(&[0x90, 0x90, 0xc3]).tag(17))?;
    /// let hit = arena.lookup(block.as_ptr().wrapping_add(2)).unwrap();
    /// assert_eq!((hit.start, hit.len, hit.tag), (block.as_ptr(), 3, 17));
    /// assert!(arena.lookup(block.as_ptr().wrapping_add(3)).is_none());
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn lookup(&self, address: *const u8) -> Option<BlockInfo> {
        let offset = self.core().memory.offset_of(address)?;
        self.core().lookup.find(offset).map(|entry| self.core().info(entry))
    }

    /// Looks up many addresses at once, for instance those of a whole stack. Each costs a fraction
    /// of a [`lookup`](Self::lookup), because their cache misses overlap.
    ///
    /// If the slices differ in length, the shorter one counts. The rest of `found` becomes `None`.
    /// Each answer is right for its address at some moment during the call. That moment may differ
    /// from address to address.
    ///
    /// A return address may lie behind the last byte of the function that made the call. Look up
    /// `pc - 1` instead.
    ///
    /// # Signal safety
    /// As for [`lookup`](Self::lookup).
    ///
    /// ```
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let (first, second) = (arena.publish(&[0xc3])?, arena.publish(&[0x90, 0xc3])?);
    /// let mut found = [None; 3];
    /// arena.lookup_many(&[first.as_ptr(), std::ptr::null(), second.as_ptr().wrapping_add(1)], &mut found);
    /// assert_eq!(found.map(|block| block.map(|block| block.len)), [Some(1), None, Some(2)]);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn lookup_many(&self, addresses: &[*const u8], found: &mut [Option<BlockInfo>]) {
        const PIECE: usize = 64;
        let count = addresses.len().min(found.len());
        let (answers, rest) = found.split_at_mut(count);
        rest.fill(None);
        for (addresses, answers) in addresses.chunks(PIECE).zip(answers.chunks_mut(PIECE)) {
            let (mut offsets, mut entries) = ([None; PIECE], [None; PIECE]);
            for (offset, address) in offsets.iter_mut().zip(addresses) {
                *offset = self.core().memory.offset_of(*address);
            }
            self.core().lookup.find_many(&offsets[..answers.len()], &mut entries);
            for (answer, entry) in answers.iter_mut().zip(entries) {
                *answer = entry.map(|entry| self.core().info(entry));
            }
        }
    }

    /// Takes back a block that was given up with [`CodeBlock::into_raw`].
    ///
    /// ```
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let raw = arena.publish(&[0xc3])?.into_raw();
    /// // SAFETY: `raw` came from `into_raw` on a block of this arena, and was not taken back before.
    /// let block = unsafe { arena.from_raw(raw)? };
    /// assert_eq!(block.as_ptr(), raw);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::NotInArena`] if no live block of this arena begins at `address`.
    ///
    /// # Safety
    /// - The block was given up with `into_raw` and not taken back since.
    #[allow(clippy::wrong_self_convention, reason = "the name is the counterpart of `into_raw`")]
    pub unsafe fn from_raw(&self, address: *const u8) -> Result<CodeBlock, Error> {
        let offset = self.core().memory.offset_of(address);
        let found =
            offset.and_then(|offset| self.core().lookup.find(offset).filter(|e| e.start as usize * GRANULE == offset));
        let entry = found.ok_or(Error::NotInArena { address: address.addr() })?;
        // SAFETY: the lookup found it live just now. `into_raw` forgot its block, and the caller
        // promises that nobody else took it back.
        Ok(unsafe { CodeBlock::new(&self.handle, entry) })
    }

    /// Returns the memory of wholly empty pages to the system, and the number of these bytes to the
    /// caller. The address space stays reserved.
    ///
    /// In `DualMap` only Linux takes memory back while it is mapped. Elsewhere this returns 0, and
    /// the memory is returned when the arena is dropped. In [`Given`](WxMode::Given) memory the
    /// pages are filled with traps, and this returns 0.
    ///
    /// ```
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// drop(arena.publish(&[0xc3; 100_000])?);
    /// assert!(arena.trim()? <= 128 << 10);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::OperatingSystem`] if the system refuses. Pages that it took back before stay
    ///   decommitted. The arena remains usable.
    /// - [`Error::Unsupported`] in `Flip` and `PerThread` if the arena is
    ///   [sealed](ArenaBuilder::seal).
    /// - [`Error::Forked`] in a forked child.
    pub fn trim(&self) -> Result<usize, Error> {
        self.core().trim()
    }

    /// Moves code into huge pages now: every 2 MiB of which at least three quarters hold memory.
    /// Returns the number of bytes in these huge pages.
    ///
    /// Code can run meanwhile, but a thread that needs a page that is being moved waits for it. So
    /// call this at a quiet moment, after much code was published. It does not depend on
    /// [`ArenaBuilder::huge_pages`]. Code that is published there later can break a huge page up
    /// again, in `Flip` if it is in a large batch.
    ///
    /// ```
    /// # let arena = gaia_jit::CodeArena::builder().capacity(8 << 20).build()?;
    /// let blocks: Vec<_> = (0..40).map(|_| arena.publish(&[0xc3; 100_000])).collect::<Result<_, _>>()?;
    /// match arena.collapse() {
    ///     Ok(bytes) => assert!(bytes >= 2 << 20),
    ///     Err(refused) => println!("no huge pages here: {refused}"),
    /// }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::OperatingSystem`] if the system cannot move code into huge pages, or has no
    ///   memory for any of them. Linux can since 6.1, and since 6.18 in `Flip`. A part in which a
    ///   batch has pages open is left out.
    /// - [`Error::Unsupported`] over [`Given`](WxMode::Given) memory.
    /// - [`Error::Forked`] in a forked child.
    pub fn collapse(&self) -> Result<usize, Error> {
        self.core().collapse()
    }
}

impl fmt::Debug for CodeArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodeArena")
            .field("base", &self.base())
            .field("capacity", &self.capacity())
            .field("mode", &self.mode())
            .finish_non_exhaustive()
    }
}
