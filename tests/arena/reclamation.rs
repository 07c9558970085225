//! Tests of promise 5: space is not reused under a guard, and is free at once without one.
//!
//! | What | How it is checked |
//! |---|---|
//! | a guard keeps what was dropped after it was taken, and nothing else | the address of the next publication, and `pending_blocks` |
//! | many guards | 1,000 guards of one age, and 100 ages, which are more than an arena distinguishes |
//! | threads | readers call through a table of addresses while a writer drops and publishes; each result must belong to its row |
//! | poison | the bytes of a dropped block are traps |
//! | waiting blocks | all of them are reclaimed before a call fails, and their number stays in proportion |
//!
//! The groups exist to catch both kinds of mistake: a guard that keeps too little is a use after
//! free, and a guard that keeps too much is a leak. `common::publish_after_guards` is used where a
//! thread may be off its processor while it has a guard.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::common::{StopOnDrop, asm, call, call_at, modes, often, publish_after_guards, publish_all, small};
use gaia_jit::{Code, CodeArena, CodeBlock, WxMode};

/// Promise 5, in both directions.
#[test]
fn guards_hold_back_just_what_was_dropped_after_them() {
    for mode in modes() {
        for poison in [false, true] {
            let arena = small(mode).poison(poison).build().unwrap();
            let publish = |n| arena.publish(&asm::padded(n, 4096)).unwrap();
            let page = |block: &CodeBlock| block.as_ptr().addr();
            // Without a guard the next allocation gets the space.
            let (a, b) = (publish(1), publish(2));
            let a_at = page(&a);
            drop(a);
            let c = publish(3);
            assert_eq!(page(&c), a_at);
            // A guard taken before the drop holds the space; one taken after does not.
            let older = arena.pin();
            let b_at = page(&b);
            drop(b);
            assert_eq!((arena.stats().pending_blocks, arena.stats().pending_bytes), (1, 4096));
            let younger = arena.pin();
            let d = publish(4);
            assert_ne!(page(&d), b_at);
            drop(older);
            let e = publish(5);
            assert_eq!(page(&e), b_at, "the younger guard does not hold it");
            // Each of one thread's guards counts by itself.
            let e_at = page(&e);
            drop(e);
            let youngest = arena.pin();
            drop(youngest);
            let f = publish(6);
            assert_ne!(page(&f), e_at);
            drop(younger);
            assert_eq!(arena.stats().pending_blocks, 0);
            assert_eq!(page(&publish(7)), e_at);
            assert_eq!((call(&c), call(&d), call(&f)), (3, 4, 6));
        }
    }
}

#[test]
fn more_guards_than_there_are_slots() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let block = arena.publish(&asm::constant(1)).unwrap();
        let mut guards: Vec<_> = (0..1_000).map(|_| arena.pin()).collect();
        drop(block);
        while let Some(guard) = guards.pop() {
            assert_eq!(arena.stats().pending_blocks, 1);
            drop(guard);
        }
        assert_eq!(arena.stats().pending_blocks, 0);
    }
}

/// A thread that took a guard runs the code that it looked up, however soon other threads drop it
/// and publish in its place.
#[test]
fn guarded_threads_never_run_reused_space() {
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).capacity(64 << 10).poison(true).build().unwrap();
        // Addresses, as a runtime's table of functions holds them.
        let table: Vec<_> = (0..8).map(|_| AtomicUsize::new(0)).collect();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _ended = StopOnDrop(&stop);
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut turn = 0;
                    while !stop.load(Ordering::Relaxed) {
                        turn = (turn + 1) % table.len();
                        let guard = arena.pin();
                        let address = table[turn].load(Ordering::Acquire);
                        if address != 0 {
                            let hit = arena.lookup(std::ptr::without_provenance(address));
                            let got = call_at(std::ptr::without_provenance(address));
                            // A block that still exists has the tag of the code that ran.
                            assert!(hit.is_none_or(|hit| hit.tag == u64::from(got)), "{hit:?} ran as {got}");
                            assert_eq!(got as usize % table.len(), turn, "{mode:?}: ran another function");
                        }
                        drop(guard);
                    }
                });
            }
            let mut owned: Vec<Option<CodeBlock>> = (0..table.len()).map(|_| None).collect();
            for n in 0..often(6_000) as u32 {
                let turn = n as usize % table.len();
                table[turn].store(0, Ordering::Release);
                owned[turn] = None;
                let code = asm::constant(n);
                let block = publish_after_guards(&arena, Code::new(&code).tag(n.into()));
                table[turn].store(block.as_ptr().addr(), Ordering::Release);
                owned[turn] = Some(block);
            }
            stop.store(true, Ordering::Relaxed);
            for entry in &table {
                entry.store(0, Ordering::Release);
            }
        });
    }
}

#[test]
fn poisoned_space_traps() {
    for mode in modes() {
        let arena = small(mode).poison(true).build().unwrap();
        let keep = arena.publish(&asm::constant(1)).unwrap();
        let block = arena.publish(&asm::padded(2, 256)).unwrap();
        let address = block.as_ptr();
        if mode == WxMode::Flip && arena.stats().kernel_writes == 0 {
            continue;
        }
        drop(block);
        // SAFETY: the pages stay mapped as long as the arena, and the bytes are initialised.
        let bytes = unsafe { std::slice::from_raw_parts(address, 256) };
        assert!(bytes.chunks_exact(4).all(|chunk| chunk == &bytes[..4]), "not all of it was overwritten");
        if cfg!(any(target_arch = "x86", target_arch = "x86_64")) {
            assert_eq!(bytes, [0xcc; 256]);
        }
        assert_eq!(call(&keep), 1);
    }
}

/// Small functions wait for guards like large ones.
#[test]
fn small_functions_wait_for_guards_too() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let block = arena.publish(&asm::padded(1, 64)).unwrap();
        let address = block.as_ptr();
        let guard = arena.pin();
        drop(block);
        let others: Vec<_> = (0..50).map(|n| arena.publish(&asm::padded(n, 64)).unwrap()).collect();
        assert!(others.iter().all(|other| other.as_ptr() != address), "{mode:?}: reused under a guard");
        assert_eq!(arena.stats().pending_blocks, 1);
        drop(guard);
        assert_eq!(arena.stats().pending_blocks, 0);
    }
}

/// Many guards at one time leave nothing behind, and each counts.
#[test]
fn guards_of_many_ages_hold_back_what_was_dropped_after_them() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        // More ages than the arena distinguishes, and a block that is dropped in each of them.
        let mut guards = Vec::new();
        for n in 0..100 {
            guards.push(arena.pin());
            drop(arena.publish(&asm::constant(n)).unwrap());
        }
        assert_eq!(arena.stats().pending_blocks, 100);
        // The youngest guards end first, so that every block still has an older guard.
        guards.drain(1..).rev().for_each(drop);
        assert_eq!(arena.stats().pending_blocks, 100);
        guards.clear();
        assert_eq!(arena.stats().pending_blocks, 0);
        // Later guards and drops are as exact as at the beginning.
        let block = arena.publish(&asm::constant(1)).unwrap();
        let older = arena.pin();
        drop(block);
        let younger = arena.pin();
        drop(older);
        assert_eq!(arena.stats().pending_blocks, 0);
        drop(younger);
    }
}

/// A call reclaims a part of the waiting blocks. It reclaims all of them before it would fail, and
/// where figures have to be exact.
#[test]
fn what_waited_comes_back_in_parts_or_at_once() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let capacity = arena.capacity();
        let blocks = publish_all(&arena, (0..1_000).map(asm::constant));
        let guard = arena.pin();
        drop(blocks);
        drop(guard);
        // The whole capacity can be used at once, although far more blocks wait than one call
        // reclaims.
        let whole = arena.publish(&asm::padded(7, capacity)).unwrap();
        assert_eq!((call(&whole), arena.stats().pending_blocks), (7, 0), "{mode:?}");
    }
}

/// If every drop has to wait and few publications ask for space, the waiting blocks stay in
/// proportion to the live ones.
#[test]
fn blocks_that_waited_do_not_pile_up() {
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).capacity(8 << 20).build().unwrap();
        let mut guard = arena.pin();
        for _ in 0..often(40_000) {
            drop(arena.publish(&asm::constant(1)).unwrap());
            let next = arena.pin();
            drop(std::mem::replace(&mut guard, next));
        }
        // Before `stats` is called, which reclaims everything.
        let resident = arena.map().pages.iter().filter(|page| page.resident).count() * region::page::size();
        assert!(resident <= 256 << 10, "{mode:?}: {resident}");
    }
}
