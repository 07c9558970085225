//! Changes of the cache by its user: adding and removing entries.
//!
//! All four calls change the table of entries under the lock of the state, and drop what left the
//! cache after the lock was released, because a drop may run the user's code.
//!
//! ```text
//! lock the state --> note that running compilations are stale --> change the table --> unlock
//! --> call the hook and drop what is gone
//! ```
//!
//! Compilations that run meanwhile are not cached. Otherwise an entry could come back that was
//! removed. In a forked child nothing is locked or changed.
#![forbid(unsafe_code)]

use std::borrow::Borrow;
use std::hash::Hash;

use super::entry::Parts;
use super::shared::{Gone, Reason};
use super::{CodeCache, Entry};
use crate::sync::Arc;
use crate::{CodeBlock, Error};

impl<K, V> CodeCache<K, V> {
    /// Removes all entries.
    ///
    /// Compilations that run meanwhile are not cached. Their callers get the result, and the
    /// threads that wait for it compile anew. Does nothing in a forked child.
    ///
    /// ```
    /// # use gaia_jit::{CodeArena, cache::CodeCache};
    /// # let cache: CodeCache<u32> = CodeCache::builder(CodeArena::builder().capacity(1 << 20).build()?).build();
    /// cache.get_or_compile(&1, |batch| batch.push(&[0xc3]))?;
    /// cache.clear();
    /// assert!(cache.get(&1).is_none());
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn clear(&self) {
        if self.shared.arena.is_inherited() {
            return;
        }
        let mut gone = Gone::default();
        let mut state = self.shared.state.lock();
        self.shared.collect_ready(&mut state, &mut gone);
        state.make_all_stale();
        for entry in state.entries() {
            self.shared.remove(&mut state, &entry, Reason::Invalidated, &mut gone);
        }
        drop(state);
        self.shared.release(gone);
    }

    /// Removes the entries for which `is_stale` returns true, and returns their number.
    ///
    /// `is_stale` is called without a lock, for the entries that were in the cache when the call
    /// began. It cannot be called for running compilations, which are treated as by
    /// [`clear`](Self::clear). Does nothing in a forked child.
    ///
    /// ```
    /// # use gaia_jit::{CodeArena, cache::CodeCache};
    /// # let cache: CodeCache<u32> = CodeCache::builder(CodeArena::builder().capacity(1 << 20).build()?).build();
    /// for key in 0..10 {
    ///     cache.get_or_compile(&key, |batch| batch.push(&[0xc3]))?;
    /// }
    /// assert_eq!(cache.invalidate_if(|entry| entry.key() % 2 == 0), 5);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn invalidate_if(&self, mut is_stale: impl FnMut(&Entry<K, V>) -> bool) -> usize {
        if self.shared.arena.is_inherited() {
            return 0;
        }
        let mut state = self.shared.state.lock();
        state.make_all_stale();
        let mut entries = state.entries();
        drop(state);
        entries.retain(|entry| is_stale(entry));
        // The caller's function may have forked.
        if self.shared.arena.is_inherited() {
            return 0;
        }
        let mut gone = Gone::default();
        let mut state = self.shared.state.lock();
        self.shared.collect_ready(&mut state, &mut gone);
        let removed =
            entries.iter().filter(|entry| self.shared.remove(&mut state, entry, Reason::Invalidated, &mut gone));
        let count = removed.count();
        drop(state);
        self.shared.release(gone);
        count
    }
}

impl<K: Hash + Eq, V> CodeCache<K, V> {
    /// Adds code that was published in another way, and returns its entry. Replaces an entry that
    /// the key had before.
    ///
    /// The entry is not cached if it is larger than the budget. Threads that wait for a compilation
    /// of the key find this entry, or compile anew.
    ///
    /// ```
    /// # use gaia_jit::{CodeArena, cache::CodeCache};
    /// # let arena = CodeArena::builder().capacity(1 << 20).build()?;
    /// # let cache: CodeCache<u32, &str> = CodeCache::builder(arena.clone()).build();
    /// let block = arena.publish(&[0xc3; 30])?;
    /// cache.insert(1, block, "a value")?;
    /// assert_eq!(cache.get(&1).map(|entry| *entry.value()), Some("a value"));
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// Nothing is changed, and the block is dropped.
    ///
    /// - [`Error::Forked`] in a forked child.
    /// - [`Error::NotInArena`] if the block is of another arena than the cache, because the cache's
    ///   guards would not protect it.
    pub fn insert(&self, key: K, block: CodeBlock, value: V) -> Result<Arc<Entry<K, V>>, Error> {
        let shared = &*self.shared;
        shared.check_own("insert into a cache")?;
        if !shared.arena.contains(block.as_ptr()) {
            return Err(Error::NotInArena { address: block.as_ptr().addr() });
        }
        let hash = shared.table.hash(&key);
        let parts = Parts { key, hash, value, blocks: vec![block], data: Vec::new(), start: 0 };
        let entry = Entry::new(parts, &shared.figures);
        let mut gone = Gone::default();
        let mut state = shared.state.lock();
        let old = shared.table.with(hash, entry.key(), Arc::clone);
        state.make_stale(Some((hash, entry.key())));
        shared.collect_ready(&mut state, &mut gone);
        if let Some(old) = &old {
            shared.remove(&mut state, old, Reason::Replaced, &mut gone);
        }
        shared.admit(&mut state, &entry, &mut gone);
        drop(state);
        shared.release(gone);
        Ok(entry)
    }

    /// Removes the entry of a key, and returns whether there was one.
    ///
    /// A running compilation of the key is not cached. Its caller gets the result, and the threads
    /// that wait for it compile anew. Does nothing in a forked child.
    ///
    /// ```
    /// # use gaia_jit::{CodeArena, cache::CodeCache};
    /// # let cache: CodeCache<u32> = CodeCache::builder(CodeArena::builder().capacity(1 << 20).build()?).build();
    /// cache.get_or_compile(&1, |batch| batch.push(&[0xc3]))?;
    /// assert!(cache.invalidate(&1) && !cache.invalidate(&1));
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn invalidate<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        let shared = &*self.shared;
        if shared.arena.is_inherited() {
            return false;
        }
        let hash = shared.table.hash(key);
        let mut gone = Gone::default();
        let mut state = shared.state.lock();
        let old = shared.table.with(hash, key, Arc::clone);
        state.make_stale(Some((hash, key)));
        shared.collect_ready(&mut state, &mut gone);
        let removed = old.as_ref().is_some_and(|old| shared.remove(&mut state, old, Reason::Invalidated, &mut gone));
        drop(state);
        shared.release(gone);
        removed
    }
}
