//! The state of a span, one word: its owner, the notes of its heap, and the pages that hold memory.
//! The layout is drawn in the [module](super) above.
//!
//! | part | use |
//! |---|---|
//! | owner | a heap checks that a granule is its own; a drop finds the heap to lock |
//! | pages | `touch` and `gone` return how many bits they changed, and the caller counts them |
//! | crossed | a span with this mark changes owner only with the span before it |
//! | queued, lost | the heap lists the holes of this span again before it takes more memory |
//!
//! A change is a load and a store, not one atomic operation. That is enough because one lock
//! protects each word: the lock of the owner, or of the pool for a free span. `set_owner` needs
//! both locks. A caller that reads the owner without a lock must read it again under the lock.
#![forbid(unsafe_code)]

use super::{CROSSED, Granules, LOST, Owner, QUEUED, RESIDENT, Run, SPAN, load, span_of};
use crate::sync::Ordering;

impl Granules {
    #[inline]
    fn state(&self, span: u32) -> u64 {
        self.states.get(span as usize).map_or(0, load)
    }

    #[inline]
    fn update(&self, span: u32, change: impl Fn(u64) -> u64) {
        if let Some(state) = self.states.get(span as usize) {
            state.store(change(load(state)), Ordering::Relaxed);
        }
    }

    /// Returns the owner of the span that contains a granule, or `None` behind the last span.
    #[inline]
    pub(crate) fn owner_at(&self, granule: u32) -> Option<Owner> {
        self.states.get(span_of(granule) as usize).map(|state| load(state) as Owner)
    }

    /// Gives a span to another owner. The caller holds the locks of both.
    pub(crate) fn set_owner(&self, span: u32, owner: Owner) {
        self.update(span, |state| state & !u64::from(Owner::MAX) | u64::from(owner));
    }

    /// Returns the upper bound of the holes in a span to which no hint leads. It is below 128.
    #[inline]
    pub(crate) fn lost(&self, span: u32) -> u32 {
        (self.state(span) >> LOST) as u32 & 0xff
    }

    pub(crate) fn set_lost(&self, span: u32, lost: u32) {
        self.update(span, |state| state & !(0xff << LOST) | u64::from(lost) << LOST);
    }

    /// Returns whether the owner has the span in its queue of spans with lost holes.
    #[inline]
    pub(crate) fn is_queued(&self, span: u32) -> bool {
        self.state(span) >> QUEUED & 1 == 1
    }

    pub(crate) fn set_queued(&self, span: u32, yes: bool) {
        self.update(span, |state| state & !(1 << QUEUED) | u64::from(yes) << QUEUED);
    }

    /// Clears an owner's notes about lost holes.
    pub(crate) fn forget_lost(&self, span: u32) {
        self.set_lost(span, 0);
        self.set_queued(span, false);
    }

    /// Returns whether something taken may lie across the start of a span. Then the span can change
    /// owner only together with the span before it.
    pub(crate) fn is_crossed(&self, span: u32) -> bool {
        self.state(span) >> CROSSED & 1 == 1
    }

    fn set_crossed(&self, span: u32, yes: bool) {
        self.update(span, |state| state & !(1 << CROSSED) | u64::from(yes) << CROSSED);
    }

    /// Notes that `run` lies across the starts of spans, if it does.
    #[inline]
    pub(crate) fn cross(&self, run: Run) {
        for span in span_of(run.start) + 1..=span_of(run.end - 1) {
            self.set_crossed(span, true);
        }
    }

    /// Notes that `run`, which was taken, does not lie across the starts of spans any more. Where
    /// it began or ended at such a start, nothing else lies across it.
    #[inline]
    pub(crate) fn uncross(&self, run: Run) {
        for span in run.start.div_ceil(SPAN)..=run.end / SPAN {
            // The next span may belong to another heap, and only that heap may write its state. If
            // the bit is set, both spans belong to this heap.
            if span < self.spans() && self.is_crossed(span) {
                self.set_crossed(span, false);
            }
        }
    }

    /// Returns the bits of the pages that `run` touches inside a span.
    #[inline]
    fn pages(&self, span: u32, run: Run) -> u64 {
        let begin = span * SPAN;
        let (start, end) = (run.start.max(begin), run.end.min(begin + SPAN));
        if start >= end {
            return 0;
        }
        let (first, last) = ((start - begin) >> self.page_shift, (end - 1 - begin) >> self.page_shift);
        (u64::MAX >> (63 - (last - first))) << (RESIDENT + first)
    }

    /// Marks the pages of `run` as resident. Returns how many were not resident before.
    #[inline]
    pub(crate) fn touch(&self, run: Run) -> u32 {
        let first = span_of(run.start);
        if first == span_of(run.end - 1) {
            let pages = self.pages(first, run);
            if self.state(first) & pages == pages {
                return 0;
            }
        }
        self.touch_all(run)
    }

    #[cold]
    fn touch_all(&self, run: Run) -> u32 {
        let mut new = 0;
        for span in span_of(run.start)..=span_of(run.end - 1) {
            let (pages, state) = (self.pages(span, run), self.state(span));
            if state & pages != pages {
                new += (pages & !state).count_ones();
                self.update(span, |state| state | pages);
            }
        }
        new
    }

    /// Marks the pages of `run` as not resident. Returns how many were resident before.
    pub(crate) fn gone(&self, run: Run) -> u32 {
        let mut gone = 0;
        for span in span_of(run.start)..=span_of(run.end - 1) {
            let pages = self.pages(span, run);
            gone += (self.state(span) & pages).count_ones();
            self.update(span, |state| state & !pages);
        }
        gone
    }

    /// Returns whether all pages that `run` touches are resident.
    #[inline]
    pub(crate) fn all_resident(&self, run: Run) -> bool {
        (span_of(run.start)..=span_of(run.end - 1)).all(|span| {
            let pages = self.pages(span, run);
            self.state(span) & pages == pages
        })
    }

    /// Returns how many of the pages that `run` touches are resident.
    pub(crate) fn count_resident(&self, run: Run) -> u32 {
        // Spans before the first granule are empty runs.
        (span_of(run.start)..=span_of(run.end.max(1) - 1))
            .map(|span| (self.state(span) & self.pages(span, run)).count_ones())
            .sum()
    }
}
