//! The index of large holes: one list for each size class, and one bit for each list that is not
//! empty.
//!
//! The space is divided into *bins* of [`SMALL`] granules. A hole of at least that many granules
//! ends behind the bin in which it begins. So at most one such hole begins in each bin, and the bin
//! represents it. A bin needs one word, in a table that all heaps share. The heap that owns the
//! span writes the word.
//!
//! ```text
//! 63      48 47         24 23          0
//! | class   | next + 1    | previous + 1 |      class 0: no large hole of this index begins in the bin
//!
//! heads    class 128: bin 7 --> bin 40     class 129: -     class 130: bin 3     ...
//! ```
#![forbid(unsafe_code)]

use crate::Error;
use crate::sync::Ordering;
use crate::sync::checked::AtomicU64;
use crate::table::Table;

/// The size in granules below which a hole is small.
pub(super) const SMALL: u32 = 128;
/// The size up to which a class has one size only. Above it, each doubling is divided into 16
/// classes.
const EXACT: u32 = 256;
const PER_DOUBLING: u32 = 16;
/// The number of classes, for holes of up to 2^28 granules (4 GiB).
const CLASSES: usize = (EXACT + (28 - 8) * PER_DOUBLING + 1) as usize;

/// Returns the class of a hole of `len > 0` granules. It is monotonic. A class below `EXACT`
/// contains its own size only.
pub(super) const fn class_of(len: u32) -> u16 {
    if len < EXACT {
        return len as u16;
    }
    let doubling = len.ilog2();
    let step = (len >> (doubling - 4)) & (PER_DOUBLING - 1);
    (EXACT + (doubling - 8) * PER_DOUBLING + step) as u16
}

/// One word for each bin.
pub(crate) struct Links(Table<AtomicU64>);

const PREVIOUS: u32 = 0;
const NEXT: u32 = 24;
const LINK: u64 = (1 << 24) - 1;
const CLASS: u32 = 48;

impl Links {
    pub(crate) fn new(granules: u32) -> Result<Self, Error> {
        Ok(Self(Table::new(granules.div_ceil(SMALL) as usize)?))
    }

    fn load(&self, bin: u32) -> u64 {
        self.0.get(bin as usize).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn store(&self, bin: u32, word: u64) {
        if let Some(place) = self.0.get(bin as usize) {
            place.store(word, Ordering::Relaxed);
        }
    }

    fn class(&self, bin: u32) -> u16 {
        (self.load(bin) >> CLASS) as u16
    }

    /// Returns the bin that a bin's word names, if there is one.
    fn link(&self, bin: u32, which: u32) -> Option<u32> {
        ((self.load(bin) >> which & LINK) as u32).checked_sub(1)
    }

    fn set_link(&self, bin: u32, which: u32, to: Option<u32>) {
        let link = to.map_or(0, |to| u64::from(to) + 1);
        self.store(bin, self.load(bin) & !(LINK << which) | link << which);
    }
}

/// Returns the bin that contains a granule.
pub(super) const fn bin_of(granule: u32) -> u32 {
    granule / SMALL
}

pub(super) struct Large {
    /// The first bin of each list, plus one.
    heads: Vec<u32>,
    occupied: [u64; CLASSES.div_ceil(64)],
    /// The number of bins in all lists.
    filed: u32,
}

impl Large {
    pub(super) fn new() -> Result<Self, Error> {
        let mut heads = Vec::new();
        heads.try_reserve_exact(CLASSES).map_err(|_| Error::out_of_memory())?;
        heads.resize(CLASSES, 0);
        Ok(Self { heads, occupied: [0; CLASSES.div_ceil(64)], filed: 0 })
    }

    /// Puts `bin` into the list of `class`, or into no list if that is 0.
    #[inline]
    pub(super) fn file(&mut self, links: &Links, bin: u32, class: u16) {
        let old = links.class(bin);
        if old != class {
            if old != 0 {
                self.unlink(links, bin, old);
            }
            if class != 0 {
                self.link(links, bin, class);
            }
        }
    }

    fn unlink(&mut self, links: &Links, bin: u32, class: u16) {
        let (previous, next) = (links.link(bin, PREVIOUS), links.link(bin, NEXT));
        match previous {
            None => self.heads[usize::from(class)] = next.map_or(0, |next| next + 1),
            Some(previous) => links.set_link(previous, NEXT, next),
        }
        if let Some(next) = next {
            links.set_link(next, PREVIOUS, previous);
        }
        if self.heads[usize::from(class)] == 0 {
            self.occupied[usize::from(class) / 64] &= !(1 << (class % 64));
        }
        links.store(bin, 0);
        self.filed -= 1;
    }

    fn link(&mut self, links: &Links, bin: u32, class: u16) {
        let head = &mut self.heads[usize::from(class)];
        let next = head.checked_sub(1);
        *head = bin + 1;
        links.store(bin, u64::from(class) << CLASS);
        links.set_link(bin, NEXT, next);
        if let Some(next) = next {
            links.set_link(next, PREVIOUS, Some(bin));
        }
        self.occupied[usize::from(class) / 64] |= 1 << (class % 64);
        self.filed += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filed == 0
    }

    /// Returns the smallest class at or above `class` with a bin in it.
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

    /// Returns the largest class with a bin in it.
    pub(super) fn last(&self) -> Option<u16> {
        let (word, bits) = self.occupied.iter().enumerate().rev().find(|(_, bits)| **bits != 0)?;
        Some((word * 64) as u16 + bits.ilog2() as u16)
    }

    /// Returns the bins of a class, the last one added first.
    pub(super) fn of_class<'a>(&'a self, links: &'a Links, class: u16) -> impl Iterator<Item = u32> + 'a {
        std::iter::successors(self.heads[usize::from(class)].checked_sub(1), |bin| links.link(*bin, NEXT))
    }
}

#[cfg(all(test, not(loom)))]
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
        // Each size has a class, and the next class is the last.
        assert_eq!((class_of(1 << 28), usize::from(class) + 1), (class, CLASSES));
    }

    #[test]
    fn lists_hold_what_was_filed() {
        let links = Links::new(SMALL * 50).unwrap();
        let (mut large, mut model) = (Large::new().unwrap(), vec![0u16; 50]);
        let mut rng = fastrand::Rng::with_seed(2);
        for _ in 0..5_000 {
            let (bin, class) = (rng.u32(..50), *rng.choice([0, 128, 129, 300, 576].as_slice()).unwrap());
            large.file(&links, bin, class);
            model[bin as usize] = class;
            let from = rng.u16(1..577);
            assert_eq!(large.at_least(from), model.iter().copied().filter(|&class| class >= from).min());
            assert_eq!(large.is_empty(), model.iter().all(|class| *class == 0));
            assert_eq!(large.last(), model.iter().copied().filter(|&class| class > 0).max());
            let mut listed: Vec<u32> = large.of_class(&links, class.max(1)).collect();
            listed.sort_unstable();
            let filed = (0..50).filter(|&bin| model[bin as usize] == class.max(1));
            assert!(listed.into_iter().eq(filed));
        }
    }
}
