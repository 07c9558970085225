//! Which granules are free: the allocator proper, as plain data that knows nothing of memory or of the system.
//!
//! # Algorithm
//!
//! One bit a granule (16 bytes) says whether it is taken; a *hole* is a maximal run of clear bits, so neighbours that
//! are freed coalesce by clearing bits, in any order, with nothing to maintain. The reservation is cut into *bins* of
//! 256 granules (4 KiB). A bin knows the size class of the largest hole that begins in it and stands in the list of
//! that class ([`bins`]). To allocate, take a bin of the smallest class that is sure to fit, read its 256 bits and take
//! the tightest hole in it; to free, clear the bits and look at the bins whose holes changed: the one where the grown
//! hole begins, and the one where the hole it swallowed began. A block may straddle bins; a hole may span thousands.
//!
//! # Why
//!
//! Segregated fit by the *largest* hole of a bin prefers bins that are nearly full, so that sparse ones drain and whole
//! pages come free; up to 4 KiB the classes are exact, so what is found is a best fit over bins and within the bin. A
//! record for each hole (two-level segregated fit, trees by size) costs 16 to 40 bytes a hole and several cache misses
//! an operation; here the whole state is 1 bit for each granule and 10 bytes for each bin, about 1 % of the code, and
//! an operation touches two or three bins.
//!
//! # Cost
//!
//! Allocation and release take a constant number of steps for blocks up to 4 KiB, whatever is live; beyond, one step
//! more for each 64 granules of the block (their bits are set). Distances to the next and previous taken granule are
//! found through [`Bitmap`]'s summaries in at most ten steps. Two requests can take longer, both only when nothing but
//! the request's own size class is left: one of more than 4 KiB (classes are then ranges, the list is searched), and one
//! with an alignment (every bin with a hole of a fitting size is searched).
#![forbid(unsafe_code)]

mod bins;
pub(crate) mod bitmap;
#[cfg(all(any(test, fuzzing), not(loom)))]
pub mod model;
pub(crate) mod page_set;
pub(crate) mod pages;
#[cfg(test)]
mod tests;

use bins::{Bins, EXACT, class_of};
use bitmap::Bitmap;

use crate::Error;

/// Granules in a bin.
const BIN: usize = 256;
/// How many bins are tried for a tighter fit than the one that is sure.
const TRIES: usize = 8;
/// How many bins are looked at for a figure.
const MANY: usize = 256;

/// A half-open run of granules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Run {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Run {
    pub(crate) const fn new(start: u32, len: u32) -> Self {
        Self { start, end: start + len }
    }

    pub(crate) const fn len(self) -> u32 {
        self.end - self.start
    }

    /// Cuts `len` granules off the front.
    pub(crate) fn split_off(&mut self, len: u32) -> Run {
        let front = Run::new(self.start, len);
        self.start = front.end;
        front
    }

    fn from_bits(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    /// Where `len` granules at a multiple of `align` lie in this run, if they fit.
    fn fit(self, len: u32, align: u32) -> Option<Run> {
        let start = self.start.checked_add(align - 1)? & !(align - 1);
        let end = start.checked_add(len)?;
        (end <= self.end).then_some(Run { start, end })
    }
}

pub(crate) struct Space {
    taken: Bitmap,
    bins: Bins,
    free: u32,
}

impl Space {
    /// `granules` free granules, fewer than 2^28.
    pub(crate) fn new(granules: u32) -> Result<Self, Error> {
        let len = granules as usize;
        let mut bins = Bins::new(len.div_ceil(BIN))?;
        bins.raise(0, class_of(granules));
        Ok(Self { taken: Bitmap::new(len)?, bins, free: granules })
    }

    /// Granules in all.
    pub(crate) fn granules(&self) -> u32 {
        self.taken.len() as u32
    }

    /// Free granules in all.
    pub(crate) fn free_granules(&self) -> u32 {
        self.free
    }

    /// Takes `len > 0` granules at a multiple of `align` granules (a power of two).
    pub(crate) fn alloc(&mut self, len: u32, align: u32) -> Option<Run> {
        let (run, hole) = self.find(len, align)?;
        self.take(run, hole);
        Some(run)
    }

    /// As [`Space::alloc`], but at the end of one of the last holes if one has room: for what is better kept apart.
    #[cfg(any(feature = "cranelift", test))]
    pub(crate) fn alloc_last(&mut self, len: u32, align: u32) -> Option<Run> {
        let mut end = self.taken.len();
        for _ in 0..MANY {
            let Some(last) = self.prev_free(end) else { break };
            let hole = self.hole_around(last as u32);
            let start = hole.end.checked_sub(len).map(|start| start & !(align - 1));
            if let Some(start) = start.filter(|start| *start >= hole.start) {
                let run = Run::new(start, len);
                self.take(run, hole);
                return Some(run);
            }
            end = hole.start as usize;
        }
        self.alloc(len, align)
    }

    /// Takes just these granules, if all of them are free.
    pub(crate) fn alloc_at(&mut self, run: Run) -> bool {
        if run.end as usize > self.taken.len() || run.start >= run.end || self.taken.get(run.start as usize) {
            return false;
        }
        let hole = self.hole_around(run.start);
        let fits = run.end <= hole.end;
        if fits {
            self.take(run, hole);
        }
        fits
    }

    /// Gives back granules that are all taken; returns the hole that they are part of now.
    pub(crate) fn free(&mut self, run: Run) -> Run {
        self.taken.clear(run.start as usize, run.end as usize);
        self.free += run.len();
        let hole = self.hole_around(run.start);
        self.bins.raise(bin_of(hole.start), class_of(hole.len()));
        // The hole behind, if there was one, no longer begins where it did.
        let swallowed = hole.end - run.end;
        let bin = bin_of(run.end);
        if swallowed > 0 && bin != bin_of(hole.start) && self.bins.class(bin) == class_of(swallowed) {
            self.refile(bin);
        }
        hole
    }

    /// The hole that the free granule `at` is part of.
    pub(crate) fn hole_around(&self, at: u32) -> Run {
        let start = self.taken.prev_set(at as usize).map_or(0, |bit| bit + 1);
        let end = self.taken.next_set(at as usize).unwrap_or(self.taken.len());
        Run::from_bits(start, end)
    }

    /// The largest hole, in granules. Where more than [`MANY`] bins share the largest class, the largest of that many of
    /// them, so less than a sixteenth short at the most.
    pub(crate) fn largest_hole(&self) -> u32 {
        let Some(class) = self.bins.largest() else { return 0 };
        if u32::from(class) < EXACT {
            return u32::from(class);
        }
        self.bins.of_class(class).take(MANY).flat_map(|bin| self.holes(bin)).map(Run::len).max().unwrap_or(0)
    }

    /// Whether granules `from..to` are all free.
    pub(crate) fn is_free(&self, from: u32, to: u32) -> bool {
        self.taken.next_set(from as usize).is_none_or(|bit| bit >= to as usize)
    }

    /// All maximal runs of taken granules.
    pub(crate) fn taken_runs(&self) -> impl Iterator<Item = Run> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.taken.next_set(at)?;
            at = self.next_free(start);
            Some(Run::from_bits(start, at))
        })
    }

    fn find(&self, len: u32, align: u32) -> Option<(Run, Run)> {
        if len > self.free {
            return None;
        }
        // Sure to fit wherever the hole begins, and the tightest that could.
        let sure = len.checked_add(align - 1)?;
        let (least, most) = (class_of(len), class_of(sure));
        let try_bin = |bin: usize| self.tightest(bin, len, align);
        let candidates = |tries: usize| {
            (least..=most)
                .filter(|&class| self.bins.at_least(class) == Some(class))
                .flat_map(|class| self.bins.of_class(class))
                .take(tries)
        };
        if align > 1 || sure >= EXACT {
            if let Some(found) = candidates(TRIES).find_map(try_bin) {
                return Some(found);
            }
        }
        // A class below the last exact one holds one size; above, only the next class is sure.
        let from = if sure < EXACT { most } else { most + 1 };
        match self.bins.at_least(from) {
            Some(class) => self.bins.of_class(class).find_map(try_bin),
            None => candidates(usize::MAX).find_map(try_bin),
        }
    }

    /// The smallest hole beginning in `bin` that has room, and the place in it.
    fn tightest(&self, bin: usize, len: u32, align: u32) -> Option<(Run, Run)> {
        let mut best: Option<(Run, Run)> = None;
        for hole in self.holes(bin) {
            if hole.len() >= len && best.is_none_or(|(_, tightest)| hole.len() < tightest.len()) {
                if let Some(run) = hole.fit(len, align) {
                    best = Some((run, hole));
                }
            }
        }
        best
    }

    /// The holes that begin in `bin`, in order; the last may end beyond it. Where the last bin is cut short, what is missing
    /// counts as free, but holes end where the space does: behind a taken last granule is one without length.
    fn holes(&self, bin: usize) -> Holes<'_> {
        let free = std::array::from_fn(|word| !self.taken.word(bin * WORDS + word));
        let begin = bin * BIN;
        // A hole running in from the bin before begins there.
        let runs_in = begin > 0 && !self.taken.get(begin - 1);
        Holes::new(self, begin, free, runs_in)
    }

    fn next_taken(&self, from: usize) -> usize {
        self.taken.next_set(from).unwrap_or(self.taken.len())
    }

    /// The first free granule at or behind `from`, or the end of the space: behind it all words are zero.
    fn next_free(&self, from: usize) -> usize {
        let mut at = from;
        loop {
            let free = !self.taken.word(at / 64) & (u64::MAX << (at % 64));
            if free != 0 {
                return (at / 64 * 64 + free.trailing_zeros() as usize).min(self.taken.len());
            }
            at = (at / 64 + 1) * 64;
        }
    }

    /// The last free granule before `end`.
    #[cfg(any(feature = "cranelift", test))]
    fn prev_free(&self, end: usize) -> Option<usize> {
        let mut end = end;
        while end > 0 {
            let word = (end - 1) / 64;
            let free = !self.taken.word(word) & (u64::MAX >> (63 - (end - 1) % 64));
            if free != 0 {
                return Some(word * 64 + 63 - free.leading_zeros() as usize);
            }
            end = word * 64;
        }
        None
    }

    fn take(&mut self, run: Run, hole: Run) {
        self.taken.set(run.start as usize, run.end as usize);
        self.free -= run.len();
        let bin = bin_of(hole.start);
        if self.bins.class(bin) == class_of(hole.len()) {
            self.refile(bin);
        }
        let behind = hole.end - run.end;
        if behind > 0 && bin_of(run.end) != bin {
            self.bins.raise(bin_of(run.end), class_of(behind));
        }
    }

    fn refile(&mut self, bin: usize) {
        let largest = self.holes(bin).map(Run::len).max();
        self.bins.file(bin, largest.map_or(0, class_of));
    }
}

fn bin_of(granule: u32) -> usize {
    granule as usize / BIN
}

/// Words of bits for a bin.
const WORDS: usize = BIN / 64;

/// Goes through the holes that begin in one bin, edge by edge.
struct Holes<'a> {
    space: &'a Space,
    begin: usize,
    /// A bit for each granule where a hole begins, and for each where one has ended.
    starts: [u64; WORDS],
    ends: [u64; WORDS],
}

impl<'a> Holes<'a> {
    fn new(space: &'a Space, begin: usize, free: [u64; WORDS], runs_in: bool) -> Self {
        let (mut starts, mut ends) = ([0; WORDS], [0; WORDS]);
        let mut before = u64::from(runs_in);
        for word in 0..WORDS {
            let shifted = free[word] << 1 | before;
            before = free[word] >> 63;
            starts[word] = free[word] & !shifted;
            ends[word] = !free[word] & shifted;
        }
        let mut holes = Self { space, begin, starts, ends };
        if runs_in {
            // The first end is that of a hole that began before.
            take_lowest(&mut holes.ends);
        }
        holes
    }
}

/// Takes the lowest set bit out.
fn take_lowest(words: &mut [u64; WORDS]) -> Option<usize> {
    for (index, word) in words.iter_mut().enumerate() {
        if *word != 0 {
            let bit = word.trailing_zeros() as usize;
            *word &= *word - 1;
            return Some(index * 64 + bit);
        }
    }
    None
}

impl Iterator for Holes<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let start = self.begin + take_lowest(&mut self.starts)?;
        let end = match take_lowest(&mut self.ends) {
            Some(end) => self.begin + end,
            None => self.space.next_taken((self.begin + BIN).min(self.space.taken.len())),
        };
        Some(Run::from_bits(start, end))
    }
}
