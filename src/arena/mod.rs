//! The code cache.
//!
//! - [`CodeArena`], [`builder`], [`block`], [`batch`], [`code`], [`reserve`], [`typed`], [`weak`]:
//!   what users hold. `waiting`: what else waits for guards.
//! - [`core`](mod@core): what all of them share; [`handle`]: who keeps it alive.
//! - [`heaps`]: who owns which space, and the locks. [`life`]: from placed to given back.
//! - [`lookup`]: from an address to a block. [`guards`]: which threads may be running what was
//!   dropped.
//! - [`events`]: what observers are told. [`figures`]: statistics and maps.
//! - [`data`]: data beside the code. `in_place`: code that somebody else writes at its final
//!   address, for Cranelift.

mod batch;
mod block;
mod builder;
mod code;
mod core;
mod data;
mod events;
mod figures;
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
/// A handle; clones share the arena. The memory lives as long as any handle, block, batch or guard
/// does.
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
    /// An arena with the default settings: `Flip`, 256 MiB of address space (128 MiB on AArch64, 32
    /// MiB on 32 bits).
    ///
    /// # Errors
    /// As for [`ArenaBuilder::build`].
    pub fn new() -> Result<Self, Error> {
        Self::builder().build()
    }

    /// Settings for an arena.
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

    /// Sends this thread to one of the heaps, which are made as far as there may be so many.
    #[cfg(all(any(test, fuzzing), not(loom)))]
    pub(crate) fn go_to_heap(&self, index: usize) {
        self.core().heaps.go_to(index);
    }

    /// Copies `code` into the arena and makes it executable.
    ///
    /// When this returns, a thread that receives the address by any synchronising means runs the
    /// new bytes, also where the address was used before.
    ///
    /// # Errors
    /// [`Error::ArenaFull`] is the cue to evict. [`Error::ZeroSize`], [`Error::TooLarge`],
    /// [`Error::BadAlignment`], [`Error::OperatingSystem`], [`Error::Forked`]. Whatever failed, the
    /// arena is as it was.
    pub fn publish<'c>(&self, code: impl Into<Code<'c>>) -> Result<CodeBlock, Error> {
        Core::publish(&self.handle, code.into())
    }

    /// Begins a batch: many functions, one publication.
    pub fn batch(&self) -> Batch {
        Batch::new(Arc::clone(&self.handle))
    }

    /// Declares that this thread may be running code of the arena, until the guard is dropped.
    ///
    /// Space of code that is dropped from now on is not used again before; space of code dropped
    /// earlier is. Take the guard *before* reading the pointer to call from wherever it is
    /// published, and drop it after the last return.
    ///
    /// Costs the same however many guards there are, and allocates nothing: a signal handler may
    /// call it, and may drop the guard. Guards of 16 ages are told apart. While guards of that many
    /// ages are held, a block that is dropped may also wait for guards taken after its drop: for
    /// those taken before the first call that drops, places or counts code once one of these ages
    /// has ended.
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

    /// The live block that holds the byte at `address`: wait-free, allocates nothing, safe in a
    /// signal handler.
    ///
    /// A block is found from a moment before its publication returns, when its bytes may not all be
    /// there yet. A guard protects a block that was found under it, unless its publication fails.
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

    /// As [`CodeArena::lookup`] for many addresses at once, for instance of a whole stack: their
    /// cache misses overlap, so each costs a fraction. The shorter of the two slices counts; what
    /// is left of `found` becomes `None`. Each answer is right for its address at some moment
    /// during the call, which need not be the same moment for all.
    ///
    /// A return address may lie behind the last byte of the function that called; ask for `pc - 1`.
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

    /// Takes back a block given up with [`CodeBlock::into_raw`].
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
    /// [`Error::NotInArena`] if no live block of this arena begins there.
    ///
    /// # Safety
    /// - The block was given up with `into_raw` and not taken back since.
    #[allow(clippy::wrong_self_convention, reason = "the name is the counterpart of `into_raw`")]
    pub unsafe fn from_raw(&self, address: *const u8) -> Result<CodeBlock, Error> {
        let offset = self.core().memory.offset_of(address);
        let found =
            offset.and_then(|offset| self.core().lookup.find(offset).filter(|e| e.start as usize * GRANULE == offset));
        let entry = found.ok_or(Error::NotInArena { address: address.addr() })?;
        // SAFETY: found live just now; its block was forgotten in `into_raw`, and by the caller
        // nobody else took it back.
        Ok(unsafe { CodeBlock::new(&self.handle, entry) })
    }

    /// What the arena holds, and what it has asked of the system. In a forked child whose parent
    /// was just at work, only the counters are known.
    pub fn stats(&self) -> Stats {
        self.core().stats()
    }

    /// What every page holds, and the largest holes. Empty in a forked child whose parent was just
    /// at work.
    pub fn map(&self) -> Map {
        self.core().map()
    }

    /// Gives the memory of wholly empty pages back to the system; returns the bytes. The address
    /// space stays.
    ///
    /// In `DualMap` only Linux takes memory back while it is mapped. Elsewhere it goes with the
    /// arena, and this returns 0. In [`Given`](WxMode::Given) memory the pages are filled with
    /// traps, and this returns 0.
    ///
    /// # Errors
    /// [`Error::OperatingSystem`] if the system refuses; pages that it did take back stay so, and
    /// nothing is lost. [`Error::Unsupported`] in `Flip` and `PerThread` if the arena is sealed;
    /// [`Error::Forked`] in a child.
    pub fn trim(&self) -> Result<usize, Error> {
        self.core().trim()
    }

    /// Puts code into huge pages, now: each stretch of 2 MiB of which at least three quarters hold
    /// memory. Returns the bytes.
    ///
    /// Code runs on meanwhile, but a thread that needs a page being moved waits for it, so this is
    /// for a quiet moment after much was published. It works whatever [`ArenaBuilder::huge_pages`]
    /// said. What is published into such a stretch later, in `Flip` by a large batch, can break it
    /// up again.
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
    /// [`Error::OperatingSystem`] where the system cannot (Linux can since 6.1, in `Flip` since
    /// 6.18) or has no memory, for any stretch. Stretches in which a batch has pages open are
    /// passed over. [`Error::Unsupported`] over [`Given`](WxMode::Given) memory. [`Error::Forked`]
    /// in a child.
    pub fn collapse(&self) -> Result<usize, Error> {
        self.core().collapse()
    }

    /// The modes that were asked for before [`CodeArena::mode`] and that the system refuses, each
    /// with the reason.
    ///
    /// Empty unless the arena was built with [`ArenaBuilder::modes`].
    pub fn refused(&self) -> &[(WxMode, Error)] {
        &self.core().refused
    }

    /// How this arena keeps W^X.
    pub fn mode(&self) -> WxMode {
        self.core().memory.mode()
    }

    /// The address of the first byte that can be code.
    pub fn base(&self) -> *const u8 {
        self.core().memory.address(self.core().memory.first())
    }

    /// Whether a direct branch reaches from all of the arena to `address`, and back: without a
    /// [stub](crate::Batch::reserve_with_stubs).
    ///
    /// ```
    /// # use gaia_jit::CodeArena;
    /// let arena = CodeArena::builder().capacity(1 << 20).build()?;
    /// let end = arena.base().wrapping_add(arena.capacity());
    /// assert!(arena.reaches(arena.base()) && arena.reaches(end));
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn reaches(&self, address: *const u8) -> bool {
        self.core().reaches(address)
    }

    /// Whether the arena belongs to the process that forked this one: then its code can be run,
    /// looked up and dropped here, and every other call is [`Error::Forked`].
    pub fn is_inherited(&self) -> bool {
        !self.core().memory.is_own()
    }

    /// Bytes of address space for code.
    pub fn capacity(&self) -> usize {
        self.core().memory.capacity()
    }

    /// Whether `address` lies in this arena's address space for code or for data, used or not.
    pub fn contains(&self, address: *const u8) -> bool {
        self.core().memory.contains(address)
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
