//! Which parts of shared memory the system has been asked for, on systems that hand it out only
//! when asked.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::Error;
use crate::sync::Ordering;
use crate::sync::checked::AtomicU64;
use crate::table::Table;

/// Bytes asked for at a time: a power of two, and whole pages on every system that has to be asked.
const STRETCH: usize = 64 << 10;

/// A bit for each stretch, set once it has memory. It never goes again.
pub(super) struct Backing {
    bits: Table<AtomicU64>,
    len: usize,
}

impl Backing {
    /// For `len` bytes, none of which have memory.
    pub(super) fn new(len: usize) -> Result<Self, Error> {
        Ok(Self { bits: Table::new(len.div_ceil(STRETCH).div_ceil(64))?, len })
    }

    /// Calls `commit` for those stretches around `bytes` that have no memory yet, neighbours taken
    /// together. Two threads may both ask for one: the second changes nothing.
    pub(super) fn ensure(
        &self,
        bytes: Range<usize>,
        commit: impl Fn(Range<usize>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut stretches = bytes.start / STRETCH..bytes.end.div_ceil(STRETCH);
        while let Some(first) = stretches.find(|&stretch| !self.has(stretch)) {
            let end = stretches.find(|&stretch| self.has(stretch)).unwrap_or(stretches.end);
            commit(first * STRETCH..(end * STRETCH).min(self.len))?;
            for stretch in first..end {
                // Release: whoever sees the bit may use the memory.
                self.word(stretch).fetch_or(1 << (stretch % 64), Ordering::Release);
            }
        }
        Ok(())
    }

    fn has(&self, stretch: usize) -> bool {
        self.word(stretch).load(Ordering::Acquire) >> (stretch % 64) & 1 == 1
    }

    fn word(&self, stretch: usize) -> &AtomicU64 {
        &self.bits[stretch / 64]
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn each_stretch_is_asked_for_once_and_again_after_a_refusal() {
        let len = 200 * STRETCH + 4096;
        let backing = Backing::new(len).unwrap();
        let asked = RefCell::new(Vec::new());
        let ensure = |bytes| {
            let ended = backing.ensure(bytes, |range| {
                asked.borrow_mut().push((range.start, range.end));
                Ok(())
            });
            assert!(ended.is_ok());
            std::mem::take(&mut *asked.borrow_mut())
        };
        assert_eq!(ensure(5..6), [(0, STRETCH)]);
        assert!(ensure(0..STRETCH).is_empty());
        assert_eq!(ensure(3 * STRETCH - 1..3 * STRETCH + 1), [(2 * STRETCH, 4 * STRETCH)]);
        let refused = backing.ensure(0..6 * STRETCH, |_| Err(Error::ZeroSize));
        assert!(refused.is_err());
        assert_eq!(ensure(0..6 * STRETCH), [(STRETCH, 2 * STRETCH), (4 * STRETCH, 6 * STRETCH)]);
        // The last one ends with the memory.
        assert_eq!(ensure(0..len), [(6 * STRETCH, len)]);
        assert!(ensure(0..len).is_empty());
        assert!(ensure(7..7).is_empty());
    }
}
