//! What waits: for guards, for pages to be sealed, for a system that refuses.

use std::sync::{Arc, Mutex};
use std::thread;

use super::{SPAN_BYTES, arena, builder, check_empty, publish};
use crate::arena::core::Core;
use crate::arena::{MakeRoom, Room};
use crate::tests::common::{asm, call, call_at, fills_holes, not_run};
use crate::tests::faulty::Faulty;
use crate::{CodeArena, Error, WxMode};

/// An age of guards ends, and the next call that places code does so in another heap than the one
/// where a block waits: a guard that is taken after that call does not hold the block back.
#[test]
fn a_call_in_another_heap_makes_guards_younger() {
    let Some(arena) = arena("a_call_in_another_heap_makes_guards_younger", 16) else { return };
    let blocks: Vec<_> = (0..17).map(|_| publish(&arena, 0, 16).unwrap()).collect();
    let mut guards = Vec::new();
    for block in blocks {
        guards.push(arena.pin());
        drop(block);
    }
    drop(guards.remove(6));
    let placed = publish(&arena, 1, 16).unwrap();
    let young = arena.pin();
    guards.clear();
    assert_eq!(arena.stats().pending_blocks, 0);
    drop((young, placed));
    check_empty(&arena);
}

/// A drop has looked at the guards and waits to overwrite what it may. What is dropped meanwhile
/// under a guard stays as it is.
#[test]
fn a_guard_that_is_taken_while_a_drop_waits_counts() {
    let Some(builder) = builder("a_guard_that_is_taken_while_a_drop_waits_counts", 1) else { return };
    let arena = builder.poison(true).build().unwrap();
    let (first, second) = (arena.publish(&asm::constant(1)).unwrap(), arena.publish(&asm::constant(2)).unwrap());
    let address = second.as_ptr();
    let core: &Core = arena.core();
    let wait_for = |waiting: usize| {
        while core.heaps.lock(0).pending.len() < waiting {
            thread::yield_now();
        }
    };
    let system = core.system.lock();
    let guard = thread::scope(|scope| {
        scope.spawn(|| drop(first));
        wait_for(1);
        let guard = arena.pin();
        scope.spawn(|| drop(second));
        wait_for(2);
        drop(system);
        guard
    });
    assert_eq!((arena.stats().pending_blocks, call_at(address)), (1, 2));
    drop(guard);
    check_empty(&arena);
}

/// While pages that could not be sealed are being sealed again by one thread, another does not hear
/// that the arena is full.
#[test]
fn what_is_sealed_again_is_waited_for() {
    if !fills_holes(WxMode::Flip) {
        return not_run("what_is_sealed_again_is_waited_for", "Flip fills no holes here");
    }
    for _ in 0..200 {
        let system = Faulty::leaked();
        let arena = CodeArena::builder().capacity(4 * SPAN_BYTES).os(system).build().unwrap();
        let fill = arena.publish(&[0xc3; SPAN_BYTES][..]).unwrap();
        let mut batch = arena.batch();
        batch.push(&[0xc3; 3 * SPAN_BYTES][..]).unwrap();
        system.refuse(&["seal"]);
        drop(batch);
        system.heal();
        let barrier = std::sync::Barrier::new(2);
        let publish = || {
            barrier.wait();
            arena.publish(&asm::constant(1)).unwrap()
        };
        let blocks = thread::scope(|scope| [scope.spawn(publish), scope.spawn(publish)].map(|thread| thread.join()));
        assert!(blocks.iter().all(|block| call(block.as_ref().unwrap()) == 1));
        drop((fill, blocks));
        check_empty(&arena);
    }
}

/// Where the system takes nothing back, it is not asked at every drop.
#[test]
fn a_refusal_is_not_repeated_at_every_drop() {
    if !fills_holes(WxMode::Flip) {
        return not_run("a_refusal_is_not_repeated_at_every_drop", "Flip fills no holes here");
    }
    let system = Faulty::leaked();
    let arena = CodeArena::builder().capacity(8 << 20).keep_free(0).os(system).build().unwrap();
    let (blocks, kept): (Vec<_>, Vec<_>) =
        (0..100).map(|n| (n, publish(&arena, 0, 60_000).unwrap())).partition(|(n, _)| *n > 0);
    system.refuse(&["decommit"]);
    drop(blocks);
    system.take_log();
    (0..100).for_each(|_| drop(arena.publish(&asm::constant(1)).unwrap()));
    assert!(system.take_log().iter().filter(|call| **call == "decommit").count() <= 1);
    system.heal();
    drop(kept);
    arena.trim().unwrap();
    check_empty(&arena);
}

/// An owner that drops nothing, and notes how much it was asked for.
#[derive(Default)]
struct Keeper(Mutex<Vec<usize>>);

impl MakeRoom for Keeper {
    fn make_room(&self, _room: Room, asked: usize, _waiting: usize) -> Result<(), usize> {
        self.0.lock().unwrap().push(asked);
        Err(16)
    }
}

/// A batch in a full arena waits for guards that are older than the last drop, and for no others.
/// The wait ends, and more is asked for where their end did not make room.
#[test]
fn a_batch_waits_for_guards_and_asks_for_more() {
    let arena = CodeArena::builder().mode(WxMode::DualMap).capacity(64 << 10).build();
    let Ok(arena) = arena else { return not_run("a_batch_waits_for_guards_and_asks_for_more", "no DualMap") };
    let block = arena.publish(&vec![0xc3; arena.capacity() - 64]).unwrap();
    let ask = || {
        let keeper = Arc::new(Keeper::default());
        let mut batch = arena.batch();
        batch.set_on_full(Arc::clone(&keeper) as Arc<dyn MakeRoom>);
        let full = batch.reserve(1_024, 16);
        assert!(matches!(full, Err(Error::ArenaFull { asked: 1_024, .. })), "{full:?}");
        keeper.0.lock().unwrap().clone()
    };
    let doubled = |asked: &[usize]| {
        let expected = |n: usize| 1_024 << n.saturating_sub(2).min(16);
        assert!(asked.len() >= 3 && asked.iter().enumerate().all(|(n, asked)| *asked == expected(n)), "{asked:?}");
    };
    doubled(&ask());
    // A drop that waits begins an age, and this guard is younger.
    let old = arena.pin();
    let small = arena.publish(&[0xc3]).unwrap();
    drop(small);
    let young = arena.pin();
    assert_eq!(ask(), [1_024], "the old guard does not end");
    drop(old);
    doubled(&ask());
    drop((young, block));
}
