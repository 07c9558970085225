//! The state of each span, one word: its owner, what its heap noted of it, and which of its pages
//! hold memory.
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

    /// The owner of the span that a granule lies in; `None` behind the last span.
    #[inline]
    pub(crate) fn owner_at(&self, granule: u32) -> Option<Owner> {
        self.states.get(span_of(granule) as usize).map(|state| load(state) as Owner)
    }

    /// Gives a span to another owner. Under the locks of both.
    pub(crate) fn set_owner(&self, span: u32, owner: Owner) {
        self.update(span, |state| state & !u64::from(Owner::MAX) | u64::from(owner));
    }

    /// The largest hole of a span that nothing may lead to, at the most; below 128.
    #[inline]
    pub(crate) fn lost(&self, span: u32) -> u32 {
        (self.state(span) >> LOST) as u32 & 0xff
    }

    pub(crate) fn set_lost(&self, span: u32, lost: u32) {
        self.update(span, |state| state & !(0xff << LOST) | u64::from(lost) << LOST);
    }

    /// Whether the owner has the span in its queue of those with lost holes.
    #[inline]
    pub(crate) fn is_queued(&self, span: u32) -> bool {
        self.state(span) >> QUEUED & 1 == 1
    }

    pub(crate) fn set_queued(&self, span: u32, yes: bool) {
        self.update(span, |state| state & !(1 << QUEUED) | u64::from(yes) << QUEUED);
    }

    /// Forgets what an owner noted about lost holes.
    pub(crate) fn forget_lost(&self, span: u32) {
        self.set_lost(span, 0);
        self.set_queued(span, false);
    }

    /// Whether something taken may lie across the start of a span: then the span cannot change
    /// owner without the one before.
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

    /// Notes that `run`, which was taken, lies across the starts of spans no more. Where it began
    /// or ended at one, nothing else does.
    #[inline]
    pub(crate) fn uncross(&self, run: Run) {
        for span in run.start.div_ceil(SPAN)..=run.end / SPAN {
            // The span behind may be another heap's, whose state only that heap may write. Where
            // the bit is set, both are this one's.
            if span < self.spans() && self.is_crossed(span) {
                self.set_crossed(span, false);
            }
        }
    }

    /// Bits of the pages that `run` touches inside of a span.
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

    /// Pages that `run` lies in hold memory from now on; returns how many did not before.
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

    /// Pages of `run` hold no memory any more; returns how many did.
    pub(crate) fn gone(&self, run: Run) -> u32 {
        let mut gone = 0;
        for span in span_of(run.start)..=span_of(run.end - 1) {
            let pages = self.pages(span, run);
            gone += (self.state(span) & pages).count_ones();
            self.update(span, |state| state & !pages);
        }
        gone
    }

    /// Whether all pages that `run` touches hold memory.
    #[inline]
    pub(crate) fn all_resident(&self, run: Run) -> bool {
        (span_of(run.start)..=span_of(run.end - 1)).all(|span| {
            let pages = self.pages(span, run);
            self.state(span) & pages == pages
        })
    }

    /// How many of the pages that `run` touches hold memory.
    pub(crate) fn count_resident(&self, run: Run) -> u32 {
        // Spans before the first granule are empty runs.
        (span_of(run.start)..=span_of(run.end.max(1) - 1))
            .map(|span| (self.state(span) & self.pages(span, run)).count_ones())
            .sum()
    }
}
