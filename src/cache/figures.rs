//! What a cache counts.
#![forbid(unsafe_code)]

use crate::sync::AtomicU64;

/// What a [`CodeCache`](super::CodeCache) holds, and what became of the calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Calls that found their key; of calls on several threads at the same instant, one may be
    /// counted. (Those of [`get_in`](super::CodeCache::get_in) are not, as it writes to no count.)
    pub hits: u64,
    /// Calls that did not, also those that waited for another thread's compilation.
    pub misses: u64,
    /// Entries that went because of the budget or of a full arena.
    pub evictions: u64,
    /// Entries in the cache.
    pub entries: usize,
    /// Bytes of their code: at most the budget.
    pub bytes: usize,
    /// Bytes of entries that are not in the cache any more, or were too large for it, but that
    /// somebody holds or that a guard protects.
    pub held: usize,
    /// Calls that waited for another thread's compilation of their key.
    pub waited: u64,
}

/// Counts that are written to while no lock is held.
#[derive(Default)]
pub(super) struct Figures {
    pub(super) held: AtomicU64,
    pub(super) evictions: AtomicU64,
    pub(super) waited: AtomicU64,
    pub(super) entries: AtomicU64,
    pub(super) bytes: AtomicU64,
}
