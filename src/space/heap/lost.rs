//! Hints, and the holes to which no hint leads.
//!
//! The list of a size has at most [`HINTS`] places. If it is full, the older half is pushed out.
//! Each span concerned is marked with the size of the largest hole that was pushed out there. This
//! is an upper bound of the holes that are *lost* in the span. The span is also added to the end of
//! a queue.
//!
//! ```text
//! hints of size 5    [newest | ... | oldest]  --full--> older half pushed out
//!                                                           |
//! span's mark: lost = max(lost, 5)   <----------------------'
//! queue of spans with lost holes     --> a search that finds nothing lists some of them again
//! ```
//!
//! A search that finds nothing looks at some spans of the queue in turn. It lists the holes of
//! those spans again that have a large enough bound. Holes that are smaller than the wanted size
//! stay lost, so a search for large holes does not work through small ones. After it was seen that
//! no span has a bound of some size, searches of that size end at once.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::{Heap, Tables};
use crate::space::Run;
use crate::space::granules::{SPAN, span_of};
use crate::space::large::SMALL;

/// The number of hints for each size.
pub(super) const HINTS: usize = 256;
/// The number of spans that one search looks at, and lists again.
const LOOKED_AT: usize = 64;
const LISTED: usize = 4;

#[derive(Default)]
pub(super) struct Lost {
    /// The spans with lost holes. Entries may be stale: a span that has left the heap is ignored.
    queue: VecDeque<u32>,
    /// An upper bound of all bounds.
    most: u32,
    /// The number of spans in a row at the end of the queue that were seen to have a bound below
    /// `below`.
    seen: usize,
    below: u32,
    /// Whether there once was no memory for the queue. Then it does not contain all such spans.
    pub(super) is_partial: bool,
}

impl Heap {
    /// Returns whether a hole of `len` granules may be lost.
    #[inline]
    pub(super) fn has_lost(&self, len: u32) -> bool {
        self.lost.most >= len
    }

    /// Notes the start of a small hole.
    #[inline]
    pub(super) fn hint(&mut self, tables: &Tables, start: u32, size: u32) {
        let list = &mut self.hints[size as usize];
        if list.len() == list.capacity() && (list.len() >= HINTS || list.try_reserve(1).is_err()) {
            self.push_out(tables, size);
        }
        match self.hints[size as usize].capacity() {
            0 => self.lose(tables, span_of(start), size),
            _ => self.hints[size as usize].push(start),
        }
        self.sizes |= 1 << size;
    }

    /// Makes room in a list of hints.
    #[cold]
    fn push_out(&mut self, tables: &Tables, size: u32) {
        let list = &mut self.hints[size as usize];
        let kept = list.len() / 2;
        list.rotate_right(kept);
        while self.hints[size as usize].len() > kept {
            let Some(start) = self.hints[size as usize].pop() else { break };
            if self.is_hole(tables, start, size) {
                self.lose(tables, span_of(start), size);
            }
        }
    }

    /// Notes that no hint leads to a hole of this size in a span of this heap.
    fn lose(&mut self, tables: &Tables, span: u32, size: u32) {
        tables.granules.set_lost(span, tables.granules.lost(span).max(size));
        self.lost.most = self.lost.most.max(size);
        if size >= self.lost.below {
            self.lost.seen = 0;
        }
        if !tables.granules.is_queued(span) {
            self.queue(tables, span);
        }
    }

    fn queue(&mut self, tables: &Tables, span: u32) {
        let own = (self.owned / SPAN) as usize;
        if self.lost.queue.len() > 2 * own + 16 {
            self.drop_stale(tables);
        }
        if self.lost.queue.try_reserve(1).is_err() {
            self.lost.is_partial = true;
            return;
        }
        tables.granules.set_queued(span, true);
        self.lost.queue.push_back(span);
    }

    fn is_queued(&self, tables: &Tables, span: u32) -> bool {
        tables.granules.owner_at(span * SPAN) == Some(self.owner) && tables.granules.is_queued(span)
    }

    /// Drops entries of spans that have left the heap, and second entries of spans that have
    /// returned to it.
    fn drop_stale(&mut self, tables: &Tables) {
        let mut queue = std::mem::take(&mut self.lost.queue);
        queue.retain(|&span| {
            let meant = self.is_queued(tables, span);
            if meant {
                tables.granules.set_queued(span, false);
            }
            meant
        });
        queue.iter().for_each(|&span| tables.granules.set_queued(span, true));
        self.lost.queue = queue;
        self.lost.seen = 0;
    }

    /// Lists holes of at least `len` granules in some spans again. Returns whether there may be
    /// one.
    pub(super) fn relist(&mut self, tables: &Tables, len: u32) -> bool {
        if self.lost.most < len {
            return false;
        }
        if len < self.lost.below {
            self.lost.seen = 0;
        }
        self.lost.below = len;
        let mut listed = 0;
        for _ in 0..LOOKED_AT {
            if self.lost.seen >= self.lost.queue.len() {
                // All spans were seen.
                if !self.lost.is_partial {
                    self.lost.most = len - 1;
                }
                break;
            }
            let Some(span) = self.lost.queue.pop_front() else { break };
            if !self.is_queued(tables, span) {
                continue;
            }
            if tables.granules.lost(span) >= len {
                self.relist_span(tables, span, len);
                listed += 1;
            }
            match tables.granules.lost(span) {
                0 => tables.granules.set_queued(span, false),
                lost => {
                    self.lost.queue.push_back(span);
                    self.lost.seen = if lost < len { self.lost.seen + 1 } else { 0 };
                }
            }
            if listed == LISTED {
                break;
            }
        }
        listed > 0
    }

    /// Lists holes as [`Heap::relist`] does, but of all spans.
    pub(super) fn relist_all(&mut self, tables: &Tables, len: u32) {
        if self.lost.is_partial {
            for span in 0..tables.granules.spans() {
                if tables.granules.owner_at(span * SPAN) == Some(self.owner) {
                    self.relist_span(tables, span, len);
                }
            }
        } else if self.lost.most >= len {
            for index in 0..self.lost.queue.len() {
                let span = self.lost.queue[index];
                if self.is_queued(tables, span) && tables.granules.lost(span) >= len {
                    self.relist_span(tables, span, len);
                }
            }
        }
    }

    /// Returns each span with lost holes, and its bound.
    pub(super) fn lost_spans<'a>(&'a self, tables: &'a Tables) -> impl Iterator<Item = (u32, u32)> + 'a {
        let spans = self.lost.queue.iter().copied().filter(|&span| self.is_queued(tables, span));
        spans.map(|span| (span, tables.granules.lost(span)))
    }

    /// Lists the holes of a span of this heap that have at least `len` granules, as far as there is
    /// room. The others are lost.
    pub(super) fn relist_span(&mut self, tables: &Tables, span: u32, len: u32) {
        let mut lost = 0;
        let within = tables.granules.span(span);
        let mut at = within.start;
        while at < within.end {
            let start = tables.granules.next_free(at, within.end);
            if start == within.end {
                break;
            }
            let part = Run { start, end: tables.granules.next_taken(start, within.end) };
            at = part.end;
            let begin = if start == within.start { tables.granules.hole_start(start, self.owner) } else { start };
            let end = if at == within.end { tables.granules.hole_end(at - 1, self.owner) } else { at };
            let whole = Run { start: begin, end };
            if self.is_cursor(begin) {
                continue;
            }
            match part.len() {
                _ if whole.len() >= SMALL => {
                    // The part of the hole that begins in this span.
                    if begin == start {
                        self.file(tables, whole);
                    }
                }
                size if size >= len && self.hints[size as usize].len() < HINTS / 2 => self.hint(tables, start, size),
                size => lost = lost.max(size),
            }
        }
        tables.granules.set_lost(span, lost);
        if lost > 0 {
            self.lose(tables, span, lost);
        }
    }
}
