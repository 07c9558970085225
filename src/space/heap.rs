//! The free space of one heap: the spans that it owns, and the holes in them.
//!
//! # Algorithm
//!
//! A *hole* is a maximal run of free granules in spans of one heap, so neighbours that are freed coalesce by clearing bits.
//! How a hole is found depends on its size:
//!
//! - *Small holes* (below [`SMALL`] granules, 2 KiB) are found by *hints*: for each size a list of where holes of that size began,
//!   the last one first. A hint is checked against the bits when it is taken, and thrown away if the hole has changed; whoever
//!   changed it has left another hint. The lists are bounded. A hint that is pushed out marks its span *unlisted*, and
//!   before the heap takes more memory it lists the holes of such spans again. So no hole is lost.
//! - *Large holes* stand in an index by size class ([`super::large`]), which is always right.
//! - One hole, the *cursor*, stands in neither. Fresh spans become part of it, and functions are cut off its front one after
//!   another.
//!
//! Spans that are wholly free are handed back to whoever keeps the free spans, but for the one at the cursor: a heap whose only
//! block comes and goes asks nobody. (Heaps other than the first, which are there because threads met, give that one back too.)
//!
//! # Cost
//!
//! An allocation or a release takes a bounded number of steps, whatever is live: the ends of a hole are found through the
//! summaries of its spans, of which a hole touches two, as a rule.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::ops::Range;

use super::Run;
use super::granules::{FREE, Granules, Owner, SPAN, span_of};
use super::large::{Large, Links, SMALL, bin_of, class_of};
use crate::Error;

/// Hints that are kept for each size.
const HINTS: usize = 256;
/// Large holes that are looked at for one that fits an alignment, or more closely.
const TRIES: usize = 8;
/// The heap that serves whoever meets nobody.
const FIRST: Owner = FREE + 1;
/// Unlisted spans that are listed again before more memory is taken.
const RELISTED: usize = 4;

/// The tables that all heaps of a space share.
pub(crate) struct Tables {
    pub(crate) granules: Granules,
    links: Links,
}

impl Tables {
    /// `granules` free granules, whole pages of `page` granules.
    pub(crate) fn new(granules: u32, page: u32) -> Result<Self, Error> {
        Ok(Self { granules: Granules::new(granules, page)?, links: Links::new(granules)? })
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
    /// Spans with holes that nothing leads to. Those of other owners are no longer meant.
    unlisted: VecDeque<u32>,
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
            unlisted: VecDeque::new(),
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
        self.taken += run.len();
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
        // What is listed can push out other hints, so this is done once and not until there is no such span any more.
        if found.is_some() || !self.relist(tables, RELISTED) {
            return found;
        }
        let found = if align == 1 { self.take_hinted(tables, len) } else { None };
        found.or_else(|| self.take_unhinted(tables, len, align))
    }

    fn take_unhinted(&mut self, tables: &Tables, len: u32, align: u32) -> Option<Run> {
        let found = if align > 1 { self.take_hinted_aligned(tables, len, align) } else { None };
        found.or_else(|| self.take_large(tables, len, align))
    }

    /// As [`Heap::alloc`], but misses no hole, except one that only an alignment makes hard to find. Takes its time.
    pub(crate) fn alloc_exactly(&mut self, tables: &Tables, len: u32, align: u32) -> Option<Run> {
        self.relist_all(tables);
        self.give_cursor_up(tables);
        if let Some(run) = self.alloc(tables, len, align) {
            return Some(run);
        }
        let least = class_of(len.max(SMALL));
        let (run, hole) = self.find_large(tables, least, least, len, align)?;
        self.large.file(&tables.links, bin_of(hole.start), 0);
        self.take(tables, run, hole);
        Some(run)
    }

    /// Takes granules off the front of the cursor's hole.
    #[inline]
    pub(crate) fn bump(&mut self, tables: &Tables, len: u32, align: u32) -> Option<Run> {
        let run = self.cursor.fit(len, align)?;
        let gap = Run { start: self.cursor.start, end: run.start };
        self.cursor.start = run.end;
        self.mark(tables, run);
        if gap.len() > 0 {
            self.file(tables, gap);
        }
        Some(run)
    }

    /// As [`Heap::bump`], if the granules lie in pages that hold memory.
    pub(crate) fn bump_resident(&mut self, tables: &Tables, len: u32, align: u32) -> Option<Run> {
        let run = self.cursor.fit(len, align)?;
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

    /// Whether a hole of just this size begins here, and is not the cursor's.
    #[inline]
    fn is_hole(&self, tables: &Tables, start: u32, size: u32) -> bool {
        let granules = &tables.granules;
        if granules.owner_at(start) != Some(self.owner) || granules.is_taken(start) || self.is_cursor(start) {
            return false;
        }
        let begins = start == 0
            || granules.is_taken(start - 1)
            || start % SPAN == 0 && granules.owner_at(start - 1) != Some(self.owner);
        begins && granules.hole_end(start, self.owner) == start + size
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
        let (least, sure) = (class_of(len.max(SMALL)), class_of(len.checked_add(align - 1)?.max(SMALL)) + 1);
        let found = self.find_large(tables, least, sure, len, align)?;
        let (run, hole) = found;
        self.large.file(&tables.links, bin_of(hole.start), 0);
        self.take(tables, run, hole);
        Some(run)
    }

    /// A few of the smaller classes, then the first class whose holes are all sure to fit.
    fn find_large(&self, tables: &Tables, least: u16, sure: u16, len: u32, align: u32) -> Option<(Run, Run)> {
        let fits = |bin: u32| {
            let hole = self.large_hole(tables, bin);
            hole.fit(len, align).map(|run| (run, hole))
        };
        let mut class = self.large.at_least(least);
        while let Some(at) = class {
            let tries = if at >= sure { usize::MAX } else { TRIES };
            if let Some(found) = self.large.of_class(&tables.links, at).take(tries).find_map(fits) {
                return Some(found);
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
            size @ 1..SMALL => self.hint(tables, hole.start, size),
            len => self.large.file(&tables.links, bin_of(hole.start), class_of(len)),
        }
    }

    #[inline]
    fn hint(&mut self, tables: &Tables, start: u32, size: u32) {
        let list = &mut self.hints[size as usize];
        if list.len() == list.capacity() && (list.len() >= HINTS || list.try_reserve(1).is_err()) {
            self.push_out(tables, size);
        }
        match self.hints[size as usize].capacity() {
            0 => self.unlist(tables, span_of(start)),
            _ => self.hints[size as usize].push(start),
        }
        self.sizes |= 1 << size;
    }

    /// Makes room in a list of hints; spans of those that go are unlisted.
    #[cold]
    fn push_out(&mut self, tables: &Tables, size: u32) {
        let list = &mut self.hints[size as usize];
        let kept = list.len() / 2;
        list.rotate_right(kept);
        while self.hints[size as usize].len() > kept {
            let Some(start) = self.hints[size as usize].pop() else { break };
            if tables.granules.owner_at(start) == Some(self.owner) {
                self.unlist(tables, span_of(start));
            }
        }
    }

    /// Notes that holes of a span of this heap may be filed nowhere.
    fn unlist(&mut self, tables: &Tables, span: u32) {
        if !tables.granules.is_unlisted(span) {
            tables.granules.set_unlisted(span, true);
            // Without memory for the list the mark alone is left, which only a full search goes by.
            if self.unlisted.try_reserve(1).is_ok() {
                self.unlisted.push_back(span);
            }
        }
    }

    /// Files the holes of all unlisted spans. For searches that may miss nothing.
    pub(crate) fn relist_all(&mut self, tables: &Tables) {
        for span in 0..tables.granules.spans() {
            if tables.granules.is_unlisted(span) && tables.granules.owner_at(span * SPAN) == Some(self.owner) {
                self.relist_span(tables, span);
            }
        }
    }

    /// Files all holes of up to `most` unlisted spans; whether there was one.
    fn relist(&mut self, tables: &Tables, most: usize) -> bool {
        let mut any = false;
        for _ in 0..most {
            let Some(span) = self.unlisted.pop_front() else { break };
            let own = tables.granules.owner_at(span * SPAN) == Some(self.owner);
            if !own || !tables.granules.is_unlisted(span) {
                continue;
            }
            self.relist_span(tables, span);
            any = true;
        }
        any
    }

    fn relist_span(&mut self, tables: &Tables, span: u32) {
        tables.granules.set_unlisted(span, false);
        let within = tables.granules.span(span);
        // A hole that runs in from the span before begins there.
        let runs_in = tables.granules.hole_start(within.start, self.owner) < within.start;
        let mut at = within.start;
        while at < within.end {
            let start = tables.granules.next_free(at, within.end);
            if start == within.end {
                break;
            }
            let end = tables.granules.hole_end(start, self.owner);
            if !(self.is_cursor(start) || start == within.start && runs_in) {
                self.file(tables, Run { start, end });
            }
            at = end;
        }
    }

    /// Gives back granules that are all taken, in spans of this heap. Returns spans that are wholly free now: they are no
    /// longer part of any hole of the heap, and whoever keeps free spans has to take them.
    #[inline]
    pub(crate) fn free(&mut self, tables: &Tables, run: Run) -> Range<u32> {
        let granules = &tables.granules;
        granules.clear(run);
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
        // Spans that are wholly free, but for the one at the cursor. A heap other than the first that has nothing gives that one too.
        let keeps = at_cursor && (self.taken > 0 || self.owner == FIRST);
        let first = hole.start.div_ceil(SPAN) + u32::from(keeps);
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
        let before = Run { start: hole.start, end: first * SPAN };
        let behind = Run { start: (last * SPAN).min(hole.end), end: hole.end };
        if at_cursor {
            self.cursor = before;
        } else {
            self.file(tables, before);
        }
        // No longer part of this heap; the pool sets the owner.
        self.file(tables, behind);
        let given = Run { start: first * SPAN, end: (last * SPAN).min(tables.granules.len()) };
        self.owned -= given.len();
        self.resident -= tables.granules.count_resident(given);
        first..last
    }

    /// Takes over spans that belong to nobody; they are wholly free. They become the cursor's, or part of its hole.
    pub(crate) fn extend(&mut self, tables: &Tables, spans: Range<u32>) {
        let hole = self.open(tables, spans);
        if hole.start > self.cursor.end || hole.end < self.cursor.start {
            let old = std::mem::replace(&mut self.cursor, hole);
            self.file(tables, old);
        } else {
            self.cursor = hole;
        }
    }

    /// Takes over spans that belong to nobody, among its holes; they are wholly free.
    pub(crate) fn adopt(&mut self, tables: &Tables, spans: Range<u32>) {
        self.give_cursor_up(tables);
        let hole = self.open(tables, spans);
        self.file(tables, hole);
    }

    /// Takes over wholly free spans, and of them granules that fit. They do fit.
    pub(crate) fn alloc_in(&mut self, tables: &Tables, spans: Range<u32>, len: u32, align: u32) -> Option<Run> {
        let hole = self.open(tables, spans);
        if self.cursor.len() > 0 && self.cursor.start <= hole.end && hole.start <= self.cursor.end {
            self.cursor = Run::new(hole.start, 0);
        }
        let Some(run) = hole.fit(len, align) else {
            self.file(tables, hole);
            return None;
        };
        self.take(tables, run, hole);
        Some(run)
    }

    /// Makes spans this heap's own. The hole that they are part of then is filed nowhere, but may contain the cursor.
    fn open(&mut self, tables: &Tables, spans: Range<u32>) -> Run {
        for span in spans.clone() {
            tables.granules.set_owner(span, self.owner);
            tables.granules.set_unlisted(span, false);
        }
        let (start, end) = (spans.start * SPAN, (spans.end * SPAN).min(tables.granules.len()));
        self.owned += end - start;
        self.resident += tables.granules.count_resident(Run { start, end });
        let hole = Run {
            start: tables.granules.hole_start(start, self.owner),
            end: tables.granules.hole_end(end, self.owner),
        };
        for part in [Run { start: hole.start, end: start }, Run { start: end, end: hole.end }] {
            if part.len() >= SMALL {
                self.large.file(&tables.links, bin_of(part.start), 0);
            }
        }
        hole
    }

    /// Takes just these granules, which are free and in spans of this heap.
    pub(crate) fn take_at(&mut self, tables: &Tables, run: Run) {
        let hole = Run {
            start: tables.granules.hole_start(run.start + 1, self.owner),
            end: tables.granules.hole_end(run.start, self.owner),
        };
        if self.is_cursor(hole.start) {
            self.cursor = Run::new(0, 0);
        } else if hole.len() >= SMALL {
            self.large.file(&tables.links, bin_of(hole.start), 0);
        }
        self.take(tables, run, hole);
    }

    /// Gives a span up, with what is in it, to another heap. No block lies across its ends.
    pub(crate) fn give_span(&mut self, tables: &Tables, span: u32, to: &mut Heap) {
        let within = tables.granules.span(span);
        self.give_cursor_up(tables);
        to.give_cursor_up(tables);
        for bin in bin_of(within.start)..=bin_of(within.end - 1) {
            self.large.file(&tables.links, bin, 0);
        }
        tables.granules.set_unlisted(span, false);
        tables.granules.set_owner(span, to.owner);
        let (taken, resident) = (tables.granules.count_taken(span), tables.granules.count_resident(within));
        for (from, to, n) in [
            (&mut self.owned, &mut to.owned, within.len()),
            (&mut self.taken, &mut to.taken, taken),
            (&mut self.resident, &mut to.resident, resident),
        ] {
            *from -= n;
            *to += n;
        }
        // Holes across its ends have become shorter on one side, and longer on the other.
        for (owner, heap) in [(self.owner, &mut *self), (to.owner, &mut *to)] {
            for edge in [within.start, within.end] {
                for granule in [edge.wrapping_sub(1), edge] {
                    if tables.granules.owner_at(granule) == Some(owner) && granule < tables.granules.len() {
                        heap.refile_around(tables, granule);
                    }
                }
            }
        }
        to.unlist(tables, span);
    }

    /// Files the hole around a free granule of this heap anew, if it is one.
    fn refile_around(&mut self, tables: &Tables, granule: u32) {
        if tables.granules.is_taken(granule) {
            return;
        }
        let hole = Run {
            start: tables.granules.hole_start(granule + 1, self.owner),
            end: tables.granules.hole_end(granule, self.owner),
        };
        // A hole that was large and ends at the edge now. What does not reach the end of its bin was never large, and another
        // hole that is may begin there.
        if hole.len() < SMALL && bin_of(hole.end) > bin_of(hole.start) {
            self.large.file(&tables.links, bin_of(hole.start), 0);
        }
        // What began at the edge begins there no more.
        let edge = granule.next_multiple_of(SPAN);
        if hole.start < edge && edge < hole.end && hole.end - edge >= SMALL {
            self.large.file(&tables.links, bin_of(edge), 0);
        }
        self.file(tables, hole);
    }

    fn give_cursor_up(&mut self, tables: &Tables) {
        let cursor = std::mem::replace(&mut self.cursor, Run::new(0, 0));
        self.file(tables, cursor);
    }
}
