//! A cache of compiled code by key (feature `cache`): it has a budget, evicts, and compiles each
//! key once even if many threads ask for it at the same time.
//! [The design](crate::design#a-cache-of-its-own) says why it is no general cache library.
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
//! # Eviction
//!
//! An entry counts by the bytes of its code, whatever its number of functions. Padding does not
//! count, and neither does code that left the cache and is still held: see
//! [`budget`](CacheBuilder::budget). Entries are evicted in two cases:
//!
//! | when | by | entries that somebody holds |
//! |---|---|---|
//! | a new entry exceeds the budget | the end of a compilation, or [`insert`](CodeCache::insert) | are evicted last |
//! | the arena is full | the batch of a compilation, in [`push`](crate::Batch::push), [`reserve`](crate::Batch::reserve) or [`data`](crate::Batch::data) | stay, because they would free nothing |
//!
//! The code of an entry that somebody holds is never freed. If the entry leaves the cache, its
//! holders keep it alive ([`Stats::held`]).
//!
//! An entry that leaves while there are [guards](crate::CodeArena::pin) waits until these have
//! ended. It is dropped at the next call that compiles, inserts, invalidates or asks for
//! [`stats`](CodeCache::stats). In a full arena, a compilation waits up to 10 milliseconds for the
//! guards of other threads. It gets an [`Error::ArenaFull`], which says how many bytes wait, in
//! each of these cases:
//!
//! - every entry is held;
//! - guards last longer than about 5 milliseconds (an entry waits for guards, and after it was
//!   dropped its code waits once more), or a thread that has one is off its processor for as long;
//! - the compiling thread itself has a guard, or a thread that has one waits for the compilation;
//! - the last entries were evicted by another thread, which still runs the hook for them.
//!
//! If threads run code under guards, set the [`budget`](CacheBuilder::budget) to nine tenths of the
//! capacity or less. The rest is room for code that waits, and for the padding of each function to
//! 16 bytes, which the budget does not count: functions of 20 bytes need more than a
//! third of the capacity for it.
//!
//! # Keys
//!
//! `Hash` is called without a lock. `Eq` and `Borrow` are called under locks of the cache, so they
//! must not use it.
//!
//! # Fork
//!
//! In a forked child of the process that built the arena, [`get`](CodeCache::get) and
//! [`get_in`](CodeCache::get_in) return `None`, compilations and insertions return
//! [`Error::Forked`], and nothing changes. No lock is taken. The child can run entries that it
//! holds, as all inherited code.
//!
//! # Signal safety
//!
//! No call is safe in a signal handler, because each takes a lock.

mod builder;
mod changes;
mod clock;
mod compilation;
mod compile_once;
mod entry;
mod figures;
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
use compile_once::Way;
pub use entry::Entry;
use entry::Parts;
pub use figures::Stats;
pub use shared::Reason;
use shared::Shared;
pub use weak::WeakCache;

use crate::arena::MakeRoom;
use crate::sync::Arc;
use crate::{Batch, CodeArena, Error, Guard, Slot};

/// A handle of a cache of compiled code, which the [module](self) describes.
///
/// Clones share the cache. It keeps the arena alive.
///
/// The page of the [module](self) has an example.
pub struct CodeCache<K, V = ()> {
    shared: Arc<Shared<K, V>>,
}

// A panic in a compilation or in a hook leaves the cache consistent.
impl<K: RefUnwindSafe, V: RefUnwindSafe> UnwindSafe for CodeCache<K, V> {}
impl<K: RefUnwindSafe, V: RefUnwindSafe> RefUnwindSafe for CodeCache<K, V> {}

impl<K, V> Clone for CodeCache<K, V> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<K, V> CodeCache<K, V> {
    /// Returns the settings of a new cache with its code in `arena`. The arena may also hold other
    /// code, and other caches. A cache evicts its own entries only.
    pub fn builder(arena: CodeArena) -> CacheBuilder<K, V> {
        CacheBuilder::new(arena)
    }

    /// Returns the arena that holds the code.
    pub fn arena(&self) -> &CodeArena {
        &self.shared.arena
    }

    /// Returns how many bytes of code the cache holds at most.
    pub fn budget(&self) -> usize {
        self.shared.budget
    }

    /// Returns the figures of the cache. Drops the entries that wait for no guard any more.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }
}

impl<K: Hash + Eq, V> CodeCache<K, V> {
    /// Returns the entry of a key. The entry lives as long as the returned `Arc`.
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

    /// Returns the entry of a key for use under the guard, without a reference count.
    ///
    /// If the entry leaves the cache meanwhile, it and its code stay until the guard is dropped.
    /// Returns `None` if the guard is of another arena, because it would protect nothing here.
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
    /// The entry cannot be used after the guard:
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
        // SAFETY: the entry was in the table after the guard was taken. While it is there, the
        // table holds a count of it. A thread that removes it sees the guard, and keeps a count
        // until the guard has ended (see `shared`). The cache keeps that count, and is borrowed.
        Some(unsafe { &*found })
    }
}

impl<K, V> CodeCache<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// Returns the entry of a key. Compiles it if it is not in the cache.
    ///
    /// `compile` returns a value, and the slot at which the code is entered. Everything in the
    /// batch belongs to the entry. An entry that is larger than the budget is returned, but is not
    /// cached.
    ///
    /// One thread compiles a key. Other threads that ask for it wait, and get the same entry. If
    /// the compilation ends with an error or a panic, the next waiting thread compiles. No lock is
    /// held meanwhile, so `compile` may use the cache for other keys, and other caches. It must not
    /// wait for another thread that asks for its key, because that wait is not detected and does
    /// not end.
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
    /// Nothing is cached. An error of `compile` is returned unchanged. The following errors are
    /// converted to its type:
    ///
    /// - [`Error::Recursion`] if the key is asked for inside its own compilation, or inside a
    ///   compilation that this one waits for.
    /// - [`Error::OtherBatch`] if the slot is of another batch.
    /// - [`Error::Forked`] in a forked child.
    /// - [`Error::OperatingSystem`] if the system refuses memory, to write, or to change
    ///   protections ([`Batch::publish_with_data`]).
    ///
    /// Inside of `compile`, if eviction makes no room ([module](self) says when),
    /// [`Batch::push`] and [`Batch::reserve`] return [`Error::ArenaFull`], and [`Batch::data`]
    /// returns [`Error::DataFull`].
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
        let compiling = match shared.find_or_begin(hash, key)? {
            Way::Found(entry) => return Ok(entry),
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
        compiling.finish(&entry);
        Ok(entry)
    }
}

impl<K: Hash + Eq + Send + Sync + 'static> CodeCache<K> {
    /// Does the same as [`get_or_compile_with`](CodeCache::get_or_compile_with), for a cache
    /// without values.
    ///
    /// ```
    /// # use gaia_jit::{CodeArena, cache::CodeCache};
    /// # let arena = CodeArena::builder().capacity(1 << 20).build()?;
    /// let cache: CodeCache<u32> = CodeCache::builder(arena).build();
    /// let first = cache.get_or_compile(&1, |batch| batch.push(&[0xc3]))?;
    /// let again = cache.get_or_compile(&1, |_| -> Result<_, gaia_jit::Error> { unreachable!("it is there") })?;
    /// assert_eq!(first.as_ptr(), again.as_ptr());
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`get_or_compile_with`](CodeCache::get_or_compile_with).
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
