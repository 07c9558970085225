//! The free space of one heap: the spans that it owns, and the holes in them.
//!
//! # Algorithm
//!
//! A *hole* is a maximal run of free granules in spans of one heap, so neighbours that are freed
//! coalesce by clearing bits. Small blocks lie in one span, so that a span can change owner; a
//! small hole across the end of a span counts as two. How a hole is found depends on its size:
//!
//! - *Small holes* (below [`SMALL`] granules, 2 KiB) are found by *hints*: for each size a list of
//!   where holes of that size began, the last one first. A hint is checked against the bits when it
//!   is taken, and thrown away if the hole has changed; whoever changed it has left another hint.
//!   The lists are bounded. A hint that is pushed out marks its span *unlisted*, and before the
//!   heap takes more memory it lists the holes of such spans again. So no hole is lost.
//! - *Large holes* stand in an index by size class ([`super::large`]), which is always right.
//! - One hole, the *cursor*, stands in neither. Fresh spans become part of it, and functions are
//!   cut off its front one after another.
//!
//! Spans that are wholly free are handed back to whoever keeps the free spans, but for the one at
//! the cursor: a heap whose only block comes and goes asks nobody. (Heaps other than the first,
//! which are there because threads met, give that one back too.)
//!
//! # Cost
//!
//! An allocation or a release takes a bounded number of steps, whatever is live: the ends of a hole
//! are found through the summaries of its spans, of which a hole touches two, as a rule.
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

/// Large holes that are looked at for one that fits an alignment, or more closely.
const TRIES: usize = 8;
/// The heap that serves whoever meets nobody.
const FIRST: Owner = FREE + 1;

/// The tables that all heaps of a space share.
pub(crate) struct Tables {
    pub(crate) granules: Granules,
    links: Links,
}

impl Tables {
    /// Free granules, in pages of `page` granules.
    pub(crate) fn new(granules: Range<u32>, page: u32) -> Result<Self, Error> {
        Ok(Self { links: Links::new(granules.end)?, granules: Granules::new(granules, page)? })
    }
}

/// Free space of one heap.
pub(crate) struct Heap {
    owner: Owner,
    /// By size in granules.
    hints: Vec<Vec<u32>>,
    /// A bit for each size with hints.
    sizes: u128,
    large: Large,
    /// The hole that functions are cut off one after another; it may be empty.
    cursor: Run,
    lost: Lost,
    /// Where the next search for a span to give away begins.
    next_given: u32,
    /// Granules of its spans, and those of them that are taken.
    owned: u32,
    taken: u32,
    /// Pages of its spans that hold memory.
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

    /// Granules of its spans that are free.
    pub(crate) fn free_granules(&self) -> u32 {
        self.owned - self.taken
    }

    /// Pages of its spans that hold memory.
    pub(crate) fn resident_pages(&self) -> u32 {
        self.resident
    }

    #[inline]
    /// Whether more than a sixteenth of the memory that its spans hold is free.
    pub(crate) fn is_sparse(&self, tables: &Tables) -> bool {
        let resident = self.resident * tables.granules.page();
        resident.saturating_sub(self.taken) > resident / 16
    }

    /// Marks pages that `run` lies in as holding memory.
    #[inline]
    pub(crate) fn touch(&mut self, tables: &Tables, run: Run) {
        self.resident += tables.granules.touch(run);
    }

    /// Marks whole pages as holding no memory; returns how many did.
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

    /// Where granules go in a hole. Small blocks lie in one span, so that spans can change owner.
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

    /// Where the cursor's hole ends: a span that begins there and is free would make it longer.
    pub(crate) fn cursor_end(&self) -> u32 {
        self.cursor.end
    }

    /// Takes `len` granules at a multiple of `align` out of holes other than the cursor's.
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
        // What is listed can push out other hints, so this is done once and not until there is no
        // such span any more.
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

    /// Takes granules off the front of the cursor's hole.
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

    /// Whether no hole but the cursor's can have `len` granules, once no hint has.
    #[inline]
    pub(crate) fn has_only_cursor(&self, len: u32) -> bool {
        self.large.is_empty() && !self.has_lost(len)
    }

    /// As [`Heap::bump`], if the granules lie in pages that hold memory.
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

    /// Whether the cursor's hole begins here.
    #[inline]
    fn is_cursor(&self, start: u32) -> bool {
        self.cursor.len() > 0 && self.cursor.start == start
    }

    /// Whether a small hole, or what of one lies in one span, begins here, has this size, and is
    /// not the cursor's.
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

    /// The same for alignments: of each size that is sure to fit, or could, the last hints.
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

    /// The large hole that begins in a bin: the last one there, as it ends behind the bin.
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

    /// Looks at a few holes of each class from `least` on, and at one from `sure` on, where all
    /// fit; without `sure` at all there are.
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

    /// Marks `run` of `hole` as taken. The hole is filed nowhere; what is left of it will be.
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

    /// Gives back granules that are all taken, in spans of this heap. Returns spans that are wholly
    /// free now: they are no longer part of any hole of the heap, and whoever keeps free spans has
    /// to take them.
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

    /// `run` has become part of `hole`, and what was a hole on either side of it no longer is one.
    #[inline]
    fn merge(&mut self, tables: &Tables, run: Run, hole: Run) -> Range<u32> {
        let at_cursor = self.cursor.len() > 0 && self.cursor.start <= hole.end && hole.start <= self.cursor.end;
        if hole.end - run.end >= SMALL {
            self.large.file(&tables.links, bin_of(run.end), 0);
        }
        // Spans that are wholly free, but for the one at the cursor. A heap other than the first
        // that has nothing gives that one too.
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
        // No longer part of this heap; the pool sets the owner.
        self.file(tables, behind);
        let given = Run { start: before.end, end: behind.start };
        self.owned -= given.len();
        self.resident -= tables.granules.count_resident(given);
        first..last
    }
}
