//! Tests of the cache in a forked child.
//!
//! - *An inherited cache*: lookups find nothing, changes are refused or do nothing, and held
//!   entries still run. A cache that the child builds works.
//! - *A fork inside of a compilation*: the child's compilation fails, and the parent's succeeds.
//! - *A fork inside of the predicate of `invalidate_if`*: the child leaves the call without a
//!   change.
//!
//! At two of these forks another thread is in the middle of a change: it waits in the comparison of
//! two keys. The locks that it holds are never unlocked in the child, because a child has no other
//! threads. So a call that takes one of these locks would hang, and the tests exist to catch that.
//!
//! Each test has its own process (`common::child`), because threads of other tests could hold
//! further locks.
#![cfg(target_os = "linux")]

use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};

use gaia_jit::cache::CodeCache;
use gaia_jit::{Batch, Error, WxMode};

use super::common::{asm, child, fork::fork, modes, small};
use super::{ask, call_entry, code};

static CHANGING: AtomicBool = AtomicBool::new(false);
static DONE: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Comparisons by this thread wait until `DONE`.
    static STOPS: Cell<bool> = const { Cell::new(false) };
}

#[derive(Clone, Debug, Eq)]
struct Key(u32);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        while STOPS.get() && !DONE.load(Ordering::Acquire) {
            CHANGING.store(true, Ordering::Release);
            std::thread::yield_now();
        }
        self.0 == other.0
    }
}

#[test]
fn a_forked_child_finds_and_changes_nothing() {
    child::run("a_forked_child_finds_and_changes_nothing", || {
        for mode in modes() {
            let arena = small(mode).build().unwrap();
            let mut cache: Option<CodeCache<Key>> = Some(CodeCache::builder(arena.clone()).build());
            let mut held = Some(ask(cache.as_ref().unwrap(), Key(1), 1, 50));
            // Another thread is in the middle of a change, and stays there. Its locks are held for
            // ever in the child.
            let other = cache.clone().unwrap();
            CHANGING.store(false, Ordering::Release);
            DONE.store(false, Ordering::Release);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    STOPS.set(true);
                    other.insert(Key(1), arena.publish(&asm::constant(11)).unwrap(), ()).unwrap();
                });
                while !CHANGING.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                let ended = fork(|| {
                    let cache = cache.take().unwrap();
                    assert!(cache.get(&Key(1)).is_none());
                    assert!(cache.get_in(&arena.pin(), &Key(1)).is_none());
                    assert!(matches!(cache.get_or_compile(&Key(1), code(1, 50)), Err(Error::Forked { .. })));
                    assert!(matches!(cache.get_or_compile(&Key(3), code(3, 50)), Err(Error::Forked { .. })));
                    let own = small(mode).build().unwrap();
                    let inserted = cache.insert(Key(4), own.publish(&asm::constant(4)).unwrap(), ());
                    assert!(matches!(inserted, Err(Error::Forked { .. })));
                    assert!(!cache.invalidate(&Key(1)));
                    assert_eq!(cache.invalidate_if(|_| true), 0);
                    cache.clear();
                    assert_eq!((cache.stats().entries, call_entry(held.as_ref().unwrap())), (1, 1));
                    // A cache that the child makes works.
                    ask(&CodeCache::builder(own).build(), Key(5), 5, 50);
                    drop((cache, held.take()));
                });
                DONE.store(true, Ordering::Release);
                assert!(ended, "{mode:?}");
            });
            let cache = cache.unwrap();
            assert_eq!((call_entry(&cache.get(&Key(1)).unwrap()), cache.stats().entries), (11, 1));
            drop(held);
            // A compilation forks a child.
            let mut forked = false;
            let compile = |batch: &mut Batch| {
                forked = true;
                let parent = std::process::id();
                // SAFETY: this is the only thread now.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    let slot = batch.push(&asm::constant(6));
                    assert!(matches!(slot, Err(Error::Forked { .. })) && std::process::id() != parent);
                    return slot;
                }
                let mut status = 0;
                // SAFETY: `status` is valid for the call to write to.
                unsafe { libc::waitpid(child, &raw mut status, 0) };
                assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
                code(6, 50)(batch)
            };
            let compiled = cache.get_or_compile(&Key(6), compile);
            if compiled.is_err() {
                // The child's last handle.
                drop((cache, other));
                // SAFETY: ends the child without running what belongs to the parent.
                unsafe { libc::_exit(0) };
            }
            assert!(forked && call_entry(&compiled.unwrap()) == 6);
        }
    });
}

/// The function that `invalidate_if` calls may fork, while another thread is in the middle of a
/// change.
#[test]
fn a_predicate_may_fork() {
    child::run("a_predicate_may_fork", || {
        let cache: CodeCache<Key> = CodeCache::builder(small(WxMode::Flip).build().unwrap()).build();
        drop(ask(&cache, Key(1), 1, 50));
        std::thread::scope(|scope| {
            let mut is_child = false;
            let removed = cache.invalidate_if(|_| {
                scope.spawn(|| {
                    STOPS.set(true);
                    cache.invalidate(&Key(1));
                });
                while !CHANGING.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                // SAFETY: the child takes no lock, and ends.
                let child = unsafe { libc::fork() };
                is_child = child == 0;
                if !is_child {
                    let mut status = 0;
                    // SAFETY: `status` is valid for the call to write to.
                    unsafe { libc::waitpid(child, &raw mut status, 0) };
                    // Before assertions that may fail, because the thread waits for it.
                    DONE.store(true, Ordering::Release);
                    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
                } else {
                    // SAFETY: has no requirements; the signal ends a child that hangs.
                    unsafe { libc::alarm(60) };
                }
                true
            });
            if is_child {
                // SAFETY: ends the child without running what belongs to the parent.
                unsafe { libc::_exit(i32::from(removed != 0)) };
            }
        });
        assert_eq!(cache.stats().entries, 0);
    });
}
