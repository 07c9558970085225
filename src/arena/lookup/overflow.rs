//! Further lines for bins in which more than seven blocks begin. They are made when they are
//! needed, and belong to their bin for as long as the arena lives.

use super::line::{Line, Tags};
use crate::Error;
use crate::sync::Ordering;
use crate::sync::checked::{AtomicU32, OnceLock};
use crate::table::{Table, Zeroed};

/// Lines in the first piece; each piece has twice as many as the one before.
const FIRST: u32 = if cfg!(loom) { 2 } else { 64 };
/// Enough for all granules of the largest arena: 2^27 / 7 lines.
const PIECES: usize = 20;

#[derive(Default)]
#[repr(C, align(128))]
pub(super) struct FurtherLine {
    pub(super) line: Line,
    pub(super) tags: Tags,
    /// The next line of the same bin: its number, plus one.
    pub(super) next: AtomicU32,
}

// SAFETY: atomic integers through and through.
unsafe impl Zeroed for FurtherLine {}

pub(super) struct Overflow {
    pieces: [OnceLock<Table<FurtherLine>>; PIECES],
    used: AtomicU32,
}

/// The piece that a line lies in, and where.
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

    /// Makes a line that `next` leads to. Only by the writer of `next`.
    pub(super) fn add(&self, next: &AtomicU32) -> Result<(), Error> {
        let number = self.used.fetch_add(1, Ordering::Relaxed);
        let (piece, _) = place(number);
        let table = self.pieces.get(piece).ok_or_else(Error::out_of_memory)?;
        if table.get().is_none() {
            match Table::new((FIRST << piece) as usize) {
                // Two threads may both make one; the second is dropped untouched.
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
