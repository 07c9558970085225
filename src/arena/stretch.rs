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

#[cfg(test)]
mod tests {
    use super::*;

    fn stretches(blocks: &[(u32, u32, Home)]) -> Vec<(Run, Option<usize>)> {
        let entries: Vec<Entry> = blocks.iter().map(|&(start, len, _)| Entry::new(start, len, 0)).collect();
        let homes: Vec<Home> = blocks.iter().map(|&(_, _, home)| home).collect();
        Stretch::of(&entries, &homes).into_iter().map(|stretch| (stretch.run, stretch.staged)).collect()
    }

    #[test]
    fn what_follows_in_both_places_is_one_stretch() {
        let staged = [(10, 40, Home::Staged(64)), (13, 16, Home::Staged(112)), (14, 1, Home::Staged(128))];
        assert_eq!(stretches(&staged), [(Run::new(10, 5), Some(64))]);
    }

    #[test]
    fn a_gap_in_either_place_begins_another() {
        let in_arena = [(10, 32, Home::Staged(0)), (13, 16, Home::Staged(32))];
        assert_eq!(stretches(&in_arena), [(Run::new(10, 2), Some(0)), (Run::new(13, 1), Some(32))]);
        let in_staging = [(10, 32, Home::Staged(0)), (12, 16, Home::Staged(48))];
        assert_eq!(stretches(&in_staging), [(Run::new(10, 2), Some(0)), (Run::new(12, 1), Some(48))]);
    }

    #[test]
    fn what_is_in_its_place_goes_with_its_like_alone() {
        let mixed = [
            (0, 16, Home::Written),
            (1, 16, Home::Run),
            (2, 16, Home::Staged(0)),
            (3, 16, Home::View),
            (9, 16, Home::View),
        ];
        assert_eq!(
            stretches(&mixed),
            [(Run::new(0, 2), None), (Run::new(2, 1), Some(0)), (Run::new(3, 1), None), (Run::new(9, 1), None)]
        );
    }
}
