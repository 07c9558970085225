//! The index by size: every bin (a fixed stretch of granules) is filed under the size class of the largest hole that
//! *begins* in it, one doubly linked list for each class and one bit for each list that is not empty.
#![forbid(unsafe_code)]

use crate::Error;
use crate::table::Table;

/// Up to here a class holds one size; beyond, each doubling is cut into 16.
pub(super) const EXACT: u32 = 256;
const PER_DOUBLING: u32 = 16;
/// Classes up to holes of 2^28 granules (4 GiB).
pub(super) const CLASSES: usize = (EXACT + (28 - 8) * PER_DOUBLING + 1) as usize;

/// The class a hole of `len > 0` granules is filed under. Monotonic; a class below `EXACT` holds just its own size.
pub(super) const fn class_of(len: u32) -> u16 {
    if len < EXACT {
        return len as u16;
    }
    let doubling = len.ilog2();
    let step = (len >> (doubling - 4)) & (PER_DOUBLING - 1);
    (EXACT + (doubling - 8) * PER_DOUBLING + step) as u16
}

pub(super) struct Bins {
    /// 0: no hole begins in this bin.
    class: Table<u16>,
    /// Previous and next bin of the same class, each plus one; 0 ends the list.
    links: Table<[u32; 2]>,
    heads: [u32; CLASSES],
    occupied: [u64; CLASSES.div_ceil(64)],
}

const PREV: usize = 0;
const NEXT: usize = 1;

impl Bins {
    pub(super) fn new(bins: usize) -> Result<Self, Error> {
        Ok(Self {
            class: Table::new(bins)?,
            links: Table::new(bins)?,
            heads: [0; CLASSES],
            occupied: [0; CLASSES.div_ceil(64)],
        })
    }

    pub(super) fn class(&self, bin: usize) -> u16 {
        self.class[bin]
    }

    /// Files `bin` under `class`.
    pub(super) fn file(&mut self, bin: usize, class: u16) {
        if self.class[bin] != class {
            self.unlink(bin);
            self.link(bin, class);
        }
    }

    /// Files `bin` under `class` if that is more than it is filed under.
    pub(super) fn raise(&mut self, bin: usize, class: u16) {
        self.file(bin, class.max(self.class[bin]));
    }

    fn unlink(&mut self, bin: usize) {
        let class = usize::from(self.class[bin]);
        if class == 0 {
            return;
        }
        let [prev, next] = self.links[bin];
        match prev {
            0 => self.heads[class] = next,
            prev => self.links[prev as usize - 1][NEXT] = next,
        }
        if next != 0 {
            self.links[next as usize - 1][PREV] = prev;
        }
        if self.heads[class] == 0 {
            self.occupied[class / 64] &= !(1 << (class % 64));
        }
        self.class[bin] = 0;
    }

    fn link(&mut self, bin: usize, class: u16) {
        self.class[bin] = class;
        let class = usize::from(class);
        if class == 0 {
            return;
        }
        let next = self.heads[class];
        self.links[bin] = [0, next];
        if next != 0 {
            self.links[next as usize - 1][PREV] = bin as u32 + 1;
        }
        self.heads[class] = bin as u32 + 1;
        self.occupied[class / 64] |= 1 << (class % 64);
    }

    /// The smallest class at or above `class` with a bin in it.
    pub(super) fn at_least(&self, class: u16) -> Option<u16> {
        let from = usize::from(class);
        let mut word = from / 64;
        let mut bits = self.occupied.get(word)? & (u64::MAX << (from % 64));
        while bits == 0 {
            word += 1;
            bits = *self.occupied.get(word)?;
        }
        Some((word * 64 + bits.trailing_zeros() as usize) as u16)
    }

    /// The largest class with a bin in it.
    pub(super) fn largest(&self) -> Option<u16> {
        let (word, bits) = self.occupied.iter().enumerate().rev().find(|(_, bits)| **bits != 0)?;
        Some((word * 64 + bits.ilog2() as usize) as u16)
    }

    /// The bins of a class, the one filed last first.
    pub(super) fn of_class(&self, class: u16) -> impl Iterator<Item = usize> + '_ {
        let mut at = self.heads[usize::from(class)];
        std::iter::from_fn(move || {
            let bin = (at as usize).checked_sub(1)?;
            at = self.links[bin][NEXT];
            Some(bin)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_monotonic_and_exact_where_promised() {
        let mut last = 0;
        for len in (1..5000).chain((13..28).flat_map(|p| [(1 << p) - 1, 1 << p, (1 << p) + 1])) {
            let class = class_of(len);
            assert!(class >= last, "{len}");
            assert!(len >= EXACT || u32::from(class) == len);
            assert!(usize::from(class) < CLASSES);
            last = class;
        }
    }

    #[test]
    fn each_doubling_is_cut_into_sixteen() {
        let mut class = EXACT as u16;
        for doubling in 8..28 {
            for step in 16..32 {
                let first = step << (doubling - 4);
                assert_eq!((class_of(first), class_of(first - 1)), (class, class - 1));
                class += 1;
            }
        }
        // All of them have room, and the next one is the last.
        assert_eq!((class_of(1 << 28), usize::from(class) + 1), (class, CLASSES));
    }
}
