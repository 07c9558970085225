//! The pool: the spans that belong to no heap. All of them are wholly free.
//!
//! A heap takes spans from the pool when its holes do not suffice, first spans that hold memory. It
//! returns spans that are wholly free. Constants in the data area are taken from the last spans. In
//! an arena the pool is locked while a heap is locked, never the other way around.
//!
//! ```text
//!          take, take_run (spans with memory first, and the one behind the heap's last span first)
//! pool  ------------------------------------------------------------------------------------------> heap
//!       <------------------------------------------------------------------------------------------
//!          a span that became wholly free
//! ```
#![forbid(unsafe_code)]

use std::ops::Range;

use super::Run;
use super::bit_set::BitSet;
use super::granules::{FREE, Granules, SPAN, span_of};
use crate::Error;

/// The free spans.
pub(crate) struct Pool {
    free: BitSet,
    /// The free spans of which some page holds memory. They are used first.
    resident: BitSet,
    /// The number of granules of all free spans.
    granules: u32,
    /// The number of their pages that hold memory.
    pages: u32,
}

fn bits(spans: &Range<u32>) -> Range<usize> {
    spans.start as usize..spans.end as usize
}

/// Returns the granules of adjacent spans.
fn run_of(granules: &Granules, spans: &Range<u32>) -> Run {
    Run { start: (spans.start * SPAN).max(granules.first()), end: (spans.end * SPAN).min(granules.len()) }
}

impl Pool {
    /// Returns a pool of all spans.
    pub(crate) fn new(granules: &Granules) -> Result<Self, Error> {
        let count = granules.spans() as usize;
        let mut free = BitSet::full(count)?;
        free.remove(0..span_of(granules.first()) as usize);
        Ok(Self { free, resident: BitSet::empty(count)?, granules: granules.len() - granules.first(), pages: 0 })
    }

    /// Returns the number of free granules.
    pub(crate) fn granules(&self) -> u32 {
        self.granules
    }

    /// Returns the number of free pages that hold memory.
    pub(crate) fn resident_pages(&self) -> u32 {
        self.pages
    }

    pub(crate) fn is_free(&self, span: u32) -> bool {
        self.free.contains(span as usize)
    }

    /// Takes one span that holds memory: `preferred`, if it does.
    pub(crate) fn take_resident(&mut self, granules: &Granules, preferred: u32) -> Option<Range<u32>> {
        let first = match self.resident.contains(preferred as usize) {
            true => preferred,
            false => self.resident.first_run()?.start as u32,
        };
        Some(self.take(granules, first..first + 1))
    }

    /// Takes up to `most` adjacent spans that hold memory.
    pub(crate) fn take_resident_run(&mut self, granules: &Granules, most: u32) -> Option<Range<u32>> {
        let run = self.resident.first_run()?;
        let first = run.start as u32;
        Some(self.take(granules, first..(run.end as u32).min(first + most)))
    }

    /// Takes the span `preferred` if it is free, or else the first one.
    pub(crate) fn take_any(&mut self, granules: &Granules, preferred: u32) -> Option<Range<u32>> {
        let span = match self.is_free(preferred) {
            true => preferred,
            false => self.free.first_run()?.start as u32,
        };
        Some(self.take(granules, span..span + 1))
    }

    /// Takes the spans that contain the first `len` granules at a multiple of `align`: only spans
    /// that hold memory, or any spans.
    pub(crate) fn take_run(&mut self, granules: &Granules, len: u32, align: u32, resident: bool) -> Option<Range<u32>> {
        let set = if resident { &self.resident } else { &self.free };
        let (mut at, count) = (0, granules.spans() as usize);
        let spans = loop {
            let spans = set.next_run(at..count, true)?;
            at = spans.end;
            let hole = run_of(granules, &(spans.start as u32..spans.end as u32));
            if let Some(found) = hole.fit(len, align) {
                break span_of(found.start)..span_of(found.end - 1) + 1;
            }
        };
        Some(self.take(granules, spans))
    }

    /// Takes spans as [`Pool::take_run`] does, but those of the last granules that fit.
    #[cfg_attr(not(feature = "cranelift"), allow(dead_code, reason = "only data is taken from the end"))]
    pub(crate) fn take_last_run(
        &mut self,
        granules: &Granules,
        len: u32,
        align: u32,
        resident: bool,
    ) -> Option<Range<u32>> {
        let set = if resident { &self.resident } else { &self.free };
        let (mut at, count) = (0, granules.spans() as usize);
        let mut last = None;
        while let Some(spans) = set.next_run(at..count, true) {
            at = spans.end;
            let hole = run_of(granules, &(spans.start as u32..spans.end as u32));
            let start = hole.end.checked_sub(len).map(|start| start & !(align - 1));
            last = start.filter(|start| *start >= hole.start).or(last);
        }
        let start = last?;
        Some(self.take(granules, span_of(start)..span_of(start + len - 1) + 1))
    }

    /// Returns the length of the longest run of granules in free spans.
    pub(crate) fn largest(&self, granules: &Granules) -> u32 {
        let (mut at, mut most) = (0, 0);
        while let Some(spans) = self.free.next_run(at..granules.spans() as usize, true) {
            at = spans.end;
            most = most.max(run_of(granules, &(spans.start as u32..spans.end as u32)).len());
        }
        most
    }

    /// Takes these free spans.
    pub(crate) fn take(&mut self, granules: &Granules, spans: Range<u32>) -> Range<u32> {
        let run = run_of(granules, &spans);
        self.free.remove(bits(&spans));
        self.resident.remove(bits(&spans));
        self.granules -= run.len();
        self.pages -= granules.count_resident(run);
        spans
    }

    /// Adds spans, which belong to no heap from now on. They are wholly free.
    pub(crate) fn put(&mut self, granules: &Granules, spans: Range<u32>) {
        for span in spans.clone() {
            granules.set_owner(span, FREE);
            granules.forget_lost(span);
            let pages = granules.count_resident(granules.span(span));
            if pages > 0 {
                self.resident.insert(span as usize..span as usize + 1);
            }
            self.pages += pages;
        }
        self.free.insert(bits(&spans));
        self.granules += run_of(granules, &spans).len();
    }

    /// Marks the pages that `run` touches as resident. `run` lies in one free span.
    pub(crate) fn touch(&mut self, granules: &Granules, run: Run) {
        let span = span_of(run.start) as usize;
        self.pages += granules.touch(run);
        self.resident.insert(span..span + 1);
    }
}
