//! The figures of a cache.
#![forbid(unsafe_code)]

use crate::sync::AtomicU64;

/// The contents of a [`CodeCache`](super::CodeCache), and the results of its calls, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Calls that found their key. If several threads hit at the same instant, only one of them may
    /// be counted. Hits of [`get_in`](super::CodeCache::get_in) are not counted, because it writes
    /// to no counter.
    pub hits: u64,
    /// Calls that did not find their key, including calls that waited for another thread's
    /// compilation.
    pub misses: u64,
    /// Entries that left because of the budget or of a full arena.
    pub evictions: u64,
    /// Entries in the cache.
    pub entries: usize,
    /// Bytes of code of the entries in the cache: at most the budget.
    pub bytes: usize,
    /// Bytes of code of entries that left the cache, or were too large for it, and that somebody
    /// holds or a guard protects.
    pub held: usize,
    /// Calls that waited for another thread's compilation of their key.
    pub waited: u64,
}

/// Counters that are written without a lock.
#[derive(Default)]
pub(super) struct Figures {
    pub(super) held: AtomicU64,
    pub(super) evictions: AtomicU64,
    pub(super) waited: AtomicU64,
    pub(super) entries: AtomicU64,
    pub(super) bytes: AtomicU64,
}
