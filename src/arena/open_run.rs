//! Pages that a batch has opened for writing, and how it hands them out: one item after another.
#![forbid(unsafe_code)]

use crate::space::Run;

/// Whole pages, open for writing.
pub(super) struct OpenRun {
    pub(super) run: Run,
    /// The first granule not handed out.
    next: u32,
    /// Skipped for alignment.
    gaps: Vec<Run>,
    pub(super) sealed: bool,
    /// All of it holds memory.
    pub(super) populated: bool,
}

impl OpenRun {
    pub(super) fn new(run: Run) -> Self {
        Self { run, next: run.start, gaps: Vec::new(), sealed: false, populated: false }
    }

    /// Hands out granules, from where it left off.
    pub(super) fn take(&mut self, granules: u32, align: u32) -> Option<Run> {
        let start = self.next.checked_add(align - 1)? & !(align - 1);
        let end = start.checked_add(granules).filter(|end| *end <= self.run.end)?;
        if start > self.next {
            self.gaps.push(Run { start: self.next, end: start });
        }
        self.next = end;
        Some(Run { start, end })
    }

    /// What holds memory: all that was handed out, or all there is.
    pub(super) fn resident(&self) -> Run {
        if self.populated { self.run } else { Run { start: self.run.start, end: self.next } }
    }

    /// What no item took.
    pub(super) fn rest(&self) -> impl Iterator<Item = Run> {
        let tail = Run { start: self.next, end: self.run.end };
        self.gaps.iter().copied().chain((tail.len() > 0).then_some(tail))
    }
}
