//! Figures of an arena: numbers ([`stats`]), and its use page by page ([`map`]).
//!
//! | question | answer from |
//! |---|---|
//! | how much is live, free, waiting, resident | the counts of all heaps, all locked at once |
//! | how often was the system called | the counters of the region, without a lock |
//! | which pages are in use | the tables of granules, all heaps locked |
//!
//! In a forked child a heap may be locked for good. There the figures are what can be had without
//! it.

pub(super) mod map;
pub(super) mod stats;

use map::Map;
use stats::Stats;

use super::CodeArena;

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
    /// If another thread of the parent published or dropped at the moment of the fork, the child
    /// gets the counters of system calls only.
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
    /// If another thread of the parent published or dropped at the moment of the fork, the map is
    /// empty in the child.
    pub fn map(&self) -> Map {
        self.core().map()
    }
}
