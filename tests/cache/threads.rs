//! Tests of the cache with many threads at once.
//!
//! - *One key*: eight threads ask for it. One compiles, seven wait, and all get the same entry.
//! - *Failures*: if the first compilation has no result, one of the waiting threads compiles.
//! - *Circles*: each of two compilations needs the key of the other, in one cache or in two. One
//!   thread gets `Error::Recursion`, so there is no deadlock.
//! - *Everything*: four threads make random calls, and a fifth compares the size with the budget.
//!
//! In the last test the result of a function contains its key and a time. So a call shows whether
//! the entry belongs to the key, and whether it is older than the last invalidation. The arena has
//! `poison`, so a function that was freed too early traps. `GAIA_TEST_CACHE_OPS` makes the test
//! longer.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use gaia_jit::cache::CodeCache;
use gaia_jit::{Batch, CodeArena, Error};

use super::common::{asm, often};
use super::{ask, call_entry, code};

fn arena() -> CodeArena {
    CodeArena::builder().capacity(1 << 20).build().unwrap()
}

/// Waits until a number of threads wait.
fn until_waiting<K, V>(cache: &CodeCache<K, V>, count: u64) {
    while cache.stats().waited < count {
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn eight_threads_compile_once() {
    let cache: CodeCache<u32> = CodeCache::builder(arena()).build();
    let (compiled, start) = (AtomicUsize::new(0), Barrier::new(8));
    let addresses: Vec<usize> = thread::scope(|scope| {
        let asks = || {
            start.wait();
            let compile = |batch: &mut Batch| {
                compiled.fetch_add(1, Ordering::Relaxed);
                until_waiting(&cache, 7);
                code(5, 50)(batch)
            };
            cache.get_or_compile(&5, compile).unwrap().as_ptr().addr()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(asks)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!((compiled.into_inner(), cache.stats().waited, cache.stats().entries), (1, 7, 1));
    assert!(addresses.iter().all(|address| *address == addresses[0]));
}

/// After an error, a panic, or a stale compilation, the next thread compiles.
#[test]
fn those_who_wait_try_after_a_failure() {
    let cache: CodeCache<u32> = CodeCache::builder(arena()).build();
    let (turn, start) = (AtomicU32::new(0), Barrier::new(4));
    let (failed, values): (Vec<_>, Vec<_>) = thread::scope(|scope| {
        let asks = || {
            start.wait();
            let compile = |batch: &mut Batch| -> Result<_, Error> {
                let turn = turn.fetch_add(1, Ordering::Relaxed);
                if turn == 0 {
                    until_waiting(&cache, 3);
                }
                match turn {
                    0 => Err(Error::ZeroSize),
                    1 => panic!("as meant"),
                    2 => {
                        cache.invalidate(&5);
                        code(100, 50)(batch)
                    }
                    turn => code(turn, 50)(batch),
                }
            };
            cache.get_or_compile(&5, compile).map(|entry| call_entry(&entry))
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(asks)).collect();
        threads.into_iter().map(|thread| thread.join()).partition(|result| !matches!(result, Ok(Ok(_))))
    });
    let mut values: Vec<u32> = values.into_iter().map(|value| value.unwrap().unwrap()).collect();
    values.sort_unstable();
    assert_eq!((failed.len(), values, turn.into_inner()), (2, vec![3, 100], 4));
    assert_eq!(call_entry(&cache.get(&5).unwrap()), 3);
}

/// Two compilations ask for each other's keys. One of the threads is refused, and both end. The
/// same through two caches.
#[test]
fn a_circle_of_compilations_is_an_error() {
    let [one, two]: [CodeCache<u32>; 2] = [(); 2].map(|()| CodeCache::builder(arena()).build());
    for caches in [[&one, &one], [&one, &two]] {
        let meet = Barrier::new(2);
        let refused = AtomicUsize::new(0);
        thread::scope(|scope| {
            for (n, other) in [(0, 1), (1, 0)] {
                let (caches, meet, refused) = (&caches, &meet, &refused);
                scope.spawn(move || {
                    let compile = |batch: &mut Batch| {
                        meet.wait();
                        let never = |_: &mut Batch| -> Result<_, Error> { panic!("it is being compiled") };
                        match caches[other].get_or_compile(&(other as u32), never) {
                            Ok(entry) => assert_eq!(call_entry(&entry), other as u32),
                            Err(Error::Recursion) => drop(refused.fetch_add(1, Ordering::Relaxed)),
                            Err(error) => panic!("{error}"),
                        }
                        code(n as u32, 50)(batch)
                    };
                    assert_eq!(call_entry(&caches[n].get_or_compile(&(n as u32), compile).unwrap()), n as u32);
                });
            }
        });
        let entries: usize = [&one, &two].iter().map(|cache| cache.stats().entries).sum();
        assert_eq!((refused.into_inner(), entries), (1, 2));
        one.clear();
    }
}

/// An inserted function has a number outside of the order of time, because it is made before the
/// call.
const INSERTED: u32 = 1 << 31;

/// Returns the result of a key's code.
fn number(n: u32, key: u32) -> u32 {
    (n % 500) << 6 | key
}

/// All calls at once. A result belongs to its key and is not freed. An entry that was invalidated
/// before the call is not found. `GAIA_TEST_CACHE_OPS` sets how many operations each thread makes.
#[test]
fn everything_at_once() {
    let operations = std::env::var("GAIA_TEST_CACHE_OPS").map_or(often(5_000), |text| text.parse().unwrap());
    const KEYS: u32 = 64;
    let arena = CodeArena::builder().capacity(256 << 10).poison(true).build().unwrap();
    let cache: CodeCache<u32, u32> = CodeCache::builder(arena.clone()).budget(100 << 10).build();
    // The smallest result of a key's code since it was invalidated.
    let least: Arc<Vec<AtomicU32>> = Arc::new((0..KEYS).map(|_| AtomicU32::new(0)).collect());
    let (stop, clock) = (AtomicBool::new(false), AtomicU32::new(1));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|seed| {
                let (cache, arena, least, clock) = (&cache, &arena, &least, &clock);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    let mut held = Vec::new();
                    for _ in 0..operations {
                        let key = random.u32(0..KEYS);
                        let known = least[key as usize].load(Ordering::SeqCst);
                        match random.u32(0..20) {
                            0 => {
                                let now = clock.fetch_add(1, Ordering::SeqCst);
                                cache.invalidate(&key);
                                least[key as usize].fetch_max(now, Ordering::SeqCst);
                            }
                            1 => {
                                let n = clock.fetch_add(1, Ordering::SeqCst) | INSERTED;
                                if let Ok(block) = arena.publish(&asm::padded(number(n, key), 1_000)) {
                                    cache.insert(key, block, n).unwrap();
                                }
                            }
                            2 => held.clear(),
                            3..8 => {
                                let guard = arena.pin();
                                if let Some(entry) = cache.get_in(&guard, &key) {
                                    assert!(*entry.value() >= known);
                                    thread::yield_now();
                                    assert_eq!(call_entry(entry), number(*entry.value(), key));
                                }
                            }
                            way => {
                                let len = random.usize(100..5_000);
                                let compile = |batch: &mut Batch| {
                                    let n = clock.fetch_add(1, Ordering::SeqCst);
                                    let slot = batch.push(&asm::padded(number(n, key), len))?;
                                    Ok::<_, Error>((slot, n))
                                };
                                let entry = match cache.get_or_compile_with(&key, compile) {
                                    Ok(entry) => entry,
                                    Err(Error::ArenaFull { .. }) => continue,
                                    Err(error) => panic!("{error}"),
                                };
                                assert_eq!((*entry.key(), call_entry(&entry)), (key, number(*entry.value(), key)));
                                assert!(*entry.value() >= known, "{} {known}", entry.value());
                                if way == 8 && held.len() < 4 {
                                    held.push(entry);
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let stats = cache.stats();
                assert!(stats.bytes <= cache.budget(), "{stats:?}");
                thread::yield_now();
            }
        });
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        stop.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|end| end.unwrap());
    });
    let stats = cache.stats();
    assert_eq!((stats.held, stats.entries), (0, arena.stats().live_blocks));
    assert_eq!(stats.bytes, arena.stats().live_bytes);
    assert!(stats.evictions > 0 && stats.hits > 0, "{stats:?}");
    cache.clear();
    assert_eq!(arena.stats().live_blocks, 0);
    ask_of_values(&cache);
}

fn ask_of_values(cache: &CodeCache<u32, u32>) {
    let plain: CodeCache<u32> = CodeCache::builder(cache.arena().clone()).build();
    ask(&plain, 1, 1, 50);
}
