//! The tables that all heaps share: which granules are taken, and which heap owns each span.
//!
//! There is one bit for each granule. For each span (4,096 granules, 64 KiB) there is one word that
//! says which of the span's 64 words of bits are not zero. So the end of a hole is found in a few
//! steps at any distance.
//!
//! ```text
//! span 0 (64 KiB)                        span 1
//! summary: 64 bits, one for each word    summary
//! word 0 | word 1 | ... | word 63        word 0 | word 1 | ...
//! 64 granules of 16 bytes each
//! ```
//!
//! # Who may write
//!
//! Only the owner of a span writes to its words: a heap, under that heap's lock, or, for a free
//! span, a thread that holds the lock of the pool. The owner itself changes under both locks. So
//! the words are written with plain stores. They are atomic because a drop reads the owner without
//! a lock.
#![forbid(unsafe_code)]

mod state;

use std::ops::Range;

use super::Run;
use crate::Error;
use crate::sync::Ordering;
use crate::sync::checked::AtomicU64;
use crate::table::Table;

/// The granules of a span: a multiple of the page of every system.
pub(crate) const SPAN: u32 = if cfg!(loom) { 256 } else { 4096 };
/// The words of bits of a span.
const WORDS: usize = SPAN as usize / 64;

/// The owner of a span: the number of a heap, or [`FREE`].
pub(crate) type Owner = u16;
/// The owner of a free span.
pub(crate) const FREE: Owner = 0;

/// The state of a span, one word. `crossed`: something taken may lie across the start of the span.
/// `queued`: the heap has the span in its queue of spans with lost holes. `lost`: the size of the
/// largest lost hole.
///
/// ```text
///  63        48 47        40 39      34 33      32     31           16 15      0
/// | unused     | lost       | unused   |crossed|queued| page 15 ... 0 | owner    |
///                a hole's                               1: the page
///                granules                               holds memory
/// ```
const RESIDENT: u32 = 16;
const QUEUED: u32 = 32;
const CROSSED: u32 = 33;
const LOST: u32 = 40;

pub(crate) struct Granules {
    words: Table<AtomicU64>,
    summaries: Table<AtomicU64>,
    states: Table<AtomicU64>,
    first: u32,
    len: u32,
    /// The logarithm of the granules in a page of the system.
    page_shift: u32,
}

fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

/// Returns the span that contains a granule.
pub(crate) const fn span_of(granule: u32) -> u32 {
    granule / SPAN
}

impl Granules {
    /// Makes tables of free granules, in pages of `page` granules. Granules before the first one
    /// are never allocated.
    pub(crate) fn new(free: Range<u32>, page: u32) -> Result<Self, Error> {
        let Range { start: first, end: len } = free;
        let spans = len.div_ceil(SPAN) as usize;
        let this = Self {
            words: Table::new(spans * WORDS)?,
            summaries: Table::new(spans)?,
            states: Table::new(spans)?,
            first,
            len,
            page_shift: page.trailing_zeros(),
        };
        // Granules that a short first or last span lacks are taken for ever.
        this.set(Run { start: 0, end: first });
        this.set(Run { start: len, end: spans as u32 * SPAN });
        Ok(this)
    }

    /// Returns the first granule that can be allocated.
    pub(crate) fn first(&self) -> u32 {
        self.first
    }

    /// Returns the end of the granules.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    pub(crate) fn spans(&self) -> u32 {
        self.states.len() as u32
    }

    /// Returns the granules of a span. The first and the last span may be short, and spans before
    /// the first one are empty.
    pub(crate) fn span(&self, span: u32) -> Run {
        let (begin, end) = (span * SPAN, ((span + 1) * SPAN).min(self.len));
        let start = begin.max(self.first);
        if start < end { Run { start, end } } else { Run { start: begin, end: begin } }
    }

    #[inline]
    fn word(&self, index: usize) -> u64 {
        self.words.get(index).map_or(u64::MAX, load)
    }

    #[inline]
    pub(crate) fn is_taken(&self, granule: u32) -> bool {
        self.word(granule as usize / 64) >> (granule % 64) & 1 == 1
    }

    /// Marks granules as taken.
    #[inline]
    pub(crate) fn set(&self, run: Run) {
        self.each_word(run, |old, bits| old | bits);
    }

    /// Marks granules as free.
    #[inline]
    pub(crate) fn clear(&self, run: Run) {
        self.each_word(run, |old, bits| old & !bits);
    }

    #[inline]
    fn each_word(&self, run: Run, change: impl Fn(u64, u64) -> u64) {
        let mut at = run.start;
        while at < run.end {
            let index = at as usize / 64;
            let count = (run.end - at).min(64 - at % 64);
            let bits = u64::MAX >> (64 - count) << (at % 64);
            if let Some(word) = self.words.get(index) {
                let old = load(word);
                let new = change(old, bits);
                word.store(new, Ordering::Relaxed);
                if (old == 0) != (new == 0) {
                    self.summarise(index, new != 0);
                }
            }
            at += count;
        }
    }

    fn summarise(&self, index: usize, any: bool) {
        if let Some(summary) = self.summaries.get(index / WORDS) {
            let bit = 1 << (index % WORDS);
            let old = load(summary);
            summary.store(if any { old | bit } else { old & !bit }, Ordering::Relaxed);
        }
    }

    /// Returns the first taken granule at or behind `from` in the span of `from`, or the end of
    /// that span.
    #[inline]
    fn next_taken_in_span(&self, from: u32) -> u32 {
        let index = from as usize / 64;
        let rest = self.word(index) & (u64::MAX << (from % 64));
        if rest != 0 {
            return index as u32 * 64 + rest.trailing_zeros();
        }
        let next = index + 1;
        let end = (index / WORDS + 1) * WORDS;
        if next == end {
            return end as u32 * 64;
        }
        let word = self.word(next);
        if word != 0 {
            return next as u32 * 64 + word.trailing_zeros();
        }
        let later = self.summaries.get(index / WORDS).map_or(0, load) & (u64::MAX << (next % WORDS));
        if later == 0 {
            return end as u32 * 64;
        }
        let found = index / WORDS * WORDS + later.trailing_zeros() as usize;
        found as u32 * 64 + self.word(found).trailing_zeros()
    }

    /// Returns the granule behind the last taken one before `before`, in the span of the granule
    /// before that, or the start of that span.
    #[inline]
    fn prev_taken_in_span(&self, before: u32) -> u32 {
        let last = before - 1;
        let index = last as usize / 64;
        let rest = self.word(index) & (u64::MAX >> (63 - last % 64));
        if rest != 0 {
            return index as u32 * 64 + 64 - rest.leading_zeros();
        }
        let first = index / WORDS * WORDS;
        if index == first {
            return first as u32 * 64;
        }
        let word = self.word(index - 1);
        if word != 0 {
            return index as u32 * 64 - word.leading_zeros();
        }
        let earlier = self.summaries.get(index / WORDS).map_or(0, load) & !(u64::MAX << (index % WORDS));
        if earlier == 0 {
            return first as u32 * 64;
        }
        let found = first + earlier.ilog2() as usize;
        found as u32 * 64 + 64 - self.word(found).leading_zeros()
    }

    /// Returns the end of the free granules that begin at `from`, as far as their spans belong to
    /// `owner`.
    #[inline]
    pub(crate) fn hole_end(&self, from: u32, owner: Owner) -> u32 {
        let mut at = from;
        if at % SPAN == 0 && self.owner_at(at) != Some(owner) {
            return at;
        }
        loop {
            let taken = self.next_taken_in_span(at);
            // Inside the span, or at its end if the next span has another owner.
            if taken % SPAN != 0 || taken == at && self.is_taken(at) || self.owner_at(taken) != Some(owner) {
                return taken;
            }
            at = taken;
            if self.is_taken(at) {
                return at;
            }
        }
    }

    /// Returns the start of the free granules that end at `to`, as far as their spans belong to
    /// `owner`.
    #[inline]
    pub(crate) fn hole_start(&self, to: u32, owner: Owner) -> u32 {
        let mut at = to;
        loop {
            if at == 0 || at % SPAN == 0 && self.owner_at(at - 1) != Some(owner) {
                return at;
            }
            let begin = self.prev_taken_in_span(at);
            if begin % SPAN != 0 || begin == at {
                return begin;
            }
            at = begin;
        }
    }

    /// Returns the number of taken granules in a span.
    pub(crate) fn count_taken(&self, span: u32) -> u32 {
        let first = span as usize * WORDS;
        let lacking = SPAN - self.span(span).len();
        (first..first + WORDS).map(|index| self.word(index).count_ones()).sum::<u32>() - lacking
    }

    /// Returns the granules in a page.
    #[inline]
    pub(crate) fn page(&self) -> u32 {
        1 << self.page_shift
    }

    /// Returns the holes that begin in `within`, whatever their owner, each cut off at the end of
    /// `within`.
    pub(crate) fn holes(&self, within: Run) -> impl Iterator<Item = Run> + '_ {
        let mut at = within.start;
        std::iter::from_fn(move || {
            at = self.next_free(at, within.end);
            let start = at;
            if start >= within.end {
                return None;
            }
            at = self.next_taken(start, within.end);
            Some(Run { start, end: at })
        })
    }

    /// Returns the start of the free granules that end at `to`, whatever their owner.
    pub(crate) fn free_start(&self, to: u32) -> u32 {
        let mut at = to;
        while at > 0 {
            let begin = self.prev_taken_in_span(at);
            if begin % SPAN != 0 || begin == at {
                return begin;
            }
            at = begin;
        }
        0
    }

    /// Returns the runs of free granules in spans of different owners, with free spans among them.
    pub(crate) fn holes_across_owners(&self) -> impl Iterator<Item = Run> + '_ {
        let mut edge = SPAN;
        std::iter::from_fn(move || {
            while edge < self.len {
                let at = edge;
                edge += SPAN;
                if self.owner_at(at) != self.owner_at(at - 1) && !self.is_taken(at) && !self.is_taken(at - 1) {
                    let hole = Run { start: self.free_start(at), end: self.next_taken(at, self.len) };
                    edge = edge.max(hole.end.next_multiple_of(SPAN));
                    return Some(hole);
                }
            }
            None
        })
    }

    /// Returns whether no granule in `from..end` is taken.
    pub(crate) fn is_free(&self, from: u32, end: u32) -> bool {
        end <= self.len && self.next_taken(from, end) == end
    }

    /// Returns the first taken granule in `from..end`, or `end`.
    pub(crate) fn next_taken(&self, from: u32, end: u32) -> u32 {
        let mut at = from;
        while at < end {
            let taken = self.next_taken_in_span(at);
            if taken % SPAN != 0 || taken < end && self.is_taken(taken) {
                return taken.min(end);
            }
            at = taken;
        }
        end
    }

    /// Returns the first free granule in `from..end`, or `end`.
    pub(crate) fn next_free(&self, from: u32, end: u32) -> u32 {
        let mut at = from;
        while at < end {
            let free = !self.word(at as usize / 64) & (u64::MAX << (at % 64));
            if free != 0 {
                return (at / 64 * 64 + free.trailing_zeros()).min(end);
            }
            at = (at / 64 + 1) * 64;
        }
        end
    }
}
