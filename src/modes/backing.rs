//! The parts of shared memory that the system was asked for, on systems that provide it only when
//! asked.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::Error;
use crate::sync::Ordering;
use crate::sync::checked::AtomicU64;
use crate::table::Table;

/// The bytes asked for at a time: a power of two, and whole pages on every system that has to be
/// asked.
const UNIT: usize = 64 << 10;

/// One bit for each unit, set when the unit has memory. It is never cleared.
pub(super) struct Backing {
    bits: Table<AtomicU64>,
    len: usize,
}

impl Backing {
    /// Makes a table for `len` bytes that have no memory.
    pub(super) fn new(len: usize) -> Result<Self, Error> {
        Ok(Self { bits: Table::new(len.div_ceil(UNIT).div_ceil(64))?, len })
    }

    /// Calls `commit` for the units of `bytes` that have no memory yet, once for each run of them.
    /// Two threads may both ask for one unit; the second call changes nothing.
    pub(super) fn ensure(
        &self,
        bytes: Range<usize>,
        commit: impl Fn(Range<usize>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut units = bytes.start / UNIT..bytes.end.div_ceil(UNIT);
        while let Some(first) = units.find(|&unit| !self.has(unit)) {
            let end = units.find(|&unit| self.has(unit)).unwrap_or(units.end);
            commit(first * UNIT..(end * UNIT).min(self.len))?;
            for unit in first..end {
                // Release, because a thread that sees the bit may use the memory.
                self.word(unit).fetch_or(1 << (unit % 64), Ordering::Release);
            }
        }
        Ok(())
    }

    fn has(&self, unit: usize) -> bool {
        self.word(unit).load(Ordering::Acquire) >> (unit % 64) & 1 == 1
    }

    fn word(&self, unit: usize) -> &AtomicU64 {
        &self.bits[unit / 64]
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn each_unit_is_asked_for_once_and_again_after_a_refusal() {
        let len = 200 * UNIT + 4096;
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
        assert_eq!(ensure(5..6), [(0, UNIT)]);
        assert!(ensure(0..UNIT).is_empty());
        assert_eq!(ensure(3 * UNIT - 1..3 * UNIT + 1), [(2 * UNIT, 4 * UNIT)]);
        let refused = backing.ensure(0..6 * UNIT, |_| Err(Error::ZeroSize));
        assert!(refused.is_err());
        assert_eq!(ensure(0..6 * UNIT), [(UNIT, 2 * UNIT), (4 * UNIT, 6 * UNIT)]);
        // The last unit ends with the memory.
        assert_eq!(ensure(0..len), [(6 * UNIT, len)]);
        assert!(ensure(0..len).is_empty());
        assert!(ensure(7..7).is_empty());
    }
}
