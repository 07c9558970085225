//! A set of numbers (of pages, or of spans): bits in words, and the place where a search begins.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::Error;
use crate::table::Table;

pub(crate) struct BitSet {
    words: Table<u64>,
    len: usize,
    /// A bound: no number below it is in the set.
    low: usize,
}

impl BitSet {
    /// Makes an empty set for numbers below `len`. It takes memory only as numbers are added.
    pub(crate) fn empty(len: usize) -> Result<Self, Error> {
        Ok(Self { words: Table::new(len.div_ceil(64))?, len, low: len })
    }

    pub(crate) fn full(len: usize) -> Result<Self, Error> {
        let mut set = Self::empty(len)?;
        set.words.fill(u64::MAX);
        Ok(Self { low: 0, ..set })
    }

    pub(crate) fn contains(&self, number: usize) -> bool {
        number < self.len && self.words[number / 64] >> (number % 64) & 1 == 1
    }

    pub(crate) fn insert(&mut self, range: Range<usize>) {
        self.low = if range.is_empty() { self.low } else { self.low.min(range.start) };
        self.each_word(range, |word, bits| *word |= bits);
    }

    pub(crate) fn remove(&mut self, range: Range<usize>) {
        if range.contains(&self.low) {
            self.low = range.end;
        }
        self.each_word(range, |word, bits| *word &= !bits);
    }

    fn each_word(&mut self, range: Range<usize>, change: impl Fn(&mut u64, u64)) {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at / 64 + 1) * 64);
            if let Some(word) = self.words.get_mut(at / 64) {
                change(word, (u64::MAX << (at % 64)) & (u64::MAX >> (64 - ((end - 1) % 64 + 1))));
            }
            at = end;
        }
    }

    /// Returns the first number at or after `from` that is in the set, or is not in the set.
    fn next(&self, from: usize, within: bool) -> usize {
        let flip = if within { 0 } else { u64::MAX };
        let mut at = from;
        while at < self.len {
            let rest = (self.words[at / 64] ^ flip) & (u64::MAX << (at % 64));
            if rest != 0 {
                return (at / 64 * 64 + rest.trailing_zeros() as usize).min(self.len);
            }
            at = (at / 64 + 1) * 64;
        }
        self.len
    }

    /// Returns the first run of numbers in `range` that are all in the set, or all not in the set.
    pub(crate) fn next_run(&self, range: Range<usize>, within: bool) -> Option<Range<usize>> {
        let start = self.next(range.start, within);
        let end = self.next(start, !within).min(range.end);
        (start < end).then_some(start..end)
    }

    /// Returns the first run of numbers in the set.
    pub(crate) fn first_run(&self) -> Option<Range<usize>> {
        self.next_run(self.low..self.len, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_a_vector_of_bools() {
        let mut rng = fastrand::Rng::with_seed(5);
        for pages in [1, 63, 64, 65, 500] {
            let (mut set, mut model) = (BitSet::empty(pages).unwrap(), vec![false; pages]);
            for _ in 0..300 {
                let start = rng.usize(..pages);
                let range = start..rng.usize(start..=pages);
                let value = rng.bool();
                if value {
                    set.insert(range.clone());
                } else {
                    set.remove(range.clone());
                }
                model[range].fill(value);
                let from = rng.usize(..pages);
                assert_eq!((set.contains(from), set.contains(pages)), (model[from], false));
                for within in [true, false] {
                    let start = (from..pages).find(|&page| model[page] == within);
                    let expected =
                        start.map(|start| start..(start..pages).find(|&page| model[page] != within).unwrap_or(pages));
                    assert_eq!(set.next_run(from..pages, within), expected);
                }
                assert_eq!(set.first_run().map(|run| run.start), (0..pages).find(|&page| model[page]));
            }
        }
        assert_eq!(BitSet::full(70).unwrap().first_run(), Some(0..70));
    }
}
