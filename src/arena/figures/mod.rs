//! What an arena says of itself: numbers ([`stats`]), its use page by page ([`map`]), its mode and
//! its place.
//!
//! | question | answer from |
//! |---|---|
//! | how much is live, free, waiting, resident | the counts of all heaps, all locked at once |
//! | how often was the system called | the counters of the region, without a lock |
//! | which pages are in use | the tables of granules, all heaps locked |
//! | mode, base, capacity | constants of the arena |
//!
//! In a forked child a heap may be locked for good, so the first three give what they can without
//! it.

pub(super) mod map;
pub(super) mod stats;

use map::Map;
use stats::Stats;

use super::CodeArena;
use crate::{Error, WxMode};

impl CodeArena {
    /// Returns figures of the arena: what it holds, and how often it called the system.
    ///
    /// ```
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let block = arena.publish(&[0xc3; 100])?;
    /// let stats = arena.stats();
    /// assert_eq!((stats.live_blocks, stats.live_bytes), (1, 100));
    /// println!("{stats}");
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Fork
    /// If a thread of the parent was inside a call of the arena at the fork, the child gets the
    /// counters of system calls only.
    pub fn stats(&self) -> Stats {
        self.core().stats()
    }

    /// Returns the use of every page, and the largest holes.
    ///
    /// ```
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let block = arena.publish(&[0xc3; 100])?;
    /// let map = arena.map();
    /// assert_eq!(map.pages.iter().filter(|page| page.live > 0).count(), 1);
    /// println!("{}", map.to_svg("one function", &[]));
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Fork
    /// If a thread of the parent was inside a call of the arena at the fork, the map is empty in
    /// the child.
    pub fn map(&self) -> Map {
        self.core().map()
    }

    /// Returns the mode of the arena: how it keeps W^X.
    pub fn mode(&self) -> WxMode {
        self.core().memory.mode()
    }

    /// Returns the modes that the system refused before it allowed [`CodeArena::mode`], each with
    /// the reason.
    ///
    /// The list is empty unless the arena was built with
    /// [`ArenaBuilder::modes`](crate::ArenaBuilder::modes).
    ///
    /// ```
    /// # use gaia_jit::{CodeArena, WxMode};
    /// let arena = CodeArena::builder().capacity(1 << 20).modes(&[WxMode::PerThread, WxMode::Flip]).build()?;
    /// for (mode, why) in arena.refused() {
    ///     println!("not {mode:?}: {why}");
    /// }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn refused(&self) -> &[(WxMode, Error)] {
        &self.core().refused
    }

    /// Returns the bytes of address space for code.
    pub fn capacity(&self) -> usize {
        self.core().memory.capacity()
    }

    /// Returns the address of the first byte that can be code.
    pub fn base(&self) -> *const u8 {
        self.core().memory.address(self.core().memory.first())
    }

    /// Returns whether `address` lies in the arena's address space for code or for data, whether or
    /// not it is in use.
    pub fn contains(&self, address: *const u8) -> bool {
        self.core().memory.contains(address)
    }

    /// Returns whether a direct branch reaches from every byte of the arena to `address` and back,
    /// without a [stub](crate::Batch::reserve_with_stubs).
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

    /// Returns whether this process is a forked child that inherited the arena. Its code can then
    /// be run, looked up and dropped here. Every call that changes the arena returns
    /// [`Error::Forked`].
    pub fn is_inherited(&self) -> bool {
        !self.core().memory.is_own()
    }
}
