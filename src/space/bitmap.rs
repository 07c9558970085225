//! A bitmap with summaries: bit `i` of a level says whether word `i` of the level below has any bit set, so the next and
//! the previous set bit are found in a handful of steps at any distance.
//!
//! One writer at a time (the holder of the arena's lock), any number of readers. The words are atomics written with
//! plain loads and stores: the readers, lock-free, see each bit either before or after.
#![forbid(unsafe_code)]

use crate::Error;
use crate::sync::Ordering;
use crate::sync::checked::AtomicU64;
use crate::table::Table;

/// Deep enough for 2^30 bits.
const MAX_SUMMARIES: usize = 4;

pub(crate) struct Bitmap {
    words: Table<AtomicU64>,
    /// Bit `i` of the first: word `i` has a bit set; of the second: word `i` of the first has; and so on.
    summaries: [Option<Table<AtomicU64>>; MAX_SUMMARIES],
    len: usize,
}

fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

/// Bits `from..to` of a word, `from < 64`, `1 <= to <= 64`; none if `to` is not the larger.
const fn mask(from: usize, to: usize) -> u64 {
    (u64::MAX << from) & (u64::MAX >> (64 - to))
}

impl Bitmap {
    /// `len` clear bits.
    pub(crate) fn new(len: usize) -> Result<Self, Error> {
        let words = Table::new(len.div_ceil(64).max(1))?;
        let mut summaries = [const { None }; MAX_SUMMARIES];
        let mut bits = words.len();
        for level in &mut summaries {
            if bits == 1 {
                break;
            }
            bits = bits.div_ceil(64);
            *level = Some(Table::new(bits)?);
        }
        debug_assert!(bits == 1, "too many bits for the levels");
        Ok(Self { words, summaries, len })
    }

    fn level(&self, level: usize) -> Option<&[AtomicU64]> {
        match level.checked_sub(1) {
            None => Some(&self.words),
            Some(summary) => self.summaries.get(summary)?.as_deref(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Word `index`: bits `64 * index ..`; zero past the end.
    #[inline]
    pub(crate) fn word(&self, index: usize) -> u64 {
        self.words.get(index).map_or(0, load)
    }

    #[inline]
    pub(crate) fn get(&self, bit: usize) -> bool {
        self.word(bit / 64) >> (bit % 64) & 1 == 1
    }

    /// Sets bits `from..to`.
    #[inline]
    pub(crate) fn set(&self, from: usize, to: usize) {
        if from / 64 == to.wrapping_sub(1) / 64 {
            if let Some(word) = self.words.get(from / 64) {
                let old = load(word);
                if old != 0 {
                    word.store(old | mask(from % 64, (to - 1) % 64 + 1), Ordering::Relaxed);
                    return;
                }
            }
        }
        // A word that had no bit goes the long way, for its summary; so does one that will have none.
        self.set_at(0, from, to);
    }

    fn set_at(&self, level: usize, from: usize, to: usize) {
        let Some(words) = self.level(level).filter(|_| from < to) else { return };
        let (first, last) = (from / 64, (to - 1) / 64);
        let mut summary_stale = false;
        let mut from = from % 64;
        for (index, word) in words.iter().enumerate().take(last + 1).skip(first) {
            let bits = mask(from, if index == last { (to - 1) % 64 + 1 } else { 64 });
            from = 0;
            let old = load(word);
            word.store(old | bits, Ordering::Relaxed);
            summary_stale |= old == 0;
        }
        if summary_stale {
            self.set_at(level + 1, first, last + 1);
        }
    }

    /// Clears bits `from..to`.
    #[inline]
    pub(crate) fn clear(&self, from: usize, to: usize) {
        if from / 64 == to.wrapping_sub(1) / 64 {
            if let Some(word) = self.words.get(from / 64) {
                let new = load(word) & !mask(from % 64, (to - 1) % 64 + 1);
                if new != 0 {
                    word.store(new, Ordering::Relaxed);
                    return;
                }
            }
        }
        self.clear_at(0, from, to);
    }

    fn clear_at(&self, level: usize, from: usize, to: usize) {
        let Some(words) = self.level(level).filter(|_| from < to) else { return };
        let (first, last) = (from / 64, (to - 1) / 64);
        let mut from = from % 64;
        for (index, word) in words.iter().enumerate().take(last + 1).skip(first) {
            let bits = mask(from, if index == last { (to - 1) % 64 + 1 } else { 64 });
            from = 0;
            word.store(load(word) & !bits, Ordering::Relaxed);
        }
        // Only the outermost words can still have bits, from outside the range.
        let empty = |index: usize| words.get(index).is_some_and(|word| load(word) == 0);
        let from = if empty(first) { first } else { first + 1 };
        let to = if empty(last) { last + 1 } else { last };
        self.clear_at(level + 1, from, to);
    }

    /// The first set bit at or after `from`. For the writer only.
    #[inline]
    pub(crate) fn next_set(&self, from: usize) -> Option<usize> {
        // Mostly in the same word or the one behind it.
        let index = from / 64;
        let rest = self.word(index) & (u64::MAX << (from % 64));
        if rest != 0 {
            return Some(index * 64 + rest.trailing_zeros() as usize);
        }
        let next = self.word(index + 1);
        if next != 0 {
            return Some((index + 1) * 64 + next.trailing_zeros() as usize);
        }
        self.far_next_set(index + 2)
    }

    /// The first set bit in word `word` or behind it.
    #[cold]
    fn far_next_set(&self, word: usize) -> Option<usize> {
        let (mut level, mut at) = (1, word);
        // Up until a word has a set bit at or after the place looked at ...
        let mut found = loop {
            let words = self.level(level)?;
            let index = at / 64;
            let rest = load(words.get(index)?) & (u64::MAX << (at % 64));
            if rest != 0 {
                break index * 64 + rest.trailing_zeros() as usize;
            }
            (level, at) = (level + 1, index + 1);
        };
        // ... and down again to that bit.
        while level > 0 {
            level -= 1;
            let word = load(self.level(level)?.get(found)?);
            found = found * 64 + word.trailing_zeros() as usize;
        }
        Some(found)
    }

    /// The last set bit before `before`. Without the lock too: of the bits that stay as they are during the call it
    /// misses none, and it takes no more steps than there are words.
    #[inline]
    pub(crate) fn prev_set(&self, before: usize) -> Option<usize> {
        let mut before = before.min(self.len);
        loop {
            match self.try_prev_set(before)? {
                Found::Bit(bit) => return Some(bit),
                Found::Stale(end) => before = end,
            }
        }
    }

    fn try_prev_set(&self, before: usize) -> Option<Found> {
        let (mut level, mut at) = (0, before);
        let mut found = loop {
            let last = at.checked_sub(1)?;
            let index = last / 64;
            let rest = load(self.level(level)?.get(index)?) & mask(0, last % 64 + 1);
            if rest != 0 {
                break index * 64 + rest.ilog2() as usize;
            }
            (level, at) = (level + 1, index);
        };
        while level > 0 {
            level -= 1;
            let word = load(self.level(level)?.get(found)?);
            if word == 0 {
                return Some(Found::Stale(found << (6 * (level + 1))));
            }
            found = found * 64 + word.ilog2() as usize;
        }
        Some(Found::Bit(found))
    }
}

/// What a way down through the levels came to.
enum Found {
    Bit(usize),
    /// A summary was behind its words: no bit from here up to where the search began.
    Stale(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model_check(len: usize, seed: u64) {
        let bitmap = Bitmap::new(len).unwrap();
        let mut model = vec![false; len];
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..400 {
            let a = rng.usize(..len);
            let width = if rng.bool() { rng.usize(..=len - a) } else { rng.usize(..=(len - a).min(70)) };
            let value = rng.bool();
            if value {
                bitmap.set(a, a + width);
            } else {
                bitmap.clear(a, a + width);
            }
            model[a..a + width].fill(value);
            for _ in 0..20 {
                let at = rng.usize(..=len);
                let next = (at..len).find(|&i| model[i]);
                let prev = (0..at).rev().find(|&i| model[i]);
                assert_eq!(bitmap.next_set(at), next, "next from {at} of {len}");
                assert_eq!(bitmap.prev_set(at), prev, "prev before {at} of {len}");
                assert_eq!(at < len && model[at], bitmap.get(at));
            }
        }
    }

    #[test]
    fn agrees_with_a_vector_of_bools() {
        for (seed, len) in [1, 63, 64, 65, 4095, 4096, 4097, 20_000].into_iter().enumerate() {
            model_check(len, seed as u64);
        }
    }

    /// Every range between places where words, and words of words, begin and end.
    #[test]
    fn no_range_is_taken_for_another() {
        const LEN: usize = 8_500;
        let edges = [0, 1, 2, 3, 62, 63, 64, 65, 127, 128, 129, 4095, 4096, 4097, 4160, 8191, 8192, 8193, LEN];
        let count =
            |bitmap: &Bitmap| (0..bitmap.words.len()).map(|index| bitmap.word(index).count_ones() as usize).sum();
        for (n, from) in edges.into_iter().enumerate() {
            for to in edges[n + 1..].iter().copied() {
                let (bits, holes) = (Bitmap::new(LEN).unwrap(), Bitmap::new(LEN).unwrap());
                bits.set(from, to);
                let all: usize = count(&bits);
                assert_eq!((bits.next_set(0), bits.prev_set(LEN), all), (Some(from), Some(to - 1), to - from));
                for at in edges {
                    let (next, prev) = (at.max(from), at.min(to));
                    assert_eq!(bits.next_set(at), (next < to).then_some(next), "from {at} in {from}..{to}");
                    assert_eq!(bits.prev_set(at), (prev > from).then(|| prev - 1), "before {at} in {from}..{to}");
                }
                holes.set(0, LEN);
                holes.clear(from, to);
                let all: usize = count(&holes);
                assert_eq!((holes.get(from), holes.get(to - 1), all), (false, false, LEN - (to - from)));
                holes.set(from, to);
                let all: usize = count(&holes);
                assert_eq!(all, LEN, "{from}..{to} is set again");
                bits.clear(from, to);
                assert_eq!((bits.next_set(0), bits.prev_set(LEN)), (None, None));
            }
        }
    }

    #[test]
    fn five_levels_deep() {
        let bitmap = Bitmap::new(1 << 26).unwrap();
        bitmap.set(3, 4);
        bitmap.set((1 << 26) - 1, 1 << 26);
        assert_eq!(bitmap.next_set(4), Some((1 << 26) - 1));
        assert_eq!(bitmap.prev_set((1 << 26) - 1), Some(3));
        bitmap.clear(0, 1 << 26);
        assert_eq!(bitmap.next_set(0), None);
    }

    #[test]
    fn a_range_that_ends_before_it_begins_has_no_bits() {
        let bitmap = Bitmap::new(200).unwrap();
        bitmap.set(70, 90);
        for (from, to) in [(0, 0), (80, 80), (85, 75), (64, 64), (128, 128), (130, 70), (75, 0)] {
            bitmap.set(from, to);
            bitmap.clear(from, to);
        }
        assert_eq!((bitmap.word(0), bitmap.word(1), bitmap.word(2)), (0, mask(6, 26), 0));
    }

    /// What a reader may see while another thread clears bits: words that are empty by now, below summaries that do not
    /// say so yet.
    #[test]
    fn summaries_behind_their_words_are_passed_by() {
        for at in [200, 10_000, 700_001] {
            let bitmap = Bitmap::new(1 << 20).unwrap();
            bitmap.set(3, 4);
            bitmap.set(at, at + 1);
            for level in 0..3 {
                let (word, shift) = (at >> (6 * (level + 1)), 6 * (level + 1));
                if word > 0 {
                    let before = (word << shift) - 1;
                    bitmap.set(before, before + 1);
                    bitmap.level(level).unwrap()[word].store(0, Ordering::Relaxed);
                    for from in [at + 1, at + 70, 1 << 20] {
                        assert_eq!(bitmap.prev_set(from), Some(before), "level {level} above {at}, from {from}");
                    }
                    assert_eq!(bitmap.prev_set(4), Some(3));
                }
            }
        }
    }
}
