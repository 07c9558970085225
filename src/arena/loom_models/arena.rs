//! The arena as a whole: heaps, lookup and guards together, over real memory.
//!
//! Each model builds an arena of a few spans inside the model, so that every atomic of it is one of
//! loom's. The memory is the system's: loom runs one thread at a time, so code bytes are read and
//! written without being watched.
//!
//! At its end a model checks that all space is free, and a static observer that the arena was
//! released once. Models have two or three threads and a bound of one or two preemptions, because
//! orders grow with the number of atomic accesses.

use std::sync::atomic::Ordering;

use super::super::{CodeArena, WxMode};
use super::{Arc, check, spawn};
use crate::sync::checked::AtomicUsize;

const CAPACITY: usize = 16 << 10;

fn arena() -> CodeArena {
    CodeArena::builder().capacity(CAPACITY).mode(WxMode::DualMap).build().unwrap()
}

fn check_empty(arena: &CodeArena) {
    let stats = arena.stats();
    assert_eq!((stats.live_blocks, stats.live_bytes, stats.padding_bytes), (0, 0, 0));
    assert_eq!((stats.pending_bytes, stats.free_bytes, stats.largest_hole), (0, CAPACITY, CAPACITY));
}

/// One thread publishes and drops while another counts: figures stay exact, nothing is lost. Two
/// preemptions.
#[test]
fn figures_are_exact_at_every_moment() {
    check(2, || {
        let arena = arena();
        let publisher = {
            let arena = arena.clone();
            spawn(move || drop(arena.publish(&[1; 40]).unwrap()))
        };
        let stats = arena.stats();
        assert!(stats.live_blocks <= 1 && stats.live_bytes <= 40);
        assert_eq!(stats.live_bytes + stats.padding_bytes + stats.batch_bytes + stats.free_bytes, CAPACITY);
        publisher.join().unwrap();
        check_empty(&arena);
    });
}

/// A block published by one thread and dropped by another, while a third counts and trims. Two
/// preemptions.
#[test]
fn a_block_dropped_elsewhere_is_counted_out() {
    check(2, || {
        let arena = arena();
        let block = arena.publish(&[1; 40]).unwrap();
        let dropper = spawn(move || drop(block));
        arena.trim().unwrap();
        dropper.join().unwrap();
        check_empty(&arena);
    });
}

/// Promise 5, through the whole of it: what a guarded thread reads from the runtime's table stays
/// what it is, though another thread drops it and publishes in its place. Two preemptions.
#[test]
fn a_guarded_block_stays() {
    check(2, || {
        let arena = arena();
        let block = arena.publish(&[1; 40]).unwrap();
        let table = Arc::new(AtomicUsize::new(block.as_ptr().addr()));
        let runner = {
            let (arena, table) = (arena.clone(), Arc::clone(&table));
            spawn(move || {
                let guard = arena.pin();
                let address = std::ptr::without_provenance::<u8>(table.load(Ordering::Acquire));
                if !address.is_null() {
                    let hit = arena.lookup(address);
                    assert!(hit.is_none_or(|hit| hit.len == 40));
                    // SAFETY: mapped memory of the arena; loom runs one thread at a time.
                    assert_eq!(unsafe { *address }, 1, "reused under a guard");
                }
                drop(guard);
            })
        };
        table.store(0, Ordering::Release);
        drop(block);
        let other = arena.publish(&[2; 40]).unwrap();
        runner.join().unwrap();
        drop(other);
        check_empty(&arena);
    });
}

/// Two threads publish at one time, so that they may meet in a heap, or one makes another. What
/// they leave is one hole. Two preemptions.
#[test]
fn threads_that_meet_take_space_of_their_own() {
    check(2, || {
        let arena = arena();
        let publisher = {
            let arena = arena.clone();
            spawn(move || arena.publish(&[1; 40]).unwrap())
        };
        let mine = arena.publish(&[2; 40]).unwrap();
        let other = publisher.join().unwrap();
        assert!(mine.as_ptr().addr().abs_diff(other.as_ptr().addr()) >= 48);
        assert_eq!((&mine.as_bytes()[..], &other.as_bytes()[..]), (&[2; 40][..], &[1; 40][..]));
        drop((mine, other));
        check_empty(&arena);
    });
}

/// How many arenas of a model were built and released. What loom runs outlives no run, but these
/// do.
struct Watch(std::sync::atomic::AtomicUsize, std::sync::atomic::AtomicUsize);

impl crate::Observer for &'static Watch {
    fn reserved(&self, _: &crate::Reservation) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn released(&self, _: &crate::Reservation) {
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

impl Watch {
    const fn new() -> Self {
        Self(std::sync::atomic::AtomicUsize::new(0), std::sync::atomic::AtomicUsize::new(0))
    }

    fn check(&self) {
        let (built, released) = (self.0.load(Ordering::Relaxed), self.1.load(Ordering::Relaxed));
        assert_eq!(built, released, "an arena was never released, or twice");
    }
}

/// The last handle goes while two threads drop the last blocks: the arena goes with the last of
/// them all, once, and no heap is locked then or later. Two preemptions.
#[test]
fn an_arena_goes_with_whoever_is_last() {
    static WATCH: Watch = Watch::new();
    check(2, || {
        let builder = CodeArena::builder().capacity(CAPACITY).mode(WxMode::DualMap);
        let arena = builder.observer(std::sync::Arc::new(&WATCH)).build().unwrap();
        let blocks = [1, 2].map(|byte| arena.publish(&[byte; 40]).unwrap());
        let droppers = blocks.map(|block| spawn(move || drop(block)));
        drop(arena);
        droppers.into_iter().for_each(|dropper| dropper.join().unwrap());
        WATCH.check();
    });
}

/// The same where drops give memory back, and lock a heap once more for that. Two preemptions.
#[test]
fn an_arena_that_shrinks_goes_too() {
    static WATCH: Watch = Watch::new();
    check(2, || {
        let builder = CodeArena::builder().capacity(CAPACITY).mode(WxMode::DualMap).keep_free(0);
        let arena = builder.observer(std::sync::Arc::new(&WATCH)).build().unwrap();
        let blocks = [1, 2].map(|byte| arena.publish(&[byte; 4096][..]).unwrap());
        let droppers = blocks.map(|block| spawn(move || drop(block)));
        drop(arena);
        droppers.into_iter().for_each(|dropper| dropper.join().unwrap());
        WATCH.check();
    });
}

/// A thread that takes a guard and then finds a block by its address can rely on it. Two
/// preemptions.
#[test]
fn a_block_that_is_found_under_a_guard_stays() {
    check(2, || {
        let arena = arena();
        let block = arena.publish(crate::Code::new(&[1; 40]).tag(1)).unwrap();
        let address = block.as_ptr().addr();
        let runner = {
            let arena = arena.clone();
            spawn(move || {
                let address = std::ptr::without_provenance::<u8>(address);
                let guard = arena.pin();
                if arena.lookup(address).is_some_and(|hit| hit.tag == 1) {
                    // SAFETY: mapped memory of the arena; loom runs one thread at a time.
                    assert_eq!(unsafe { *address }, 1, "reused under a guard");
                }
                drop(guard);
            })
        };
        drop(block);
        let other = arena.publish(crate::Code::new(&[2; 40]).tag(2)).unwrap();
        runner.join().unwrap();
        drop(other);
        check_empty(&arena);
    });
}

/// A span changes owner, because the only hole that is large enough lies across its start, while a
/// block in it is dropped. Two preemptions.
#[test]
fn a_span_changes_owner_under_a_drop() {
    check(2, || {
        let arena = arena();
        let first = arena.publish(&[1; 3000]).unwrap();
        let (left, right) = {
            let _held = arena.core().heaps.lock(0);
            (arena.publish(&[2; 1024]).unwrap(), arena.publish(&[3; 3000]).unwrap())
        };
        let rest = [4u8, 5].map(|byte| arena.publish(&[byte; 4096][..]).unwrap());
        drop(left);
        let dropper = spawn(move || drop(right));
        let across = arena.publish(&[6; 2000]).unwrap();
        dropper.join().unwrap();
        drop((first, rest, across));
        check_empty(&arena);
    });
}

/// A span goes to a heap that needs space, with a block in it that another thread drops meanwhile.
/// Two preemptions.
#[test]
fn a_sparse_span_changes_owner_under_a_drop() {
    static GIVEN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    check(2, || {
        let arena = arena();
        let first = arena.publish(&[1; 4096][..]).unwrap();
        // A span full of four, and one of the next.
        let [a, b, c, d, e] = {
            let _held = arena.core().heaps.lock(0);
            [2u8, 3, 4, 5, 6].map(|byte| arena.publish(&[byte; 1024]).unwrap())
        };
        drop((a, c));
        let dropper = spawn(move || drop(b));
        let taken = arena.publish(&[7; 500]).unwrap();
        dropper.join().unwrap();
        assert_eq!((&taken.as_bytes()[..], &d.as_bytes()[..]), (&[7; 500][..], &[5; 1024][..]));
        GIVEN.fetch_add(arena.core().heaps.given(), Ordering::Relaxed);
        drop((first, d, e, taken));
        check_empty(&arena);
    });
    assert!(GIVEN.load(Ordering::Relaxed) > 0);
}
