//! The table from keys to entries, which hits use. It is divided into shards with a lock each, so
//! that threads rarely wait for each other.
#![forbid(unsafe_code)]

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};
use parking_lot::RwLock;

use super::entry::Entry;
use crate::sync::{Arc, AtomicU64, Ordering};

/// The number of shards, a power of two.
const SHARDS: usize = 32;

pub(super) struct Table<K, V> {
    hasher: DefaultHashBuilder,
    /// The shards: `SHARDS` of them, or none after [`leak`](Self::leak).
    shards: Box<[Shard<K, V>]>,
}

/// A shard, alone on its cache lines. The counters of hits are on the same line as the lock.
#[repr(align(128))]
struct Shard<K, V> {
    hits: AtomicU64,
    misses: AtomicU64,
    entries: RwLock<HashTable<Arc<Entry<K, V>>>>,
}

impl<K, V> Table<K, V> {
    pub(super) fn new() -> Self {
        let shard = |_| Shard { hits: AtomicU64::new(0), misses: AtomicU64::new(0), entries: RwLock::default() };
        Self { hasher: DefaultHashBuilder::default(), shards: (0..SHARDS).map(shard).collect() }
    }

    pub(super) fn hash<Q: Hash + ?Sized>(&self, key: &Q) -> u64 {
        self.hasher.hash_one(key)
    }

    fn shard(&self, hash: u64) -> &Shard<K, V> {
        // Neither the lowest bits nor the highest ones, because the hash tables use those.
        &self.shards[(hash >> 24) as usize % SHARDS]
    }

    /// Calls `found` with the entry of a key, under the lock of its shard.
    #[inline]
    pub(super) fn with<Q, R>(&self, hash: u64, key: &Q, found: impl FnOnce(&Arc<Entry<K, V>>) -> R) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let entries = self.shard(hash).entries.read();
        let entry = entries.find(hash, |entry| entry.hash == hash && entry.key().borrow() == key)?;
        Some(found(entry))
    }

    /// Counts a call as a hit or a miss.
    #[inline]
    pub(super) fn count(&self, hash: u64, hit: bool) {
        let shard = self.shard(hash);
        if hit {
            // Not atomic as a whole, because that would cost a tenth of a hit. If two threads count
            // at the same time, one of the counts may be lost.
            shard.hits.store(shard.hits.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        } else {
            shard.misses.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the sums of hits and of misses.
    pub(super) fn counts(&self) -> (u64, u64) {
        let sum = |count: fn(&Shard<K, V>) -> &AtomicU64| {
            self.shards.iter().map(|shard| count(shard).load(Ordering::Relaxed)).sum()
        };
        (sum(|shard| &shard.hits), sum(|shard| &shard.misses))
    }

    /// Adds an entry. Its key must not be in the table.
    pub(super) fn insert(&self, entry: Arc<Entry<K, V>>) {
        self.shard(entry.hash).entries.write().insert_unique(entry.hash, entry, |entry| entry.hash);
    }

    /// Removes this entry, not another one of the same key.
    pub(super) fn remove(&self, entry: &Arc<Entry<K, V>>) -> Option<Arc<Entry<K, V>>> {
        let mut entries = self.shard(entry.hash).entries.write();
        let found = entries.find_entry(entry.hash, |other| Arc::ptr_eq(entry, other)).ok()?;
        Some(found.remove().0)
    }

    /// Forgets the whole table without reading it.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.shards));
    }
}
