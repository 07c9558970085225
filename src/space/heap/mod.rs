//! A heap: the spans that it owns, and the holes in them.
//!
//! # Algorithm
//!
//! A *hole* is a maximal run of free granules in spans of one heap, so freed neighbours coalesce
//! when their bits are cleared. Small blocks lie in one span, so that a span can change owner. A
//! small hole across the end of a span counts as two. The way to find a hole depends on its size:
//!
//! - *Small holes* (below [`SMALL`] granules, 2 KiB) are found by *hints*. For each size there is a
//!   list of places where holes of that size began, the last one first. A hint is checked against
//!   the bits when it is taken, and is dropped if the hole has changed. Every change of a hole
//!   leaves another hint. The lists are bounded. If a hint is pushed out, its span is marked as one
//!   with *lost* holes. Before the heap takes more memory, it lists the holes of such spans again.
//!   So no hole is lost for good.
//! - *Large holes* are in an index by size class ([`super::large`]), which is always right.
//! - One hole, the *cursor*, is in neither. Fresh spans become part of it, and functions are cut
//!   off its front one after another.
//!
//! ```text
//! span 0                      span 1                       span 2 (fresh)
//! [a][b]..[c].........[d]     [e]................[f][g]    ..............................
//!       ^ hint: 2 granules        ^ index: a large hole    ^ cursor: the next function is placed here
//! ```
//!
//! Spans that are wholly free are returned to the pool, except the one at the cursor. So a heap
//! that has one block, which is dropped and published again and again, never uses the pool. (Heaps
//! other than the first, which exist because threads met, return that span too.)
//!
//! # Cost
//!
//! An allocation or a release takes a bounded number of steps, whatever the number of live blocks,
//! because the ends of a hole are found through the summaries of its spans. A hole usually touches
//! two.
#![forbid(unsafe_code)]

mod change;
mod exact;
mod lost;

use std::ops::Range;

use lost::Lost;

use super::Run;
use super::granules::{FREE, Granules, Owner, SPAN, span_of};
use super::large::{Large, Links, SMALL, bin_of, class_of};
use crate::Error;

/// The number of large holes that are tried for one that fits an alignment, or fits more closely.
const TRIES: usize = 8;
/// The number of the first heap, which is used by a thread that never meets another.
const FIRST: Owner = FREE + 1;

/// The tables that all heaps of a space share.
pub(crate) struct Tables {
    pub(crate) granules: Granules,
    links: Links,
}

impl Tables {
    /// Makes tables of free granules, in pages of `page` granules.
    pub(crate) fn new(granules: Range<u32>, page: u32) -> Result<Self, Error> {
        Ok(Self { links: Links::new(granules.end)?, granules: Granules::new(granules, page)? })
    }
}

/// The free space of one heap.
pub(crate) struct Heap {
    owner: Owner,
    /// The hints, by size in granules.
    hints: Vec<Vec<u32>>,
    /// One bit for each size that has hints.
    sizes: u128,
    large: Large,
    /// The hole from which functions are cut off one after another. It may be empty.
    cursor: Run,
    lost: Lost,
    /// The span where the next search for a span to give away begins.
    next_given: u32,
    /// The granules of its spans, and the number of them that are taken.
    owned: u32,
    taken: u32,
    /// The pages of its spans that hold memory.
    resident: u32,
}

impl Heap {
    /// Returns a heap without spans, or an error if there is no memory for it.
    pub(crate) fn new(owner: Owner) -> Result<Self, Error> {
        let mut hints = Vec::new();
        hints.try_reserve_exact(SMALL as usize).map_err(|_| Error::out_of_memory())?;
        hints.resize(SMALL as usize, Vec::new());
        Ok(Self {
            owner,
            hints,
            sizes: 0,
            large: Large::new()?,
            cursor: Run::new(0, 0),
            lost: Lost::default(),
            next_given: 0,
            owned: 0,
            taken: 0,
            resident: 0,
        })
    }

    /// Returns the number of free granules in its spans.
    pub(crate) fn free_granules(&self) -> u32 {
        self.owned - self.taken
    }

    /// Returns the number of pages of its spans that hold memory.
    pub(crate) fn resident_pages(&self) -> u32 {
        self.resident
    }

    #[inline]
    /// Returns whether more than a sixteenth of the memory in its spans is free.
    pub(crate) fn is_sparse(&self, tables: &Tables) -> bool {
        let resident = self.resident * tables.granules.page();
        resident.saturating_sub(self.taken) > resident / 16
    }

    /// Returns how many free pages may hold memory besides those that do, until a sixteenth of the
    /// memory is free.
    pub(crate) fn pages_until_sparse(&self, tables: &Tables) -> u32 {
        let page = tables.granules.page();
        let resident = self.resident * page;
        (resident / 16).saturating_sub(resident.saturating_sub(self.taken)) / page
    }

    /// Marks the pages of `run` as resident.
    #[inline]
    pub(crate) fn touch(&mut self, tables: &Tables, run: Run) {
        self.resident += tables.granules.touch(run);
    }

    /// Marks whole pages as not resident. Returns how many were resident.
    pub(crate) fn gone(&mut self, tables: &Tables, run: Run) -> u32 {
        let gone = tables.granules.gone(run);
        self.resident -= gone;
        gone
    }

    /// Marks free granules as taken.
    #[inline]
    fn mark(&mut self, tables: &Tables, run: Run) {
        tables.granules.set(run);
        tables.granules.cross(run);
        self.taken += run.len();
    }

    /// Returns the place of granules in a hole. Small blocks lie in one span, so that spans can
    /// change owner.
    #[inline]
    fn fit(hole: Run, len: u32, align: u32) -> Option<Run> {
        let run = hole.fit(len, align)?;
        let last = span_of(run.end - 1);
        if len >= SMALL || span_of(run.start) == last {
            return Some(run);
        }
        Run { start: last * SPAN, end: hole.end }.fit(len, align)
    }

    #[cfg(all(any(test, fuzzing), not(loom)))]
    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    /// Returns the end of the cursor's hole. A free span that begins there would make it longer.
    pub(crate) fn cursor_end(&self) -> u32 {
        self.cursor.end
    }

    /// Takes `len` granules at a multiple of `align` from holes other than the cursor's.
    #[inline]
    pub(crate) fn alloc(&mut self, tables: &Tables, len: u32, align: u32) -> Option<Run> {
        if align == 1 {
            if let Some(run) = self.take_hinted(tables, len) {
                return Some(run);
            }
        }
        self.alloc_slow(tables, len, align)
    }

    #[cold]
    fn alloc_slow(&mut self, tables: &Tables, len: u32, align: u32) -> Option<Run> {
        let found = self.take_unhinted(tables, len, align);
        // Listing holes again can push out other hints. So it is done once, and not until no such
        // span is left.
        if found.is_some() || !self.relist(tables, len) {
            return found;
        }
        let found = if align == 1 { self.take_hinted(tables, len) } else { None };
        found.or_else(|| self.take_unhinted(tables, len, align))
    }

    fn take_unhinted(&mut self, tables: &Tables, len: u32, align: u32) -> Option<Run> {
        let found = if align > 1 { self.take_hinted_aligned(tables, len, align) } else { None };
        found.or_else(|| self.take_large(tables, len, align))
    }

    /// Takes granules from the front of the cursor's hole.
    #[inline]
    pub(crate) fn bump(&mut self, tables: &Tables, len: u32, align: u32) -> Option<Run> {
        let run = Self::fit(self.cursor, len, align)?;
        let gap = Run { start: self.cursor.start, end: run.start };
        self.cursor.start = run.end;
        self.mark(tables, run);
        if gap.len() > 0 {
            self.file(tables, gap);
        }
        Some(run)
    }

    /// Returns whether no hole but the cursor's can have `len` granules, if no hint has.
    #[inline]
    pub(crate) fn has_only_cursor(&self, len: u32) -> bool {
        self.large.is_empty() && !self.has_lost(len)
    }

    /// Takes granules as [`Heap::bump`] does, if they lie in pages that hold memory.
    pub(crate) fn bump_resident(&mut self, tables: &Tables, len: u32, align: u32) -> Option<Run> {
        let run = Self::fit(self.cursor, len, align)?;
        if tables.granules.all_resident(run) { self.bump(tables, len, align) } else { None }
    }

    /// Takes the tightest hinted hole of at least `len` granules.
    #[inline]
    pub(crate) fn take_hinted(&mut self, tables: &Tables, len: u32) -> Option<Run> {
        if len >= SMALL {
            return None;
        }
        let mut sizes = self.sizes & (u128::MAX << len);
        while sizes != 0 {
            let size = sizes.trailing_zeros();
            let Some(start) = self.hints[size as usize].pop() else {
                self.sizes &= !(1 << size);
                sizes &= sizes - 1;
                continue;
            };
            if self.is_hole(tables, start, size) {
                let run = Run::new(start, len);
                self.mark(tables, run);
                if size > len {
                    self.hint(tables, run.end, size - len);
                }
                return Some(run);
            }
        }
        None
    }

    /// Returns whether the cursor's hole begins here.
    #[inline]
    fn is_cursor(&self, start: u32) -> bool {
        self.cursor.len() > 0 && self.cursor.start == start
    }

    /// Returns whether a small hole begins here, or the part of one that lies in one span, has this
    /// size, and is not the cursor's.
    #[inline]
    fn is_hole(&self, tables: &Tables, start: u32, size: u32) -> bool {
        let granules = &tables.granules;
        if granules.owner_at(start) != Some(self.owner) || granules.is_taken(start) || self.is_cursor(start) {
            return false;
        }
        let amid = start % SPAN == 0 && start > 0 && !granules.is_taken(start - 1);
        if start > 0 && start % SPAN != 0 && !granules.is_taken(start - 1) {
            return false;
        }
        let end = granules.hole_end(start, self.owner);
        let behind = (span_of(start) + 1) * SPAN;
        if end.min(behind) != start + size {
            return false;
        }
        if !amid && end <= behind {
            return true;
        }
        // It is a part of a hole that lies across the ends of its span.
        let begin = granules.hole_start(start, self.owner);
        end - begin < SMALL && !self.is_cursor(begin)
    }

    /// Takes an aligned hinted hole: of each size that fits for sure, or may fit, the last hints
    /// are tried.
    fn take_hinted_aligned(&mut self, tables: &Tables, len: u32, align: u32) -> Option<Run> {
        for size in len..SMALL {
            let mut at = self.hints[size as usize].len();
            let least = at.saturating_sub(TRIES);
            while at > least {
                at -= 1;
                let Some(&start) = self.hints[size as usize].get(at) else { break };
                let hole = Run::new(start, size);
                let Some(run) = hole.fit(len, align) else { continue };
                self.hints[size as usize].swap_remove(at);
                if self.is_hole(tables, start, size) {
                    self.take(tables, run, hole);
                    return Some(run);
                }
            }
        }
        None
    }

    /// Returns the large hole that begins in a bin. It is the last hole of the bin, because it ends
    /// behind the bin.
    fn large_hole(&self, tables: &Tables, bin: u32) -> Run {
        let within = Run { start: bin * SMALL, end: (bin + 1) * SMALL };
        let start = tables.granules.hole_start(within.end, self.owner).max(within.start);
        Run { start, end: tables.granules.hole_end(start, self.owner) }
    }

    fn take_large(&mut self, tables: &Tables, len: u32, align: u32) -> Option<Run> {
        // Of a hole across the end of a span a small block takes one side.
        let needed = len.checked_add(align - 1)?.checked_mul(if len < SMALL { 2 } else { 1 })?;
        let (least, sure) = (class_of(len.max(SMALL)), class_of(needed.max(SMALL)) + 1);
        let found = self.find_large(tables, least, Some(sure), len, align)?;
        let (run, hole) = found;
        self.large.file(&tables.links, bin_of(hole.start), 0);
        self.take(tables, run, hole);
        Some(run)
    }

    /// Tries a few holes of each class from `least` on, and one hole of the classes from `sure` on,
    /// in which all holes fit. If there is no `sure`, all classes are tried.
    fn find_large(&self, tables: &Tables, least: u16, sure: Option<u16>, len: u32, align: u32) -> Option<(Run, Run)> {
        let fits = |bin: u32| {
            let hole = self.large_hole(tables, bin);
            Self::fit(hole, len, align).map(|run| (run, hole))
        };
        let mut class = self.large.at_least(least);
        while let Some(at) = class {
            let is_sure = sure.is_some_and(|sure| at >= sure);
            let tries = if sure.is_none() {
                usize::MAX
            } else if is_sure {
                1
            } else {
                TRIES
            };
            let found = self.large.of_class(&tables.links, at).take(tries).find_map(fits);
            debug_assert!(found.is_some() || !is_sure, "{len} granules do not fit into a hole of class {at}");
            if found.is_some() {
                return found;
            }
            class = self.large.at_least(at + 1);
        }
        None
    }

    /// Marks `run` of `hole` as taken. The hole is in no list. The rest of it is listed here.
    fn take(&mut self, tables: &Tables, run: Run, hole: Run) {
        self.mark(tables, run);
        self.file(tables, Run { start: hole.start, end: run.start });
        self.file(tables, Run { start: run.end, end: hole.end });
    }

    #[inline]
    fn file(&mut self, tables: &Tables, hole: Run) {
        match hole.len() {
            0 => {}
            1..SMALL => {
                let edge = span_of(hole.end - 1) * SPAN;
                if hole.start < edge {
                    self.hint(tables, hole.start, edge - hole.start);
                }
                let start = hole.start.max(edge);
                self.hint(tables, start, hole.end - start);
            }
            len => self.large.file(&tables.links, bin_of(hole.start), class_of(len)),
        }
    }

    /// Frees granules that are all taken, in spans of this heap. Returns the spans that are wholly
    /// free now. They are no part of a hole of the heap any more, and the caller puts them into the
    /// pool.
    #[inline]
    pub(crate) fn free(&mut self, tables: &Tables, run: Run) -> Range<u32> {
        let granules = &tables.granules;
        granules.clear(run);
        granules.uncross(run);
        self.taken -= run.len();
        let hole =
            Run { start: granules.hole_start(run.start, self.owner), end: granules.hole_end(run.end, self.owner) };
        self.merge(tables, run, hole)
    }

    /// Lists `hole`, of which `run` has become a part. The holes on both sides of `run` are no
    /// holes of their own any more.
    #[inline]
    fn merge(&mut self, tables: &Tables, run: Run, hole: Run) -> Range<u32> {
        let at_cursor = self.cursor.len() > 0 && self.cursor.start <= hole.end && hole.start <= self.cursor.end;
        if hole.end - run.end >= SMALL {
            self.large.file(&tables.links, bin_of(run.end), 0);
        }
        // The spans that are wholly free, except the one at the cursor. A heap other than the first
        // that has no blocks gives that one away too.
        let keeps = at_cursor && (self.taken > 0 || self.owner == FIRST);
        let from_first = hole.start == tables.granules.first();
        let first = if from_first { span_of(hole.start) } else { hole.start.div_ceil(SPAN) } + u32::from(keeps);
        let last = if hole.end == tables.granules.len() { tables.granules.spans() } else { hole.end / SPAN };
        if first >= last {
            if at_cursor {
                if run.start - hole.start >= SMALL {
                    self.large.file(&tables.links, bin_of(hole.start), 0);
                }
                self.cursor = hole;
            } else {
                self.file(tables, hole);
            }
            return 0..0;
        }
        if run.start - hole.start >= SMALL {
            self.large.file(&tables.links, bin_of(hole.start), 0);
        }
        let before = Run { start: hole.start, end: (first * SPAN).max(hole.start) };
        let behind = Run { start: (last * SPAN).min(hole.end), end: hole.end };
        if at_cursor {
            self.cursor = before;
        } else {
            self.file(tables, before);
        }
        // These spans are no part of this heap any more. The pool sets their owner.
        self.file(tables, behind);
        let given = Run { start: before.end, end: behind.start };
        self.owned -= given.len();
        self.resident -= tables.granules.count_resident(given);
        first..last
    }
}
