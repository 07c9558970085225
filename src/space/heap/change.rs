//! Spans that enter a heap and leave it.
//!
//! A span enters wholly free from the pool, or with its blocks from another heap. It leaves to
//! another heap if it is sparse. Wherever spans of different owners meet, a hole ends, so the holes
//! at both ends of the span are listed again.
//!
//! ```text
//! pool --extend, adopt--> heap --sparse: give_span--> another heap
//! pool <--wholly free---- heap
//! ```
//!
//! The caller has the locks of all heaps that change.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::{Heap, Tables};
use crate::space::Run;
use crate::space::granules::SPAN;
use crate::space::large::{SMALL, bin_of};

/// The number of spans that are looked at to find one to give away, of all spans and of this
/// heap's.
const PASSED: u32 = 4096;
const LOOKED_AT: usize = 16;

impl Heap {
    /// Takes over wholly free spans that belong to no heap. They become the cursor's hole, or a
    /// part of it.
    pub(crate) fn extend(&mut self, tables: &Tables, spans: Range<u32>) {
        let hole = self.open(tables, spans);
        if hole.start > self.cursor.end || hole.end < self.cursor.start {
            let old = std::mem::replace(&mut self.cursor, hole);
            self.file(tables, old);
        } else {
            self.cursor = hole;
        }
    }

    /// Takes over wholly free spans that belong to no heap, and lists them as a hole.
    pub(crate) fn adopt(&mut self, tables: &Tables, spans: Range<u32>) {
        self.give_cursor_up(tables);
        let hole = self.open(tables, spans);
        self.file(tables, hole);
    }

    /// Takes over wholly free spans, and takes granules of them. These are known to fit.
    pub(crate) fn alloc_in(&mut self, tables: &Tables, spans: Range<u32>, len: u32, align: u32) -> Option<Run> {
        let hole = self.open(tables, spans);
        if self.cursor.len() > 0 && self.cursor.start <= hole.end && hole.start <= self.cursor.end {
            self.cursor = Run::new(hole.start, 0);
        }
        let Some(run) = Self::fit(hole, len, align) else {
            self.file(tables, hole);
            return None;
        };
        self.take(tables, run, hole);
        Some(run)
    }

    /// Makes this heap the owner of spans. Returns the hole that they are a part of. It is in no
    /// list, but may contain the cursor.
    fn open(&mut self, tables: &Tables, spans: Range<u32>) -> Run {
        for span in spans.clone() {
            tables.granules.set_owner(span, self.owner);
            tables.granules.forget_lost(span);
        }
        let (start, end) = (tables.granules.span(spans.start).start, tables.granules.span(spans.end - 1).end);
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

    /// Takes these granules, which are free and lie in spans of this heap.
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

    /// Gives a span with its blocks to another heap. No block lies across its ends.
    pub(crate) fn give_span(&mut self, tables: &Tables, span: u32, to: &mut Heap) {
        let within = tables.granules.span(span);
        self.give_cursor_up(tables);
        to.give_cursor_up(tables);
        for bin in bin_of(within.start)..=bin_of(within.end - 1) {
            self.large.file(&tables.links, bin, 0);
        }
        tables.granules.forget_lost(span);
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
        // The holes across its ends became shorter on one side and longer on the other.
        for (owner, heap) in [(self.owner, &mut *self), (to.owner, &mut *to)] {
            for edge in [within.start, within.end] {
                for granule in [edge.wrapping_sub(1), edge] {
                    if tables.granules.owner_at(granule) == Some(owner) && granule < tables.granules.len() {
                        heap.refile_around(tables, granule);
                    }
                }
            }
        }
        to.relist_span(tables, span, 1);
    }

    /// Finds a span that another heap can use better: much of it holds memory and is free, and
    /// nothing lies across its ends.
    pub(crate) fn sparse_span(&mut self, tables: &Tables) -> Option<u32> {
        let granules = &tables.granules;
        let (spans, mut looked_at) = (granules.spans(), 0);
        for _ in 0..spans.min(PASSED) {
            let span = self.next_given;
            self.next_given = (span + 1) % spans;
            let within = granules.span(span);
            if granules.owner_at(within.start) != Some(self.owner) {
                continue;
            }
            looked_at += 1;
            let at_cursor = self.cursor.start < within.end && within.start < self.cursor.end;
            let crossed = granules.is_crossed(span) || span + 1 < spans && granules.is_crossed(span + 1);
            let (resident, taken) = (granules.count_resident(within) * granules.page(), granules.count_taken(span));
            // A heap that would be left with free spans only would keep them.
            let leaves_nothing = taken == self.taken && within.len() < self.owned;
            if !at_cursor && !crossed && !leaves_nothing && resident.saturating_sub(taken) > SPAN / 8 {
                return Some(span);
            }
            if looked_at == LOOKED_AT {
                break;
            }
        }
        None
    }

    /// Lists the hole around a granule of this heap again, if the granule is free.
    fn refile_around(&mut self, tables: &Tables, granule: u32) {
        if tables.granules.is_taken(granule) {
            return;
        }
        let hole = Run {
            start: tables.granules.hole_start(granule + 1, self.owner),
            end: tables.granules.hole_end(granule, self.owner),
        };
        // The hole was large and now ends at the edge. A hole that does not reach the end of its
        // bin was never large, and another hole that is large may begin there.
        if hole.len() < SMALL && bin_of(hole.end) > bin_of(hole.start) {
            self.large.file(&tables.links, bin_of(hole.start), 0);
        }
        // A hole that began at the edge does not begin there any more.
        let edge = granule.next_multiple_of(SPAN);
        if hole.start < edge && edge < hole.end && hole.end - edge >= SMALL {
            self.large.file(&tables.links, bin_of(edge), 0);
        }
        self.file(tables, hole);
    }

    pub(super) fn give_cursor_up(&mut self, tables: &Tables) {
        let cursor = std::mem::replace(&mut self.cursor, Run::new(0, 0));
        self.file(tables, cursor);
    }
}
