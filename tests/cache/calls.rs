//! Tests of each call of `CodeCache`, on one thread.
//!
//! - *Compiling*: a key is compiled once. One entry may have several functions and data.
//! - *Budget*: entries that were not used leave first. Held entries leave last. If a function is
//!   larger than the whole budget, its caller gets it, and the cache does not keep it.
//! - *Invalidating*: `invalidate`, `invalidate_if` and `clear`, also during the compilation of the
//!   key. The hook gets the reason.
//! - *Failures*: an error, a panic, or a slot of another batch leaves neither an entry nor code.
//! - *Refusals*: a key inside of its own compilation, and a block of another arena.
//! - *Keys*: different keys with one hash are kept apart.
//!
//! Each test compares the figures of the cache with those of its arena, because only `live_blocks`
//! shows whether an entry was really freed. The helper `ask` in `main.rs` runs what it compiled.

use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use gaia_jit::cache::{CodeCache, Reason};
use gaia_jit::{Batch, CodeArena, DataAccess, Error};

use super::common::{asm, modes, small};
use super::{ask, call_entry, code};

fn arena() -> CodeArena {
    CodeArena::builder().capacity(1 << 20).build().unwrap()
}

#[test]
fn a_key_is_compiled_once() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let cache: CodeCache<u32> = CodeCache::builder(arena.clone()).build();
        assert!(cache.get(&1).is_none());
        let first = ask(&cache, 1, 10, 100);
        let again = cache.get_or_compile(&1, |_| -> Result<_, Error> { panic!("it is there") }).unwrap();
        assert!(Arc::ptr_eq(&first, &again) && Arc::ptr_eq(&first, &cache.get(&1).unwrap()));
        ask(&cache, 2, 20, 50);
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses, stats.entries, stats.bytes), (2, 3, 2, 150), "{mode:?}");
        assert_eq!((stats.evictions, stats.held, stats.waited), (0, 0, 0));
        drop(cache);
        // A held entry outlives the cache.
        assert_eq!((call_entry(&first), arena.stats().live_blocks), (10, 1));
        drop((first, again));
        assert_eq!(arena.stats().live_blocks, 0);
    }
}

#[test]
fn a_batch_is_one_entry() {
    let arena = arena();
    let cache: CodeCache<String, Vec<u32>> = CodeCache::builder(arena.clone()).build();
    let compile = |batch: &mut Batch| {
        batch.push(&asm::constant(1))?;
        let entry = batch.push(&asm::constant(2))?;
        batch.push(&asm::constant(3))?;
        batch.data(8, 8, DataAccess::ReadOnly, |_, bytes| bytes.fill(4))?;
        Ok::<_, Error>((entry, vec![5]))
    };
    let entry = cache.get_or_compile_with("three", compile).unwrap();
    assert_eq!((call_entry(&entry), entry.value(), entry.key().as_str()), (2, &vec![5], "three"));
    assert_eq!((entry.blocks().len(), entry.data().len()), (3, 1));
    assert_eq!(cache.stats().bytes, 3 * asm::constant(1).len());
    assert_eq!((entry.len(), arena.stats().data_blocks), (cache.stats().bytes, 1));
    drop(entry);
    assert!(cache.invalidate("three"));
    assert_eq!((arena.stats().live_blocks, arena.stats().data_blocks), (0, 0));
}

#[test]
fn the_budget_evicts_what_was_not_used() {
    let arena = arena();
    let gone = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&gone);
    let cache: CodeCache<u32> = CodeCache::builder(arena.clone())
        .budget(1_000)
        .on_evict(move |entry, reason| told.lock().unwrap().push((*entry.key(), reason, call_entry(entry))))
        .build();
    for n in 0..10 {
        ask(&cache, n, n, 100);
    }
    cache.get(&0).unwrap();
    cache.get(&2).unwrap();
    for n in 10..12 {
        ask(&cache, n, n, 100);
        assert_eq!((cache.stats().bytes, cache.stats().entries), (1_000, 10));
    }
    assert_eq!(*gone.lock().unwrap(), [(1, Reason::Budget, 1), (3, Reason::Budget, 3)]);
    assert_eq!((cache.stats().evictions, arena.stats().live_blocks), (2, 10));
    // An entry that takes the whole budget is cached. A larger one is not.
    ask(&cache, 100, 100, 1_000);
    assert_eq!((cache.stats().entries, cache.stats().bytes, arena.stats().live_blocks), (1, 1_000, 1));
    let large = ask(&cache, 101, 101, 1_001);
    assert_eq!((cache.stats().entries, cache.stats().held), (1, 1_001));
    assert!(cache.get(&101).is_none() && cache.get(&100).is_some());
    drop(large);
    assert_eq!((cache.stats().held, arena.stats().live_blocks), (0, 1));
}

/// Held entries are spared while there are others. If there are none, held entries leave the cache,
/// and their holders keep them alive.
#[test]
fn what_is_held_outlives_its_eviction() {
    let arena = arena();
    let cache: CodeCache<u32> = CodeCache::builder(arena.clone()).budget(300).build();
    let mut held: Vec<_> = (0..2).map(|n| ask(&cache, n, n, 100)).collect();
    ask(&cache, 2, 2, 100);
    held.push(ask(&cache, 3, 3, 100));
    assert!(cache.get(&2).is_none() && cache.get(&0).is_some() && cache.get(&1).is_some());
    assert_eq!(cache.stats().held, 0);
    held.push(ask(&cache, 4, 4, 100));
    let stats = cache.stats();
    assert_eq!((stats.bytes, stats.held, arena.stats().live_blocks), (300, 100, 4));
    for (n, entry) in [0, 1, 3, 4].into_iter().zip(&held) {
        assert_eq!(call_entry(entry), n);
    }
    held.clear();
    assert_eq!((cache.stats().held, arena.stats().live_blocks), (0, 3));
}

#[test]
fn what_is_invalidated_is_not_found() {
    let arena = arena();
    let gone = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&gone);
    let cache: CodeCache<u32> = CodeCache::builder(arena.clone())
        .on_evict(move |entry, reason| told.lock().unwrap().push((*entry.key(), reason)))
        .build();
    let held: Vec<_> = (0..10).map(|n| ask(&cache, n, n, 100)).collect();
    assert!(cache.invalidate(&3) && !cache.invalidate(&3) && !cache.invalidate(&77));
    assert_eq!(cache.invalidate_if(|entry| entry.key() % 2 == 0), 5);
    assert_eq!((cache.stats().entries, cache.stats().held, cache.stats().evictions), (4, 600, 0));
    assert!(cache.get(&3).is_none() && cache.get(&4).is_none() && cache.get(&5).is_some());
    let new = cache.insert(5, arena.publish(&asm::constant(55)).unwrap(), ()).unwrap();
    assert_eq!((call_entry(&new), call_entry(&cache.get(&5).unwrap())), (55, 55));
    cache.clear();
    assert_eq!((cache.stats().entries, cache.stats().bytes), (0, 0));
    for (n, entry) in (0..).zip(&held) {
        assert_eq!(call_entry(entry), n);
    }
    assert_eq!(arena.stats().live_blocks, 11);
    drop((held, new));
    assert_eq!((arena.stats().live_blocks, cache.stats().held), (0, 0));
    let gone = gone.lock().unwrap();
    assert_eq!(gone.iter().filter(|(_, reason)| *reason == Reason::Invalidated).count(), 10);
    assert!(gone.contains(&(5, Reason::Replaced)) && gone.len() == 11);
}

/// A key that is invalidated during its compilation is not cached, by whichever call.
#[test]
fn what_is_invalidated_meanwhile_is_stale() {
    let arena = arena();
    let cache: CodeCache<u32> = CodeCache::builder(arena.clone()).build();
    type Change = fn(&CodeCache<u32>);
    let changes: [Change; 3] = [
        |cache| assert!(!cache.invalidate(&1)),
        CodeCache::clear,
        |cache| assert_eq!(cache.invalidate_if(|_| true), 0),
    ];
    for change in changes {
        let compile = |batch: &mut Batch| {
            change(&cache);
            code(1, 50)(batch)
        };
        let entry = cache.get_or_compile(&1, compile).unwrap();
        assert_eq!((call_entry(&entry), cache.stats().entries, cache.stats().held), (1, 0, 50));
        assert!(cache.get(&1).is_none());
    }
    // An entry that was inserted meanwhile stays.
    let compile = |batch: &mut Batch| {
        cache.insert(1, arena.publish(&asm::constant(7))?, ())?;
        code(1, 50)(batch)
    };
    assert_eq!(call_entry(&cache.get_or_compile(&1, compile).unwrap()), 1);
    assert_eq!((call_entry(&cache.get(&1).unwrap()), cache.stats().entries, cache.stats().held), (7, 1, 0));
}

#[derive(Debug)]
enum Failed {
    Own,
    Library(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Library(error)
    }
}

#[test]
fn a_failure_leaves_nothing() {
    let arena = arena();
    let cache: CodeCache<u32> = CodeCache::builder(arena.clone()).build();
    let fails = |batch: &mut Batch| {
        batch.push(&asm::constant(1))?;
        Err(Failed::Own)
    };
    assert!(matches!(cache.get_or_compile(&1, fails), Err(Failed::Own)));
    let panics = |batch: &mut Batch| -> Result<_, Failed> {
        batch.push(&asm::constant(1))?;
        panic!("as meant")
    };
    assert!(catch_unwind(AssertUnwindSafe(|| cache.get_or_compile(&1, panics))).is_err());
    let slot = arena.batch().push(&asm::constant(1)).unwrap();
    let other = cache.get_or_compile(&1, |_| Ok::<_, Failed>(slot));
    assert!(matches!(other, Err(Failed::Library(Error::OtherBatch { slot: 0, .. }))));
    let stats = arena.stats();
    assert_eq!((stats.live_blocks, stats.free_bytes, cache.stats().entries), (0, stats.capacity, 0));
    ask(&cache, 1, 1, 50);
}

#[test]
fn a_key_in_its_own_compilation_is_an_error() {
    let cache: CodeCache<u32> = CodeCache::builder(arena()).build();
    let outer = |batch: &mut Batch| {
        // Another key may be asked for inside of a compilation.
        ask(&cache, 2, 2, 50);
        let inner = |_: &mut Batch| {
            cache.get_or_compile(&1, |_| -> Result<_, Error> { panic!("not again") })?;
            unreachable!("it is being compiled")
        };
        let refused = cache.get_or_compile(&3, inner);
        assert!(matches!(refused, Err(Error::Recursion)), "{refused:?}");
        code(1, 50)(batch)
    };
    assert_eq!(call_entry(&cache.get_or_compile(&1, outer).unwrap()), 1);
    assert_eq!((cache.stats().entries, cache.stats().waited), (2, 0));
    ask(&cache, 3, 3, 50);
}

/// A key with a hash that is always the same.
#[derive(Clone, PartialEq, Eq)]
struct Alike(u32);

impl Hash for Alike {
    fn hash<H: Hasher>(&self, state: &mut H) {
        0.hash(state);
    }
}

#[test]
fn keys_that_hash_alike_are_told_apart() {
    let cache: CodeCache<Alike> = CodeCache::builder(arena()).budget(5_000).build();
    for n in 0..100 {
        ask(&cache, Alike(n), n, 100);
    }
    assert_eq!((cache.stats().entries, cache.stats().evictions), (50, 50));
    for n in 0..100 {
        assert_eq!(cache.get(&Alike(n)).map(|entry| call_entry(&entry)), (n >= 50).then_some(n));
    }
    // Also while one of them is compiled.
    let compile = |batch: &mut Batch| {
        ask(&cache, Alike(2), 2, 100);
        assert!(cache.invalidate(&Alike(2)) && cache.invalidate(&Alike(99)));
        code(1, 100)(batch)
    };
    cache.get_or_compile(&Alike(1), compile).unwrap();
    assert!(cache.get(&Alike(1)).is_some());
}

/// A block of another arena is refused, because the guards of the cache's arena would not protect
/// it.
#[test]
fn code_of_another_arena_is_refused() {
    let cache: CodeCache<u32> = CodeCache::builder(arena()).build();
    let other = arena();
    let refused = cache.insert(1, other.publish(&asm::constant(1)).unwrap(), ());
    assert!(matches!(refused, Err(Error::NotInArena { .. })));
    assert_eq!((cache.stats().entries, other.stats().live_blocks), (0, 0));
    cache.insert(1, cache.arena().publish(&asm::constant(2)).unwrap(), ()).unwrap();
    assert_eq!(call_entry(&cache.get(&1).unwrap()), 2);
}
