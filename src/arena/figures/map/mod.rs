//! The use of each page of an arena, and its largest holes.
#![forbid(unsafe_code)]

mod picture;

use crate::arena::core::{Core, bytes_of};
use crate::space::Run;

/// The use of an arena's address space at one moment, for pictures and for tuning. Made by
/// [`CodeArena::map`](crate::CodeArena::map).
///
/// ```
/// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
/// let block = arena.publish(&[0xc3; 20])?;
/// let map = arena.map();
/// assert_eq!(map.pages.len() * map.page_size, arena.capacity());
/// assert_eq!(map.pages[0].live, 32); // two granules
/// # Ok::<(), gaia_jit::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Map {
    /// The bytes of a page.
    pub page_size: usize,
    /// All pages of the capacity, in order.
    pub pages: Vec<PageUse>,
    /// The largest holes, at most eight, the largest first.
    pub holes: Vec<Hole>,
}

/// The use of one page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PageUse {
    /// The bytes of live blocks and open batches.
    pub live: u32,
    /// The bytes of dropped blocks that wait for a guard.
    pub pending: u32,
    /// Whether the page holds memory.
    pub resident: bool,
}

/// Free space between two functions, or at an end of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Hole {
    /// The offset from the start of the arena, in bytes.
    pub offset: usize,
    /// The length in bytes.
    pub len: usize,
}

/// The number of holes in a map.
const HOLES: usize = 8;

impl Core {
    pub(crate) fn map(&self) -> Map {
        let page_size = self.memory.page_size();
        let count = self.memory.len().div_ceil(page_size);
        let Some(all) = self.all_to_read() else { return Map { page_size, ..Map::default() } };
        let granules = self.heaps.granules();
        let (first, len) = (granules.first(), granules.len());
        let resident = |page: usize| granules.all_resident(Run::new(page as u32 * granules.page(), granules.page()));
        let mut pages: Vec<PageUse> =
            (0..count).map(|page| PageUse { live: 0, pending: 0, resident: resident(page) }).collect();
        let mut holes: Vec<Run> = granules.holes(Run { start: first, end: len }).collect();
        let mut free_from = first;
        for hole in holes.iter().copied().chain([Run::new(len, 0)]) {
            let taken = Run { start: free_from, end: hole.start };
            free_from = hole.end;
            if taken.len() > 0 {
                spread(&mut pages, page_size, taken, |page, bytes| page.live += bytes);
            }
        }
        for pending in all.heaps.iter().flat_map(|heap| &heap.pending) {
            spread(&mut pages, page_size, pending.entry.run(), |page, bytes| {
                page.live -= bytes;
                page.pending += bytes;
            });
        }
        drop(all);
        pages.drain(..self.memory.first() / page_size);
        holes.sort_by_key(|hole| std::cmp::Reverse(hole.len()));
        holes.truncate(HOLES);
        let hole = |run| Hole { offset: bytes_of(run).start - self.memory.first(), len: bytes_of(run).len() };
        let holes = holes.into_iter().map(hole);
        Map { page_size, pages, holes: holes.collect() }
    }
}

/// Adds the bytes of `run` to the pages that it lies in.
fn spread(pages: &mut [PageUse], page_size: usize, run: Run, add: impl Fn(&mut PageUse, u32)) {
    let bytes = bytes_of(run);
    for (index, page) in pages.iter_mut().enumerate().take(bytes.end.div_ceil(page_size)).skip(bytes.start / page_size)
    {
        let (from, to) = (bytes.start.max(index * page_size), bytes.end.min((index + 1) * page_size));
        add(page, (to - from) as u32);
    }
}
