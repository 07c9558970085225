//! The arena as a whole: shelves, books, lookup and guards together, over real memory.

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

/// Space goes through a shelf that another thread clears, and back: figures stay exact, nothing is lost. Two preemptions.
#[test]
fn space_is_never_between_the_shelf_and_the_books() {
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

/// A block published by one thread and dropped by another, while a third counts and trims. Two preemptions.
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

/// Promise 5, through the whole of it: what a guarded thread reads from the runtime's table stays what it is, though
/// another thread drops it and publishes in its place. Two preemptions.
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
