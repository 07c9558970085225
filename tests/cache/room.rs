//! Tests of the cache with full arenas, and with guards.
//!
//! | What | How it is checked |
//! |---|---|
//! | a full arena | a compilation evicts as much as it needs; held entries stay; without room it returns `ArenaFull` |
//! | guards | the error contains how many bytes wait; an entry that was found under a guard runs until the guard ends |
//! | hooks and observers | they call the cache during an eviction; a hook panics |
//! | a full data area | entries with data leave, and entries without data stay |
//! | a refused kernel write | each function takes a page from then on, and the cache evicts pages |
//!
//! The hooks exist to catch an eviction under a lock of the cache, which would be a deadlock. The
//! functions are 16,000 bytes long, so an arena is full after some dozens of them. The last test
//! needs a filter of system calls. It runs in a child process, because a filter cannot be removed,
//! and prints `NOT RUN` where filters do not exist.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use gaia_jit::cache::{CodeCache, Entry, Reason, WeakCache};
use gaia_jit::{Batch, CodeArena, DataAccess, Error, WxMode};

use super::common::{asm, fills_holes, modes, small};
use super::{ask, call_entry, code};

/// More than one page, so that pages are filled even where holes are not.
const LEN: usize = 16_000;

#[test]
fn a_full_arena_evicts_inside_of_the_compilation() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let cache: CodeCache<u32> = CodeCache::builder(arena.clone()).budget(usize::MAX).build();
        for n in 0..200 {
            ask(&cache, n, n, LEN);
        }
        let stats = cache.stats();
        assert!(stats.evictions > 100 && stats.entries > 50, "{mode:?} {stats:?}");
        assert_eq!((stats.held, stats.entries), (0, arena.stats().live_blocks));
        // A batch of many pushes, which needs most of the arena. All earlier entries are evicted,
        // but not the functions of the batch.
        let compile = |batch: &mut Batch| {
            let slots = (0..50).map(|n| batch.push(&asm::padded(1_000 + n, LEN))).collect::<Result<Vec<_>, Error>>()?;
            batch.reserve(LEN, 64)?;
            Ok::<_, Error>(slots[7])
        };
        let large = cache.get_or_compile(&1_000, compile).unwrap();
        assert_eq!((call_entry(&large), large.len()), (1_007, 51 * LEN));
        assert!(large.blocks()[..50].iter().zip(1_000..).all(|(block, n)| super::call(block) == n));
        assert_eq!(cache.get(&1_000).map(|entry| entry.len()), Some(51 * LEN), "a large one is cached");
    }
}

#[test]
fn a_full_arena_spares_what_is_held() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let cache: CodeCache<u32> = CodeCache::builder(arena.clone()).build();
        let mut held = Vec::new();
        let full = loop {
            let n = held.len() as u32;
            match cache.get_or_compile(&n, code(n, LEN)) {
                Ok(entry) => held.push(entry),
                Err(error) => break error,
            }
        };
        assert!(matches!(full, Error::ArenaFull { waiting: 0, .. }), "{full}");
        assert_eq!((cache.stats().entries, cache.stats().evictions), (held.len(), 0));
        assert!(held.iter().zip(0..).all(|(entry, n)| call_entry(entry) == n));
        // After the entries were released, the same compilation succeeds.
        let count = held.len();
        held.truncate(count / 2);
        ask(&cache, 1_000, 1_000, LEN);
        assert!(held.iter().zip(0..).all(|(entry, n)| call_entry(entry) == n));
        assert_eq!(cache.stats().held, 0, "{mode:?}");
    }
}

#[test]
fn a_full_arena_says_what_waits_for_guards() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let cache: CodeCache<u32> = CodeCache::builder(arena.clone()).build();
        let guard = arena.pin();
        let (mut n, mut entries) = (0, Vec::new());
        let waiting = loop {
            match cache.get_or_compile(&n, code(n, LEN)) {
                Ok(entry) => {
                    drop(entry);
                    entries.push(cache.get_in(&guard, &n).unwrap());
                }
                Err(Error::ArenaFull { waiting, .. }) => break waiting,
                Err(error) => panic!("{error}"),
            }
            n += 1;
        };
        // Only as much as was asked for was evicted, and it can still be run.
        assert!((LEN..3 * LEN).contains(&waiting), "{mode:?} {waiting}");
        let stats = cache.stats();
        assert_eq!((stats.held, stats.entries), (waiting, n as usize - stats.evictions as usize), "{mode:?}");
        assert!(entries.iter().zip(0..).all(|(entry, n)| call_entry(entry) == n));
        // The error is the same again, and no more is evicted.
        let again = cache.get_or_compile(&n, code(n, LEN));
        assert!(matches!(again, Err(Error::ArenaFull { waiting: same, .. }) if same == waiting), "{mode:?}");
        assert_eq!(cache.stats().evictions, stats.evictions);
        drop(entries);
        drop(guard);
        ask(&cache, n, n, LEN);
        assert_eq!(cache.stats().held, 0);
    }
}

/// A guard that another thread ends meanwhile is waited for. Here the hook ends it, after the
/// eviction whose memory it keeps.
#[test]
fn a_full_arena_waits_for_guards_that_end() {
    // The hook outlives this function, as far as the compiler knows, and so has the guard to.
    static ARENAS: OnceLock<Vec<CodeArena>> = OnceLock::new();
    for arena in ARENAS.get_or_init(|| modes().map(|mode| small(mode).build().unwrap()).collect()) {
        let guard = Arc::new(Mutex::new(None));
        let hooks = Arc::clone(&guard);
        let hook = move |_: &Entry<u32, ()>, _| drop(hooks.lock().unwrap().take());
        let cache: CodeCache<u32> = CodeCache::builder(arena.clone()).on_evict(hook).build();
        let mut n = 0;
        while cache.stats().evictions < 10 {
            *guard.lock().unwrap() = Some(arena.pin());
            ask(&cache, n, n, LEN);
            n += 1;
        }
        drop(guard.lock().unwrap().take());
        assert_eq!(cache.stats().held, 0, "{:?}", arena.mode());
    }
}

/// An entry that is found under a guard stays intact, to the last byte, while other threads evict
/// and publish over freed space.
#[test]
fn under_a_guard_entries_stay() {
    for mode in modes() {
        let arena = small(mode).poison(true).build().unwrap();
        let cache: CodeCache<u32> = CodeCache::builder(arena.clone()).budget(4 * LEN).build();
        ask(&cache, 1, 1, LEN);
        let guard = arena.pin();
        let entry = cache.get_in(&guard, &1).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 2..40 {
                    ask(&cache, n, n, LEN);
                }
                assert!(cache.get(&1).is_none());
            });
        });
        assert_eq!((call_entry(entry), *entry.key(), entry.len()), (1, 1, LEN), "{mode:?}");
        assert!(arena.lookup(entry.as_ptr()).is_some());
        // One more guard, which is taken too late to matter.
        let late = arena.pin();
        drop(guard);
        assert_eq!(cache.stats().held, 0, "{mode:?}");
        assert!(cache.get_in(&late, &1).is_none());
        drop(late);
        assert_eq!(arena.stats().live_blocks, 4);
    }
}

#[test]
fn a_guard_of_another_arena_finds_nothing() {
    let (arena, other) = (CodeArena::new().unwrap(), CodeArena::new().unwrap());
    let cache: CodeCache<u32> = CodeCache::builder(arena.clone()).build();
    ask(&cache, 1, 1, 50);
    assert!(cache.get_in(&other.pin(), &1).is_none() && cache.get_in(&arena.pin(), &1).is_some());
}

/// Observers run the user's code, which may use the cache.
#[test]
fn code_is_dropped_outside_of_all_locks() {
    use gaia_jit::cache::WeakCache;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};
    #[derive(Default)]
    struct Asks {
        cache: OnceLock<WeakCache<u32>>,
        heard: AtomicUsize,
    }
    impl gaia_jit::Observer for Asks {
        fn retired(&self, _: &gaia_jit::BlockInfo) {
            let cache = self.cache.get().unwrap().upgrade().unwrap();
            cache.get(&1);
            cache.invalidate(&7_777);
            assert!(cache.stats().bytes <= cache.budget());
            self.heard.fetch_add(1, Ordering::Relaxed);
        }
    }
    // Entries leave because of the budget, or because the arena is full.
    let cases = [(10 * LEN, 20), (usize::MAX, 100)];
    for (mode, (budget, count)) in
        modes().filter(|mode| fills_holes(*mode)).flat_map(|mode| cases.map(|case| (mode, case)))
    {
        let asks = Arc::new(Asks::default());
        let arena = small(mode).observer(asks.clone()).build().unwrap();
        let cache = &CodeCache::builder(arena.clone()).budget(budget).build();
        asks.cache.set(cache.downgrade()).unwrap();
        for n in 0..count {
            ask(cache, n, n, LEN);
        }
        assert!(cache.stats().evictions > 0 && cache.invalidate(&(count - 1)));
        cache.invalidate_if(|entry| entry.key() % 2 == 0);
        cache.insert(17, arena.publish(&asm::constant(17)).unwrap(), ()).unwrap();
        let guard = arena.pin();
        cache.clear();
        drop(guard);
        assert_eq!(cache.stats().held, 0);
        assert_eq!(
            (asks.heard.load(Ordering::Relaxed), arena.stats().live_blocks),
            (count as usize + 1, 0),
            "{mode:?}"
        );
    }
}

/// A hook may use its cache. It is not called from inside of itself, and its compilations evict
/// nothing.
#[test]
fn a_hook_may_use_the_cache() {
    const LATE: u32 = 1 << 20;
    for budget in [usize::MAX, 20 * LEN] {
        let cell: Arc<OnceLock<WeakCache<u32>>> = Arc::default();
        let (own, depth, told) = (Arc::clone(&cell), AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&told);
        let hook = move |entry: &Entry<u32>, reason: Reason| {
            assert_eq!(depth.fetch_add(1, Ordering::Relaxed), 0, "inside of itself");
            count.fetch_add(1, Ordering::Relaxed);
            let cache = own.get().unwrap().upgrade().unwrap();
            assert!(cache.get(entry.key()).is_none());
            match (entry.key(), reason) {
                // The hook removes the next entry, and is called for it later.
                (0..5, Reason::Invalidated) => assert!(cache.invalidate(&(entry.key() + 1))),
                (_, Reason::Invalidated) => {}
                (key, _) => {
                    let before = cache.stats().evictions;
                    match cache.get_or_compile(&(LATE + key), code(*key, LEN)) {
                        Ok(late) => assert_eq!(call_entry(&late), *key),
                        Err(Error::ArenaFull { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    assert_eq!(cache.stats().evictions, before);
                }
            }
            depth.fetch_sub(1, Ordering::Relaxed);
        };
        let cache = CodeCache::builder(small(WxMode::Flip).build().unwrap()).budget(budget).on_evict(hook).build();
        cell.set(cache.downgrade()).unwrap();
        for n in 0..200 {
            drop(ask(&cache, n, n, LEN));
        }
        let stats = cache.stats();
        assert!(stats.evictions > 100 && stats.bytes <= budget && stats.held == 0, "{stats:?}");
        cache.clear();
        // The hook would have been called for missing keys too, if there were any.
        (0..6).for_each(|n| drop(ask(&cache, n, n, 50)));
        told.store(0, Ordering::Relaxed);
        assert!(cache.invalidate(&0));
        assert_eq!((told.load(Ordering::Relaxed), cache.stats().entries), (6, 0));
        let arena = cache.arena().clone();
        drop(cache);
        assert_eq!((arena.stats().live_blocks, cell.get().unwrap().upgrade().is_none()), (0, true));
    }
}

/// A hook that panics is called again for the next entry.
#[test]
fn a_hook_may_panic() {
    let told = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&told);
    let hook = move |_: &Entry<u32>, _: Reason| {
        assert!(count.fetch_add(1, Ordering::Relaxed) % 2 == 1, "every other time");
    };
    let cache = CodeCache::builder(small(WxMode::Flip).build().unwrap()).budget(100).on_evict(hook).build();
    for n in 0..10 {
        let made = catch_unwind(AssertUnwindSafe(|| drop(ask(&cache, n, n, 80))));
        // The first compilation evicts nothing.
        assert_eq!(made.is_err(), n % 2 == 1, "{n}");
        assert_eq!(cache.stats().entries, 1);
    }
    assert_eq!((told.load(Ordering::Relaxed), cache.stats().held), (9, 0));
}

/// Data is evicted with its code, to make room for other data.
#[test]
fn a_full_data_area_evicts() {
    for mode in modes() {
        for access in [DataAccess::ReadOnly, DataAccess::ReadWrite] {
            let arena = small(mode).data(64 << 10).build().unwrap();
            let cache: CodeCache<u32> = CodeCache::builder(arena.clone()).build();
            let with_data = |n: u32, len: usize| {
                let fill = move |_: *const u8, bytes: &mut [u8]| bytes.fill(n as u8);
                move |batch: &mut Batch| {
                    batch.data(len, 16, access, fill)?;
                    batch.push(&asm::constant(n))
                }
            };
            // An entry without data, which is never evicted for data.
            let plain = |n: u32| cache.get(&n).is_some();
            (1_000..1_010).for_each(|n| drop(ask(&cache, n, n, 50)));
            let held = cache.get_or_compile(&1, with_data(1, 3_000)).unwrap();
            for n in 2..200 {
                let entry = cache.get_or_compile(&n, with_data(n, 2_000)).unwrap();
                assert_eq!((call_entry(&entry), entry.data().len()), (n, 1));
            }
            let stats = cache.stats();
            assert!(stats.evictions > 100 && stats.entries > 15 && stats.held == 0, "{mode:?} {stats:?}");
            assert!((1_000..1_010).all(plain) && cache.get(&1).is_some());
            // More than can become free.
            let full = cache.get_or_compile(&500, with_data(0, 62 << 10));
            assert!(matches!(full, Err(Error::DataFull { .. })), "{mode:?} {full:?}");
            assert!((1_000..1_010).all(plain), "{mode:?}");
            drop(held);
            cache.clear();
            assert_eq!((arena.stats().data_bytes, arena.stats().live_blocks), (0, 0));
        }
    }
}

/// If the kernel write is refused late, each function takes a page, and the cache makes room for
/// pages.
#[cfg(target_os = "linux")]
#[test]
fn room_is_made_where_holes_are_not_filled_any_more() {
    const NAME: &str = "room_is_made_where_holes_are_not_filled_any_more";
    super::common::child::run(NAME, || {
        let arena = small(WxMode::Flip).build().unwrap();
        let cache: CodeCache<u32> = CodeCache::builder(arena.clone()).budget(usize::MAX).build();
        (0..300).for_each(|n| drop(ask(&cache, n, n, 2_000)));
        if !arena.stats().fills_holes || !super::common::sandbox::deny_kernel_writes() {
            return super::common::not_run(NAME, "no kernel write, or no filters here");
        }
        // The batch that was staged at that moment fails.
        assert!(matches!(cache.get_or_compile(&1_000, code(1, 100)), Err(Error::OperatingSystem { .. })));
        (1_001..4_000).for_each(|n| drop(ask(&cache, n, n, 100)));
        assert!(cache.stats().evictions > 1_000, "{:?}", cache.stats());
    });
}
