//! Settings of a cache.
#![forbid(unsafe_code)]

use std::fmt;

use parking_lot::Mutex;

use super::entry::Entry;
use super::hook::Hook;
use super::shared::{Reason, Shared, State};
use super::table::Table;
use super::{CodeCache, figures::Figures};
use crate::CodeArena;
use crate::sync::Arc;

/// Settings for a [`CodeCache`], from [`CodeCache::builder`].
#[must_use]
pub struct CacheBuilder<K, V = ()> {
    arena: CodeArena,
    budget: usize,
    hook: Option<Hook<K, V>>,
}

impl<K, V> CacheBuilder<K, V> {
    pub(super) fn new(arena: CodeArena) -> Self {
        Self { budget: arena.capacity(), arena, hook: None }
    }

    /// Sets how many bytes of code the cache holds at most. The default is the arena's capacity.
    ///
    /// It counts the code of the entries in the cache, with stubs, without data, and without the
    /// padding of each function to 16 bytes. Code of entries that left the cache and are held, or
    /// wait for guards, comes on top ([`Stats::held`](super::Stats::held)). The arena's capacity is
    /// the limit of everything, so leave a tenth of it or more if threads run code under guards.
    ///
    /// ```
    /// # use gaia_jit::{CodeArena, cache::CodeCache};
    /// # let arena = CodeArena::builder().capacity(1 << 20).build()?;
    /// let cache: CodeCache<u32> = CodeCache::builder(arena).budget(1_000).build();
    /// for key in 0..20 {
    ///     cache.get_or_compile(&key, |batch| batch.push(&[0xc3; 100]))?;
    /// }
    /// assert!(cache.stats().bytes <= 1_000 && cache.stats().evictions >= 10);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn budget(self, bytes: usize) -> Self {
        Self { budget: bytes, ..self }
    }

    /// Calls `hook` with each entry that leaves the cache, after it left and before it is dropped.
    ///
    /// The hook runs on the thread that removed the entry, usually during a compilation. No lock
    /// is held then. It is not called for the entries that the cache holds when it is dropped.
    ///
    /// The hook may use the cache, with these limits:
    ///
    /// - It holds a [`WeakCache`](super::WeakCache), because the cache keeps the hook.
    /// - Its compilations and insertions evict nothing. In a full arena they return
    ///   [`Error::ArenaFull`](crate::Error::ArenaFull). An entry beyond the budget is not cached.
    /// - It is called for entries that it removes itself only after it has returned.
    ///
    /// ```
    /// # use gaia_jit::{CodeArena, cache::CodeCache};
    /// let arena = CodeArena::builder().capacity(1 << 20).build()?;
    /// let builder = CodeCache::builder(arena).budget(64 << 10);
    /// let cache: CodeCache<u32> = builder.on_evict(|entry, why| println!("{} left: {why:?}", entry.key())).build();
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn on_evict(self, hook: impl Fn(&Entry<K, V>, Reason) + Send + Sync + 'static) -> Self {
        Self { hook: Some(Hook::new(hook)), ..self }
    }

    /// Builds the cache.
    pub fn build(self) -> CodeCache<K, V> {
        let Self { arena, budget, hook } = self;
        let (table, state) = (Table::new(), Mutex::new(State::default()));
        CodeCache {
            shared: Arc::new(Shared { arena, budget, hook, table, figures: Arc::new(Figures::default()), state }),
        }
    }
}

impl<K, V> fmt::Debug for CacheBuilder<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheBuilder").field("arena", &self.arena).field("budget", &self.budget).finish_non_exhaustive()
    }
}
