//! Further lines, for bins in which more than seven blocks begin. A line is made when it is needed,
//! and belongs to its bin as long as the arena lives.

use super::line::{Line, Tags};
use crate::Error;
use crate::sync::Ordering;
use crate::sync::checked::{AtomicU32, OnceLock};
use crate::table::{Table, Zeroed};

/// The lines of the first piece. Each piece has twice as many as the one before.
const FIRST: u32 = if cfg!(loom) { 2 } else { 64 };
/// The number of pieces. It is enough for all granules of the largest arena: 2^27 / 7 lines.
const PIECES: usize = 20;

#[derive(Default)]
#[repr(C, align(128))]
pub(super) struct FurtherLine {
    pub(super) line: Line,
    pub(super) tags: Tags,
    /// The next line of the same bin: its number, plus one.
    pub(super) next: AtomicU32,
}

// SAFETY: it consists of atomic integers only.
unsafe impl Zeroed for FurtherLine {}

pub(super) struct Overflow {
    pieces: [OnceLock<Table<FurtherLine>>; PIECES],
    used: AtomicU32,
}

/// Returns the piece that contains a line, and the index of the line in it.
fn place(number: u32) -> (usize, usize) {
    let piece = (number / FIRST + 1).ilog2();
    (piece as usize, (number - FIRST * ((1 << piece) - 1)) as usize)
}

impl Overflow {
    pub(super) fn new() -> Self {
        Self { pieces: std::array::from_fn(|_| OnceLock::new()), used: AtomicU32::new(0) }
    }

    /// Returns the line that `next` leads to.
    pub(super) fn follow(&self, next: &AtomicU32) -> Option<&FurtherLine> {
        let number = next.load(Ordering::Acquire).checked_sub(1)?;
        let (piece, index) = place(number);
        self.pieces.get(piece)?.get()?.get(index)
    }

    /// Makes a line and lets `next` lead to it. Only the writer of `next` may call it.
    pub(super) fn add(&self, next: &AtomicU32) -> Result<(), Error> {
        let number = self.used.fetch_add(1, Ordering::Relaxed);
        let (piece, _) = place(number);
        let table = self.pieces.get(piece).ok_or_else(Error::out_of_memory)?;
        if table.get().is_none() {
            match Table::new((FIRST << piece) as usize) {
                // Two threads may both make a table. The second one is dropped unused.
                Ok(made) => drop(table.set(made)),
                Err(error) => {
                    // The number is lost if another thread took the next one meanwhile.
                    let _ = self.used.compare_exchange(number + 1, number, Ordering::Relaxed, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        next.store(number + 1, Ordering::Release);
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_a_place_of_its_own() {
        let mut next = (0, 0);
        for number in 0..100_000 {
            assert_eq!(place(number), next);
            next = if next.1 + 1 == (FIRST as usize) << next.0 { (next.0 + 1, 0) } else { (next.0, next.1 + 1) };
        }
        // Two lines for each seven granules of 2 GiB would still have room.
        assert!(place((2 << 30) / 16 / 7 * 2).0 < PIECES);
    }
}
