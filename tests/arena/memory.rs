//! Tests of promises 6 and 7: all memory comes back, the number of mappings stays small, and a full
//! arena is really full.
//!
//! | What | How it is checked |
//! |---|---|
//! | drops in any order | `stats` has one hole of the whole capacity; a second `trim` returns 0 bytes |
//! | handles, batches and blocks that keep the region | they are dropped in six orders, and the block that is left runs |
//! | `trim`, new arenas, dropped batches, huge pages | the system's count of resident pages equals that of `stats` |
//! | mappings | they are counted after churn with 100,000 functions, and after many open batches |
//! | a full arena | the error has exact figures; one drop makes room; space on its way between threads is not missing |
//!
//! Tests that ask the system use `common::maps`. They exist on Linux, and some of them on Windows.
//! They print `NOT RUN` under a user-mode emulator, and if exact figures are impossible because
//! every program gets huge pages.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

#[cfg(target_os = "linux")]
use crate::common::LARGE;
#[cfg(target_os = "linux")]
use crate::common::maps::mappings;
#[cfg(any(target_os = "linux", windows))]
use crate::common::maps::resident;
use crate::common::{StopOnDrop, asm, call, fills_holes, modes, often, publish_all, small};
use gaia_jit::{Code, CodeArena, Error, WxMode};

/// Returns whether memory goes back while it is mapped. Memory of a section does not, nor memory
/// that other systems map twice.
fn gives_back(mode: WxMode) -> bool {
    mode == WxMode::Flip || cfg!(any(target_os = "linux", target_os = "android"))
}

/// Promise 6: after drops in any order all memory is back.
#[test]
fn all_memory_comes_back_in_any_order() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let capacity = arena.capacity();
        for seed in 0..6 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut blocks = publish_all(&arena, (0..500).map(|n| asm::padded(n, 100 + rng.usize(..1_500))));
            match seed {
                0 => blocks.reverse(),
                1 => {}
                _ => rng.shuffle(&mut blocks),
            }
            blocks.truncate(250);
            let middle = arena.stats();
            assert_eq!(middle.live_blocks, 250);
            drop(blocks);
            let stats = arena.stats();
            assert_eq!((stats.free_bytes, stats.largest_hole, stats.live_bytes), (capacity, capacity, 0));
            if gives_back(mode) {
                assert_eq!(arena.trim().unwrap(), stats.resident_bytes);
                assert_eq!(arena.stats().resident_bytes, 0);
            }
            assert_eq!(arena.trim().unwrap(), 0);
            assert_eq!(arena.stats().resident_bytes, if gives_back(mode) { 0 } else { stats.resident_bytes });
        }
    }
}

/// Handles, blocks and batches are dropped in every order. The memory lives as long as any of them.
#[test]
fn every_order_of_dropping_the_arena_and_its_blocks() {
    for mode in modes() {
        for order in 0..6 {
            let arena = small(mode).build().unwrap();
            let (clone, block) = (arena.clone(), arena.publish(&asm::constant(5)).unwrap());
            let mut batch = arena.batch();
            batch.push(&asm::constant(6)).unwrap();
            drop(arena);
            match order {
                0 => drop((clone, batch)),
                1 => drop((batch, clone)),
                2 => {
                    drop(clone);
                    assert_eq!(call(&batch.publish().unwrap()[0]), 6);
                }
                3 => {
                    let published = batch.publish().unwrap();
                    drop(clone);
                    assert_eq!(call(&published[0]), 6);
                }
                4 => drop(batch),
                _ => drop(clone),
            }
            assert_eq!(call(&block), 5);
        }
    }
}

/// The memory of trimmed pages is really returned, and live code stays.
#[test]
#[cfg(any(target_os = "linux", windows))]
fn trimmed_pages_hold_no_memory() {
    if !crate::common::own_kernel("trimmed_pages_hold_no_memory")
        || !crate::common::small_pages("trimmed_pages_hold_no_memory")
    {
        return;
    }
    let page = region::page::size();
    for mode in modes().filter(|&mode| gives_back(mode)) {
        let arena = CodeArena::builder().mode(mode).capacity(4 << 20).build().unwrap();
        let mut blocks = publish_all(&arena, (0..1_000).map(|n| asm::padded(n, 2_000)));
        let base = blocks.iter().map(|b| b.as_ptr().addr()).min().unwrap();
        let resident = || resident(base, 4 << 20);
        assert_eq!(resident(), arena.stats().resident_bytes, "{mode:?}");
        // Pages that a batch opened ahead and did not use hold no memory, and are not counted.
        let mut batch = arena.batch();
        for n in 0..700 {
            batch.push(&asm::padded(n, 1_000)).unwrap();
        }
        blocks.extend(batch.publish().unwrap());
        assert_eq!(resident(), arena.stats().resident_bytes, "{mode:?}");
        // A function that lies in one page.
        let index = (400..).find(|&n: &usize| blocks[n].as_ptr().addr() % page + 2_000 <= page).unwrap();
        let survivor = blocks.remove(index);
        drop(blocks);
        arena.trim().unwrap();
        assert_eq!((resident(), arena.stats().resident_bytes), (page, page), "{mode:?}");
        assert_eq!(call(&survivor), index as u32);
        drop(survivor);
        arena.trim().unwrap();
        assert_eq!(resident(), 0, "{mode:?}");
    }
}

/// Promise 7: the number of mappings does not grow with functions.
#[test]
#[cfg(target_os = "linux")]
fn mappings_stay_few_after_churn() {
    if !crate::common::own_kernel("mappings_stay_few_after_churn") {
        return;
    }
    for mode in modes() {
        // Where holes are not filled, pages wait until they are empty.
        let capacity = if fills_holes(mode) { 32 << 20 } else { LARGE };
        let arena = CodeArena::builder().mode(mode).capacity(capacity).build().unwrap();
        let mut rng = fastrand::Rng::with_seed(3);
        let mut blocks = Vec::new();
        let first = arena.publish(&asm::constant(0)).unwrap();
        let (most, kept) = (often(100_000), often(30_000));
        // 100,000 live functions, published in batches of all sizes and one by one, dropped at
        // random, and again.
        for round in 0..3 {
            while blocks.len() < most {
                let mut batch = arena.batch();
                for _ in 0..rng.usize(1..3_000) {
                    batch.push(&asm::padded(1, rng.usize(16..600))).unwrap();
                }
                blocks.extend(batch.publish().unwrap());
            }
            let count = mappings(first.as_ptr().addr() & !0xfff, capacity).len();
            assert!(count <= 64, "{mode:?}, round {round}: {count} mappings");
            rng.shuffle(&mut blocks);
            blocks.truncate(kept);
            arena.trim().unwrap();
        }
    }
}

/// Batches that are open at the same time, each in pages of its own, leave no further mappings.
#[test]
#[cfg(target_os = "linux")]
fn mappings_merge_again_after_many_open_batches() {
    if !crate::common::own_kernel("mappings_merge_again_after_many_open_batches") {
        return;
    }
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).capacity(LARGE).build().unwrap();
        let first = arena.publish(&asm::constant(0)).unwrap();
        let mut batches: Vec<_> = (0..LARGE / (2 << 20) - 2).map(|_| arena.batch()).collect();
        for (n, batch) in (0..).zip(&mut batches) {
            batch.reserve(if n == 0 { 2 << 20 } else { 128 << 10 }, 2 << 20).unwrap();
        }
        for batch in batches.drain(..).rev() {
            drop(batch.publish().unwrap());
        }
        let count = mappings(first.as_ptr().addr() & !0xfff, LARGE).len();
        assert!(count <= 4, "{mode:?}: {count} mappings");
        arena.trim().unwrap();
        assert_eq!(call(&first), 0);
    }
}

/// Huge pages include memory without code. It is returned as well.
#[test]
#[cfg(target_os = "linux")]
fn trim_takes_huge_pages_whole() {
    if !crate::common::own_kernel("trim_takes_huge_pages_whole") {
        return;
    }
    let page = region::page::size();
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).capacity(8 << 20).huge_pages(true).build().unwrap();
        let count = 600.min((6 << 20) / page as u32);
        let blocks: Vec<_> = (0..count).map(|n| arena.publish(&asm::padded(n, page)).unwrap()).collect();
        let base = blocks[0].as_ptr().addr() & !((2 << 20) - 1);
        drop(blocks);
        arena.trim().unwrap();
        assert_eq!((resident(base, 8 << 20), arena.stats().resident_bytes), (0, 0), "{mode:?}");
    }
}

/// A full arena is an error with figures. Dropping something makes room.
#[test]
fn a_full_arena_says_so_and_recovers() {
    for mode in modes().filter(|&mode| fills_holes(mode)) {
        let arena = small(mode).build().unwrap();
        for _ in 0..3 {
            let mut blocks = Vec::new();
            let (asked, free, largest) = loop {
                match arena.publish(&asm::padded(1, 3_000)) {
                    Ok(block) => blocks.push(block),
                    Err(Error::ArenaFull { asked, free, largest_hole, .. }) => break (asked, free, largest_hole),
                    Err(other) => panic!("{other}"),
                }
            };
            assert_eq!((asked, blocks.len()), (3_008, (1 << 20) / 3_008));
            assert_eq!((free, largest), ((1 << 20) % 3_008, (1 << 20) % 3_008));
            let freed = blocks.swap_remove(7).as_ptr();
            let again = arena.publish(&asm::padded(2, 3_000)).unwrap();
            assert_eq!((again.as_ptr(), call(&again)), (freed, 2));
        }
    }
}

/// Space that is in flight for a moment, to be overwritten or trimmed, is not missing.
#[test]
fn an_arena_is_not_full_while_others_look_after_its_space() {
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).capacity(64 << 10).poison(true).build().unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _ended = StopOnDrop(&stop);
            for trims in [false, true] {
                let (arena, stop) = (&arena, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        if trims {
                            arena.trim().unwrap();
                        } else {
                            let _ = arena.stats();
                        }
                        // These threads compete for space. They must not keep the lock to
                        // themselves.
                        thread::yield_now();
                    }
                });
            }
            for n in 0..1_000 {
                let guard = arena.pin();
                let block =
                    arena.publish(&asm::padded(1, 60_000)).unwrap_or_else(|error| panic!("{mode:?} {n}: {error}"));
                drop(block);
                drop(guard);
            }
        });
    }
}

/// One place is always free: in flight with the thread that dropped it, waiting, or in a heap.
#[test]
fn an_arena_is_not_full_while_space_changes_hands() {
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).capacity(4096).build().unwrap();
        if !arena.stats().fills_holes || arena.capacity() != 4096 {
            continue;
        }
        let code = asm::padded(1, 1_024);
        let kept = [arena.publish(&code).unwrap(), arena.publish(&code).unwrap()];
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _ended = StopOnDrop(&stop);
            scope.spawn(|| {
                let mut held = None;
                while !stop.load(Ordering::Relaxed) {
                    drop(held.take());
                    held = arena.publish(Code::new(&code).align(32)).ok();
                }
            });
            let rounds = often(if mode == WxMode::Flip { 10_000 } else { 100_000 });
            for _ in 0..rounds {
                drop(arena.publish(Code::new(&code).align(32)).expect("one place is always free"));
            }
        });
        assert_eq!((call(&kept[0]), call(&kept[1])), (1, 1));
    }
}

/// A batch that is given up leaves memory, which is returned like that of dropped code.
#[test]
#[cfg(any(target_os = "linux", windows))]
fn a_dropped_batch_leaves_no_memory_behind() {
    if !crate::common::own_kernel("a_dropped_batch_leaves_no_memory_behind")
        || !crate::common::small_pages("a_dropped_batch_leaves_no_memory_behind")
    {
        return;
    }
    for mode in modes().filter(|&mode| gives_back(mode)) {
        let arena = CodeArena::builder().mode(mode).capacity(4 << 20).build().unwrap();
        let first = arena.publish(&asm::constant(1)).unwrap();
        let base = first.as_ptr().addr() & !(region::page::size() - 1);
        let before = resident(base, 4 << 20);
        let mut batch = arena.batch();
        for n in 0..1_000 {
            batch.push(&asm::padded(n, 2_000)).unwrap();
        }
        drop(batch);
        let with_it = resident(base, 4 << 20);
        // Bytes that were to be written through the kernel, and were not, do not count.
        assert_eq!(arena.stats().resident_bytes, with_it, "{mode:?}");
        assert!(arena.trim().unwrap() >= with_it - before, "{mode:?}");
        assert_eq!(resident(base, 4 << 20), before, "{mode:?}");
        assert_eq!(call(&first), 1);
    }
}

/// Trying a mode leaves nothing behind, huge pages included.
#[test]
#[cfg(target_os = "linux")]
fn a_new_arena_holds_no_memory() {
    if !crate::common::own_kernel("a_new_arena_holds_no_memory") {
        return;
    }
    for mode in modes() {
        for huge in [false, true] {
            let arena = CodeArena::builder().mode(mode).capacity(8 << 20).huge_pages(huge).build().unwrap();
            let mut batch = arena.batch();
            let slot = batch.reserve(16, 16).unwrap();
            let base = batch.address(slot).addr();
            assert_eq!(base % (2 << 20), 0);
            // The reserved space may hold a page.
            assert!(resident(base, 8 << 20) <= region::page::size(), "{mode:?}, huge {huge}");
        }
    }
}

/// Pages that a batch has open cannot be moved into huge pages, and do not keep others from it.
#[test]
#[cfg(target_os = "linux")]
fn an_open_batch_does_not_keep_others_from_huge_pages() {
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).capacity(16 << 20).build().unwrap();
        let blocks: Vec<_> = (0..80).map(|n| arena.publish(&asm::padded(n, 100_000)).unwrap()).collect();
        let Ok(closed) = arena.collapse() else { continue };
        assert!(closed >= 4 << 20, "{mode:?}: {closed}");
        let mut batch = arena.batch();
        for n in 0..3 {
            batch.push(&asm::padded(n, 80_000)).unwrap();
        }
        let open = arena.collapse().unwrap();
        assert!(open + (4 << 20) >= closed && open > 0, "{mode:?}: {open} of {closed}");
        drop(batch);
        assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n));
    }
}
