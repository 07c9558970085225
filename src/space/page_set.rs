//! A set of pages, for single blocks: bits in words, and where to begin looking.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::Error;

pub(crate) struct PageSet {
    words: Vec<u64>,
    pages: usize,
    /// No page before this one is in the set.
    low: usize,
}

/// Words for `pages` bits; running out of memory here is no reason to abort.
fn words(pages: usize, value: u64) -> Result<Vec<u64>, Error> {
    let (mut words, len) = (Vec::new(), pages.div_ceil(64));
    let refused = |_| Error::OperatingSystem { call: "malloc", source: std::io::ErrorKind::OutOfMemory.into() };
    words.try_reserve_exact(len).map_err(refused)?;
    words.resize(len, value);
    Ok(words)
}

impl PageSet {
    pub(crate) fn empty(pages: usize) -> Result<Self, Error> {
        Ok(Self { words: words(pages, 0)?, pages, low: pages })
    }

    pub(crate) fn full(pages: usize) -> Result<Self, Error> {
        Ok(Self { words: words(pages, u64::MAX)?, pages, low: 0 })
    }

    pub(crate) fn insert(&mut self, pages: Range<usize>) {
        self.low = if pages.is_empty() { self.low } else { self.low.min(pages.start) };
        self.each_word(pages, |word, bits| *word |= bits);
    }

    pub(crate) fn remove(&mut self, pages: Range<usize>) {
        if pages.contains(&self.low) {
            self.low = pages.end;
        }
        self.each_word(pages, |word, bits| *word &= !bits);
    }

    fn each_word(&mut self, pages: Range<usize>, change: impl Fn(&mut u64, u64)) {
        let mut at = pages.start;
        while at < pages.end {
            let end = pages.end.min((at / 64 + 1) * 64);
            if let Some(word) = self.words.get_mut(at / 64) {
                change(word, (u64::MAX << (at % 64)) & (u64::MAX >> (64 - ((end - 1) % 64 + 1))));
            }
            at = end;
        }
    }

    /// The first page at or after `from` that is in the set, or is not.
    fn next(&self, from: usize, within: bool) -> usize {
        let flip = if within { 0 } else { u64::MAX };
        let mut at = from;
        while at < self.pages {
            let rest = (self.words[at / 64] ^ flip) & (u64::MAX << (at % 64));
            if rest != 0 {
                return (at / 64 * 64 + rest.trailing_zeros() as usize).min(self.pages);
            }
            at = (at / 64 + 1) * 64;
        }
        self.pages
    }

    /// The first run of pages in `range` that are all in the set, or all not.
    pub(crate) fn next_run(&self, range: Range<usize>, within: bool) -> Option<Range<usize>> {
        let start = self.next(range.start, within);
        let end = self.next(start, !within).min(range.end);
        (start < end).then_some(start..end)
    }

    /// The first run of pages in the set.
    pub(crate) fn first_run(&self) -> Option<Range<usize>> {
        self.next_run(self.low..self.pages, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_a_vector_of_bools() {
        let mut rng = fastrand::Rng::with_seed(5);
        for pages in [1, 63, 64, 65, 500] {
            let (mut set, mut model) = (PageSet::empty(pages).unwrap(), vec![false; pages]);
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
                for within in [true, false] {
                    let start = (from..pages).find(|&page| model[page] == within);
                    let expected =
                        start.map(|start| start..(start..pages).find(|&page| model[page] != within).unwrap_or(pages));
                    assert_eq!(set.next_run(from..pages, within), expected);
                }
                assert_eq!(set.first_run().map(|run| run.start), (0..pages).find(|&page| model[page]));
            }
        }
        assert_eq!(PageSet::full(70).unwrap().first_run(), Some(0..70));
    }
}
