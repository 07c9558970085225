//! A run of pages that a batch opened for writing. Its granules are handed out one item after
//! another.
//!
//! ```text
//! run.start                               next                        run.end
//!     | item | item |  gap  | item | item |           tail            |
//!                     alignment
//! used:  the items        rest:  the gaps and the tail
//! ```
#![forbid(unsafe_code)]

use crate::space::Run;
use crate::units::GRANULE;

/// A run of whole pages that are open for writing.
pub(in crate::arena) struct OpenRun {
    pub(in crate::arena) run: Run,
    /// The first granule that was not handed out.
    next: u32,
    /// Granules that were skipped for alignment.
    gaps: Vec<Run>,
    pub(in crate::arena) sealed: bool,
    /// Whether sealing was tried. Pages may be executable, some of them even if the system refused.
    pub(in crate::arena) tried: bool,
    /// Whether written bytes may be lost.
    pub(in crate::arena) lost: bool,
    /// Whether no more granules are handed out, because the protection of pages was to change. It
    /// may have changed for some of them even if the system refused.
    pub(in crate::arena) closed: bool,
    /// Whether every page of the run holds memory.
    pub(in crate::arena) populated: bool,
}

impl OpenRun {
    pub(in crate::arena) fn new(run: Run) -> Self {
        Self {
            run,
            next: run.start,
            gaps: Vec::new(),
            sealed: false,
            tried: false,
            lost: false,
            closed: false,
            populated: false,
        }
    }

    /// Hands out the next granules.
    pub(in crate::arena) fn take(&mut self, granules: u32, align: u32) -> Option<Run> {
        if self.closed {
            return None;
        }
        let start = self.next.checked_add(align - 1)? & !(align - 1);
        let end = start.checked_add(granules).filter(|end| *end <= self.run.end)?;
        if start > self.next {
            self.gaps.push(Run { start: self.next, end: start });
        }
        self.next = end;
        Some(Run { start, end })
    }

    /// Takes back the end of the granules that were handed out last.
    pub(in crate::arena) fn give_back(&mut self, tail: Run) {
        debug_assert!(self.run.start <= tail.start && tail.end == self.next);
        self.next = tail.start;
    }

    /// Returns the part that holds memory: everything up to the last item, or the whole run.
    pub(in crate::arena) fn resident(&self) -> Run {
        if self.populated { self.run } else { Run { start: self.run.start, end: self.next } }
    }

    /// Returns the number of bytes from the start of the run that may have been written to.
    pub(in crate::arena) fn written(&self) -> usize {
        (self.next - self.run.start) as usize * GRANULE
    }

    /// Returns the granules of items: everything that was handed out, without the gaps.
    pub(in crate::arena) fn used(&self) -> impl Iterator<Item = Run> {
        let starts = std::iter::once(self.run.start).chain(self.gaps.iter().map(|gap| gap.end));
        let ends = self.gaps.iter().map(|gap| gap.start).chain(std::iter::once(self.next));
        starts.zip(ends).filter(|(start, end)| start < end).map(|(start, end)| Run { start, end })
    }

    /// Returns the granules that no item took.
    pub(in crate::arena) fn rest(&self) -> impl Iterator<Item = Run> {
        let tail = Run { start: self.next, end: self.run.end };
        self.gaps.iter().copied().chain((tail.len() > 0).then_some(tail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_gaps_and_rest_are_all_of_the_run() {
        let mut open = OpenRun::new(Run::new(256, 1024));
        assert_eq!(open.used().count(), 0);
        let taken: Vec<Run> =
            [(3, 1), (5, 256), (1, 1), (7, 64)].iter().filter_map(|&(len, align)| open.take(len, align)).collect();
        let used: Vec<Run> = open.used().collect();
        assert_eq!(taken.len(), 4);
        assert!(taken.iter().all(|run| used.iter().any(|used| used.start <= run.start && run.end <= used.end)));
        assert_eq!(used.iter().map(|run| run.len()).sum::<u32>(), 16);
        let mut all: Vec<Run> = used.into_iter().chain(open.rest()).collect();
        all.sort_by_key(|run| run.start);
        assert_eq!((all[0].start, all[all.len() - 1].end), (256, 1280));
        assert!(all.windows(2).all(|pair| pair[0].end == pair[1].start));
    }

    #[test]
    fn nothing_without_length_is_given_out() {
        let list = |runs: &mut dyn Iterator<Item = Run>| runs.map(|run| (run.start, run.end)).collect::<Vec<_>>();
        let mut open = OpenRun::new(Run::new(7, 9));
        assert_eq!(open.take(3, 4), Some(Run::new(8, 3)));
        assert_eq!(open.take(2, 1), Some(Run::new(11, 2)));
        assert_eq!((list(&mut open.used()), list(&mut open.rest())), (vec![(8, 13)], vec![(7, 8), (13, 16)]));
        assert_eq!((open.resident().start, open.resident().end), (7, 13));
        open.populated = true;
        assert_eq!((open.resident().start, open.resident().end), (7, 16));
        assert_eq!((open.take(4, 1), open.take(1, 32)), (None, None));
        assert_eq!(open.take(3, 1), Some(Run::new(13, 3)));
        open.give_back(Run::new(14, 2));
        assert_eq!((list(&mut open.used()), list(&mut open.rest())), (vec![(8, 14)], vec![(7, 8), (14, 16)]));
        open.give_back(Run::new(13, 1));
        assert_eq!(open.take(3, 1), Some(Run::new(13, 3)), "to its end");
        assert_eq!((list(&mut open.used()), list(&mut open.rest())), (vec![(8, 16)], vec![(7, 8)]));
    }
}
