//! The places of a batch's bytes until it is published, and the functions that are written and
//! flushed together.
#![forbid(unsafe_code)]

use crate::arena::core::bytes_of;
use crate::arena::lookup::Entry;
use crate::space::Run;

/// The place of a function's bytes until they are published.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::arena) enum Source {
    /// The second view.
    View,
    /// A run of open pages.
    Run,
    /// Their final place, which this thread cannot write to any more.
    Written,
    /// This offset of the staging memory.
    Staged(u32),
}

/// Functions that lie one after another, in the arena and in the staging memory. They are written
/// and flushed with one call.
pub(in crate::arena) struct Piece {
    pub(in crate::arena) run: Run,
    /// The offset of the piece in the staging memory.
    pub(in crate::arena) staged: Option<usize>,
}

impl Piece {
    /// Joins the functions of a batch to pieces, in the order of the slots.
    pub(in crate::arena) fn of(entries: &[Entry], sources: &[Source]) -> Vec<Self> {
        let mut pieces: Vec<Self> = Vec::new();
        for (entry, source) in entries.iter().zip(sources) {
            let staged = if let Source::Staged(at) = source { Some(*at as usize) } else { None };
            let run = entry.run();
            match pieces.last_mut() {
                Some(last) if last.run.end == run.start && last.end_in_staging() == staged => last.run.end = run.end,
                _ => pieces.push(Self { run, staged }),
            }
        }
        pieces
    }

    fn end_in_staging(&self) -> Option<usize> {
        self.staged.map(|from| from + bytes_of(self.run).len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(blocks: &[(u32, u32, Source)]) -> Vec<(Run, Option<usize>)> {
        let entries: Vec<Entry> = blocks.iter().map(|&(start, len, _)| Entry::new(start, len, 0)).collect();
        let sources: Vec<Source> = blocks.iter().map(|&(_, _, source)| source).collect();
        Piece::of(&entries, &sources).into_iter().map(|piece| (piece.run, piece.staged)).collect()
    }

    #[test]
    fn what_follows_in_both_places_is_one_piece() {
        let staged = [(10, 40, Source::Staged(64)), (13, 16, Source::Staged(112)), (14, 1, Source::Staged(128))];
        assert_eq!(pieces(&staged), [(Run::new(10, 5), Some(64))]);
    }

    #[test]
    fn a_gap_in_either_place_begins_another() {
        let in_arena = [(10, 32, Source::Staged(0)), (13, 16, Source::Staged(32))];
        assert_eq!(pieces(&in_arena), [(Run::new(10, 2), Some(0)), (Run::new(13, 1), Some(32))]);
        let in_staging = [(10, 32, Source::Staged(0)), (12, 16, Source::Staged(48))];
        assert_eq!(pieces(&in_staging), [(Run::new(10, 2), Some(0)), (Run::new(12, 1), Some(48))]);
    }

    #[test]
    fn what_is_in_its_place_goes_with_its_like_alone() {
        let mixed = [
            (0, 16, Source::Written),
            (1, 16, Source::Run),
            (2, 16, Source::Staged(0)),
            (3, 16, Source::View),
            (9, 16, Source::View),
        ];
        assert_eq!(
            pieces(&mixed),
            [(Run::new(0, 2), None), (Run::new(2, 1), Some(0)), (Run::new(3, 1), None), (Run::new(9, 1), None)]
        );
    }
}
