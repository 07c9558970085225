//! Spans that come to a heap and leave it.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::{Heap, Tables};
use crate::space::Run;
use crate::space::granules::SPAN;
use crate::space::large::{SMALL, bin_of};

/// Spans that are looked at for one to give away: of all, and of this heap.
const PASSED: u32 = 4096;
const LOOKED_AT: usize = 16;

impl Heap {
    /// Takes over spans that belong to nobody; they are wholly free. They become the cursor's, or
    /// part of its hole.
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
        let Some(run) = Self::fit(hole, len, align) else {
            self.file(tables, hole);
            return None;
        };
        self.take(tables, run, hole);
        Some(run)
    }

    /// Makes spans this heap's own. The hole that they are part of then is filed nowhere, but may
    /// contain the cursor.
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
        to.relist_span(tables, span, 1);
    }

    /// Finds a span that another heap has more use for: much of it holds memory and is free, and
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
            // What would be left with nothing but free spans would keep them.
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

    /// Files the hole around a free granule of this heap anew, if it is one.
    fn refile_around(&mut self, tables: &Tables, granule: u32) {
        if tables.granules.is_taken(granule) {
            return;
        }
        let hole = Run {
            start: tables.granules.hole_start(granule + 1, self.owner),
            end: tables.granules.hole_end(granule, self.owner),
        };
        // A hole that was large and ends at the edge now. What does not reach the end of its bin
        // was never large, and another hole that is may begin there.
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

    pub(super) fn give_cursor_up(&mut self, tables: &Tables) {
        let cursor = std::mem::replace(&mut self.cursor, Run::new(0, 0));
        self.file(tables, cursor);
    }
}
