//! Where the functions of a batch are until they are published, and which of them can be handled together.
#![forbid(unsafe_code)]

use super::core::bytes_of;
use super::lookup::Entry;
use crate::space::Run;

/// Where a function's bytes are until they are published.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    /// In the second view.
    View,
    /// In a run of open pages.
    Run,
    /// In their place, which is writable no more.
    Written,
    /// At this offset of the staging memory.
    Staged(u32),
}

/// Functions that lie one after another, in the arena and in the staging memory: written and flushed with one call.
pub(super) struct Stretch {
    pub(super) run: Run,
    /// Where it begins in the staging memory.
    pub(super) staged: Option<usize>,
}

impl Stretch {
    /// All functions of a batch, in the order of the slots.
    pub(super) fn of(entries: &[Entry], homes: &[Home]) -> Vec<Self> {
        let mut stretches: Vec<Self> = Vec::new();
        for (entry, home) in entries.iter().zip(homes) {
            let staged = if let Home::Staged(at) = home { Some(*at as usize) } else { None };
            let run = entry.run();
            match stretches.last_mut() {
                Some(last) if last.run.end == run.start && last.end_in_staging() == staged => last.run.end = run.end,
                _ => stretches.push(Self { run, staged }),
            }
        }
        stretches
    }

    fn end_in_staging(&self) -> Option<usize> {
        self.staged.map(|from| from + bytes_of(self.run).len())
    }
}
