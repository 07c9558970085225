//! Compiled code by key: bounded, evicting, and compiled once however many threads ask. (Feature
//! `cache`.)
//!
//! ```
//! # #[cfg(target_arch = "x86_64")] {
//! use gaia_jit::cache::CodeCache;
//! use gaia_jit::{Batch, CodeArena, Error, Slot};
//!
//! let arena = CodeArena::builder().capacity(1 << 20).build()?;
//! let cache: CodeCache<u8> = CodeCache::builder(arena).budget(64 << 10).build();
//! let compile = |batch: &mut Batch| -> Result<Slot, Error> {
//!     batch.push(&[0xb8, 7, 0, 0, 0, 0xc3]) // mov eax, 7; ret
//! };
//! let seven = cache.get_or_compile(&7, compile)?;
//! // SAFETY: the code takes nothing and returns a number.
//! assert_eq!(unsafe { seven.typed::<extern "C" fn() -> i32>() }.call(), 7);
//! assert_eq!(cache.get(&7).map(|entry| entry.as_ptr()), Some(seven.as_ptr()));
//! assert_eq!((cache.stats().hits, cache.stats().misses, cache.stats().bytes), (1, 1, 6));
//! # }
//! # Ok::<(), gaia_jit::Error>(())
//! ```
//!
//! # What goes, and when
//!
//! Entries count by the bytes of their code, however many functions they are. They go when the
//! budget is needed for a new one, and when the arena is full: the batch that a compilation writes
//! to makes room by itself, when [`push`](crate::Batch::push), [`reserve`](crate::Batch::reserve)
//! or [`data`](crate::Batch::data) finds none. What somebody holds is spared in both cases as long
//! as there is anything else, and when the arena is full in any case, as nothing would come free.
//! Held or not, code is never freed under its user: a held entry that goes is kept by its holders
//! ([`Stats::held`]).
//!
//! What goes while there are [guards](crate::CodeArena::pin) is laid aside until those are gone. It
//! is dropped at the next call that compiles, inserts, invalidates or asks for
//! [`stats`](CodeCache::stats). A thread that holds a guard while it compiles makes its own
//! evictions wait. Then, and if everything is held, the compilation gets an [`Error::ArenaFull`]
//! that says how much waits.
//!
//! # Why not a cache library
//!
//! The table is `hashbrown`'s. The policy is the clock algorithm, a queue and a mark, and all of
//! the rest is about code. It was to be [`quick_cache`](https://docs.rs/quick_cache) 0.7, which is
//! well kept, with weights and pinning. What it does otherwise cannot be had by its settings:
//!
//! - *It divides the budget among its shards.* What is heavier than a shard's part for much used
//!   entries is dropped at once, so a large batch could not be cached; with one shard, all hits
//!   share one lock.
//! - *It makes room only by shrinking.* A full arena wants so many bytes, now. `set_capacity` goes
//!   through all shards, two threads that shrink and restore undo each other's, and each time the
//!   memory of what was evicted before is cut down with rounding.
//! - *Removing a key whose value is being made removes the mark of that*: the next caller compiles
//!   it a second time at the same time. Recursion on a key waits for itself, for ever or until a
//!   time limit.
//! - *It gives out clones only*, so that nothing can be read under a guard without a count.
//! - *`retain` and `clear` drop under its locks*, and dropping code calls observers.
//!
//! # What keys may do
//!
//! `Hash` is called while nothing is locked. `Eq` and `Borrow` are called under locks of the cache,
//! so they must not use it.
//!
//! # Forks
//!
//! In a forked child of the process that made its arena, a cache finds nothing
//! ([`get`](CodeCache::get) and [`get_in`](CodeCache::get_in) are `None`), compiles and inserts
//! nothing ([`Error::Forked`]) and changes nothing. No lock is touched. Entries that are held can
//! be run as all inherited code can.

mod builder;
mod clock;
mod entry;
mod figures;
mod flight;
mod flights;
mod hook;
mod shared;
mod table;
mod waits;
mod weak;

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::panic::{RefUnwindSafe, UnwindSafe};

pub use builder::CacheBuilder;
pub use entry::Entry;
use entry::Parts;
pub use figures::Stats;
use flights::Way;
pub use shared::Reason;
use shared::{Gone, Shared};
pub use weak::WeakCache;

use crate::arena::MakeRoom;
use crate::sync::Arc;
use crate::{Batch, CodeArena, CodeBlock, Error, Guard, Slot};

/// A cache of compiled code: see the [module](self).
///
/// A handle; clones share the cache. It keeps the arena alive.
pub struct CodeCache<K, V = ()> {
    shared: Arc<Shared<K, V>>,
}

// A panic in a compilation leaves nothing half done; nor does one in a hook.
impl<K: RefUnwindSafe, V: RefUnwindSafe> UnwindSafe for CodeCache<K, V> {}
impl<K: RefUnwindSafe, V: RefUnwindSafe> RefUnwindSafe for CodeCache<K, V> {}

impl<K, V> Clone for CodeCache<K, V> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<K, V> CodeCache<K, V> {
    /// Settings for a cache whose code lies in `arena`. The arena may have other code, and other
    /// caches; a cache evicts its own entries only.
    pub fn builder(arena: CodeArena) -> CacheBuilder<K, V> {
        CacheBuilder::new(arena)
    }

    /// The arena that the code lies in.
    pub fn arena(&self) -> &CodeArena {
        &self.shared.arena
    }

    /// The most bytes of code that are cached at once.
    pub fn budget(&self) -> usize {
        self.shared.budget
    }

    /// What the cache holds, and what became of the calls. Drops what need not wait for guards any
    /// more.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Takes all entries out. What is being compiled meanwhile will not be cached: its callers get
    /// it, and those who wait for it compile anew.
    pub fn clear(&self) {
        if self.shared.arena.is_inherited() {
            return;
        }
        let mut gone = Gone::default();
        let mut state = self.shared.state.lock();
        self.shared.ripe(&mut state, &mut gone);
        state.make_all_stale();
        for entry in state.entries() {
            self.shared.remove(&mut state, &entry, Reason::Invalidated, &mut gone);
        }
        drop(state);
        self.shared.tell(gone);
    }

    /// Takes out the entries for which `is_stale` says so; returns how many. It is called while
    /// nothing is locked, for what was there when the call began. What is being compiled cannot be
    /// asked about, and fares as with [`clear`](Self::clear).
    pub fn invalidate_if(&self, mut is_stale: impl FnMut(&Entry<K, V>) -> bool) -> usize {
        if self.shared.arena.is_inherited() {
            return 0;
        }
        let mut state = self.shared.state.lock();
        state.make_all_stale();
        let mut entries = state.entries();
        drop(state);
        entries.retain(|entry| is_stale(entry));
        // What the caller wrote may have forked.
        if self.shared.arena.is_inherited() {
            return 0;
        }
        let mut gone = Gone::default();
        let mut state = self.shared.state.lock();
        self.shared.ripe(&mut state, &mut gone);
        let removed =
            entries.iter().filter(|entry| self.shared.remove(&mut state, entry, Reason::Invalidated, &mut gone));
        let count = removed.count();
        drop(state);
        self.shared.tell(gone);
        count
    }
}

impl<K: Hash + Eq, V> CodeCache<K, V> {
    /// Returns the entry of a key, which is kept as long as it is held.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<Arc<Entry<K, V>>>
    where
        K: Borrow<Q>,
    {
        if self.shared.arena.is_inherited() {
            return None;
        }
        self.find(self.shared.table.hash(key), key)
    }

    #[inline]
    fn find<Q: Eq + ?Sized>(&self, hash: u64, key: &Q) -> Option<Arc<Entry<K, V>>>
    where
        K: Borrow<Q>,
    {
        let table = &self.shared.table;
        let found = table.with(hash, key, |entry| {
            entry.mark_used();
            Arc::clone(entry)
        });
        table.count(hash, found.is_some());
        found
    }

    /// Returns the entry of a key, to be used under the guard: no count is touched. If it goes
    /// meanwhile, it and its code stay until the guard is dropped.
    ///
    /// `None` too if the guard is of another arena, which would protect nothing here.
    ///
    /// ```
    /// # #[cfg(target_arch = "x86_64")] {
    /// # use gaia_jit::{CodeArena, cache::CodeCache};
    /// # let arena = CodeArena::builder().capacity(1 << 20).build()?;
    /// let cache: CodeCache<&str> = CodeCache::builder(arena.clone()).build();
    /// cache.insert("seven", arena.publish(&[0xb8, 7, 0, 0, 0, 0xc3])?, ())?; // mov eax, 7; ret
    /// let guard = arena.pin();
    /// if let Some(seven) = cache.get_in(&guard, "seven") {
    ///     cache.clear();
    ///     // SAFETY: the code takes nothing and returns a number.
    ///     assert_eq!(unsafe { seven.typed::<extern "C" fn() -> i32>() }.call(), 7);
    /// }
    /// # }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// It cannot be used after the guard:
    ///
    /// ```compile_fail,E0505
    /// # use gaia_jit::{CodeArena, cache::CodeCache};
    /// # let arena = CodeArena::builder().capacity(1 << 20).build()?;
    /// # let cache: CodeCache<u8> = CodeCache::builder(arena.clone()).build();
    /// let guard = arena.pin();
    /// let entry = cache.get_in(&guard, &7);
    /// drop(guard);
    /// println!("{entry:?}");
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn get_in<'g, Q: Hash + Eq + ?Sized>(&'g self, guard: &'g Guard<'_>, key: &Q) -> Option<&'g Entry<K, V>>
    where
        K: Borrow<Q>,
    {
        let Shared { arena, table, .. } = &*self.shared;
        if arena.is_inherited() || !arena.is_guard_of_mine(guard) {
            return None;
        }
        let found = table.with(table.hash(key), key, |entry| {
            entry.mark_used();
            Arc::as_ptr(entry)
        })?;
        // SAFETY: it was in the table after the guard was taken. As long as it is there the table
        // has a count of it, and whoever takes it out sees the guard and lays one aside until the
        // guard is gone (see `shared`). The cache that does so is borrowed.
        Some(unsafe { &*found })
    }

    /// Puts code under a key that was published otherwise; an entry that was there goes. Returns
    /// the entry.
    ///
    /// It is not cached if it is larger than the budget. Whoever waits for a compilation of the key
    /// compiles anew, or finds this.
    ///
    /// # Errors
    /// Nothing is changed, and the block is dropped.
    ///
    /// - [`Error::Forked`] in a child.
    /// - [`Error::NotInArena`] if the block is of another arena than the cache, whose guards would
    ///   not protect it.
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
        shared.ripe(&mut state, &mut gone);
        if let Some(old) = &old {
            shared.remove(&mut state, old, Reason::Replaced, &mut gone);
        }
        shared.admit(&mut state, &entry, &mut gone);
        drop(state);
        shared.tell(gone);
        Ok(entry)
    }

    /// Takes the entry of a key out; whether there was one. What is being compiled for the key
    /// meanwhile will not be cached: its caller gets it, and those who wait for it compile anew.
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
        shared.ripe(&mut state, &mut gone);
        let removed = old.as_ref().is_some_and(|old| shared.remove(&mut state, old, Reason::Invalidated, &mut gone));
        drop(state);
        shared.tell(gone);
        removed
    }
}

impl<K, V> CodeCache<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// Returns the entry of a key, compiling it if it is not there. The slot that `compile` returns
    /// with a value is where the code is entered; all that is in the batch belongs to the entry.
    ///
    /// One thread compiles a key; others that ask for it wait, and get what comes of it. If that is
    /// an error or a panic, the next of them compiles. No lock is held meanwhile, so `compile` may
    /// use the cache, for other keys, and other caches. (It must not wait for another thread that
    /// asks for its key: that is not seen, and has no end.)
    ///
    /// ```
    /// # use gaia_jit::{CodeArena, Error, cache::CodeCache};
    /// # let arena = CodeArena::builder().capacity(1 << 20).build()?;
    /// let cache: CodeCache<String, usize> = CodeCache::builder(arena).build();
    /// let compile = |source: &str| -> Result<_, Error> {
    ///     cache.get_or_compile_with(source, |batch| Ok::<_, Error>((batch.push(&[0xc3])?, source.len())))
    /// };
    /// assert_eq!(compile("ret")?.value(), &3);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// Nothing is cached. The error of `compile` comes back as it is; these become one of it:
    ///
    /// - [`Error::Recursion`] if the key is asked for inside its own compilation, or inside one
    ///   that the key's waits for.
    /// - [`Error::OtherBatch`] if the slot is of another batch.
    /// - [`Error::Forked`] in a child.
    /// - As for [`Batch::publish_with_data`].
    ///
    /// Inside of `compile`, [`Batch::push`] and [`Batch::reserve`] return [`Error::ArenaFull`], and
    /// [`Batch::data`] returns [`Error::DataFull`], when all that can go went: see the
    /// [module](self).
    pub fn get_or_compile_with<Q, E>(
        &self,
        key: &Q,
        compile: impl FnOnce(&mut Batch) -> Result<(Slot, V), E>,
    ) -> Result<Arc<Entry<K, V>>, E>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        E: From<Error>,
    {
        let shared = &*self.shared;
        shared.check_own("compile into a cache")?;
        let hash = shared.table.hash(key);
        if let Some(entry) = self.find(hash, key) {
            return Ok(entry);
        }
        let compiling = match shared.take_off(hash, key)? {
            Way::There(entry) => return Ok(entry),
            Way::Compile(compiling) => compiling,
        };
        let mut batch = shared.arena.batch();
        batch.set_on_full(Arc::clone(&self.shared) as Arc<dyn MakeRoom>);
        let (slot, value) = compile(&mut batch)?;
        if batch.address(slot).is_null() {
            return Err(Error::OtherBatch { slot: slot.index() }.into());
        }
        let (blocks, data) = batch.publish_with_data()?;
        let parts = Parts { key: key.to_owned(), hash, value, blocks, data, start: slot.index() };
        let entry = Entry::new(parts, &shared.figures);
        compiling.land(&entry);
        Ok(entry)
    }
}

impl<K: Hash + Eq + Send + Sync + 'static> CodeCache<K> {
    /// As [`get_or_compile_with`](CodeCache::get_or_compile_with), for a cache without values.
    ///
    /// # Errors
    /// - As for [`get_or_compile_with`](CodeCache::get_or_compile_with).
    pub fn get_or_compile<Q, E>(
        &self,
        key: &Q,
        compile: impl FnOnce(&mut Batch) -> Result<Slot, E>,
    ) -> Result<Arc<Entry<K>>, E>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        E: From<Error>,
    {
        self.get_or_compile_with(key, |batch| Ok((compile(batch)?, ())))
    }
}

impl<K, V> fmt::Debug for CodeCache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodeCache").field("budget", &self.budget()).finish_non_exhaustive()
    }
}
