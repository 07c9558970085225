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

/// Settings for a [`CodeCache`]. Made by [`CodeCache::builder`].
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

    /// The most bytes of code that are cached at once; unless set, the arena's capacity.
    pub fn budget(self, bytes: usize) -> Self {
        Self { budget: bytes, ..self }
    }

    /// Calls `hook` with each entry that goes, after it went and before it is dropped. No lock is
    /// held then. It runs on the thread that made the entry go, as a rule within a compilation.
    ///
    /// It may use the cache, which it then reaches by a [`WeakCache`](super::WeakCache), because
    /// the cache keeps the hook. What it compiles or inserts evicts nothing: in a full arena that
    /// is an [`Error::ArenaFull`](crate::Error::ArenaFull), and beyond the budget it is not cached.
    /// Of entries that it takes out itself it hears when it has returned.
    ///
    /// Not called for what the cache holds when it is dropped.
    pub fn on_evict(self, hook: impl Fn(&Entry<K, V>, Reason) + Send + Sync + 'static) -> Self {
        Self { hook: Some(Hook::new(hook)), ..self }
    }

    /// Makes the cache.
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
