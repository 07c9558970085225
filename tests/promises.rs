//! The promises, one by one, in every mode.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread;

use common::{asm, call, call_at, modes, small};
use gaia_jit::{Code, CodeArena, CodeBlock, Error, WxMode};

/// Mappings of this process that lie in `[start, start + len)`, as their permissions.
#[cfg(target_os = "linux")]
fn mappings(start: usize, len: usize) -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let parse = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (from, to) = range.split_once('-')?;
        let (from, to) = (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
        (from < start + len && to > start).then(|| rest[..4].to_string())
    };
    maps.lines().filter_map(parse).collect()
}

/// Bytes of memory behind `len` bytes at `base`.
#[cfg(target_os = "linux")]
fn resident(base: usize, len: usize) -> usize {
    let page = region::page::size();
    let mut pages = vec![0u8; len / page];
    // SAFETY: the arena's address space is mapped, and there is a byte for each page.
    let got = unsafe { libc::mincore(std::ptr::without_provenance_mut(base), len, pages.as_mut_ptr()) };
    assert_eq!(got, 0);
    pages.iter().filter(|page| **page & 1 == 1).count() * page
}

/// Promise 1: never writable and executable at once, whatever is going on.
#[test]
#[cfg(target_os = "linux")]
fn no_page_is_ever_writable_and_executable() {
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).capacity(8 << 20).build().unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..60 {
                    let mut batch = arena.batch();
                    for n in 0..400 {
                        batch.push(&asm::padded(n, 300)).unwrap();
                    }
                    let blocks = batch.publish().unwrap();
                    let single = arena.publish(&asm::constant(round)).unwrap();
                    drop(blocks);
                    arena.trim().unwrap();
                    drop(single);
                }
                stop.store(true, Ordering::Relaxed);
            });
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for permissions in mappings(0, usize::MAX / 2) {
                        assert!(!permissions.starts_with("rwx"), "{mode:?}: {permissions}");
                    }
                }
            });
        });
    }
}

/// The writable view of a dual mapping is elsewhere, and nowhere executable.
#[test]
#[cfg(target_os = "linux")]
fn live_code_is_readable_and_executable_only() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let block = arena.publish(&asm::constant(1)).unwrap();
        let permissions = mappings(block.as_ptr().addr(), 1);
        assert_eq!(permissions.len(), 1);
        assert_eq!(&permissions[0][..3], "r-x", "{mode:?}");
    }
}

/// Promise 2: code runs in the very pages in which others publish, drop, patch and trim.
#[test]
fn neighbours_keep_running() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let spin = arena.publish(&asm::spin()).unwrap();
        let calls = [arena.publish(&asm::constant(1)).unwrap(), arena.publish(&asm::constant(2)).unwrap()];
        // SAFETY: the code is of this type, and the block outlives the threads.
        let spin_fn = unsafe { spin.as_fn::<extern "C" fn(*const u32) -> u32>() };
        let flag = AtomicU32::new(0);
        let stop = AtomicBool::new(false);
        let rounds = AtomicUsize::new(0);
        thread::scope(|scope| {
            let spinner = scope.spawn(|| spin_fn(flag.as_ptr()));
            let caller = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!((call(&calls[0]), call(&calls[1])), (1, 2));
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
            let mut neighbours = Vec::new();
            for n in 0..300 {
                neighbours.push(arena.publish(&asm::constant(n)).unwrap());
                let mut batch = arena.batch();
                for _ in 0..n {
                    batch.push(&asm::padded(n, 250)).unwrap();
                }
                let mut blocks = batch.publish().unwrap();
                assert!(blocks.iter().all(|block| call(block) == n));
                blocks.truncate(1);
                neighbours.extend(blocks);
                if n % 7 == 0 {
                    neighbours.drain(..neighbours.len() / 2);
                    arena.trim().unwrap();
                }
            }
            while rounds.load(Ordering::Relaxed) < 100 {
                thread::yield_now();
            }
            flag.store(77, Ordering::Release);
            stop.store(true, Ordering::Relaxed);
            assert_eq!(spinner.join().unwrap(), 77);
            caller.join().unwrap();
        });
    }
}

/// Promise 3, from outside: a batch that does not fit leaves everything as it was.
#[test]
fn a_batch_is_all_or_nothing() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let old: Vec<CodeBlock> = (0..50).map(|n| arena.publish(&asm::padded(n, 1_000)).unwrap()).collect();
        let before = arena.stats();
        let mut batch = arena.batch();
        let error = loop {
            if let Err(error) = batch.push(&asm::padded(9, 5_000)) {
                break error;
            }
        };
        assert!(matches!(error, Error::ArenaFull { .. }), "{error}");
        // The batch is still good for what it holds.
        let small = batch.push(&asm::constant(3));
        let held = batch.len();
        assert!(small.is_err() || held > 100);
        drop(batch);
        let after = arena.stats();
        assert_eq!(
            (after.live_blocks, after.live_bytes, after.free_bytes, after.largest_hole),
            (before.live_blocks, before.live_bytes, before.free_bytes, before.largest_hole)
        );
        for (n, block) in (0..).zip(&old) {
            assert_eq!((call(block), block.as_bytes()), (n, &asm::padded(n, 1_000)[..]));
        }
    }
}

/// Promise 4: an address that is used again runs the new bytes, on the thread that publishes and on others.
#[test]
fn reused_addresses_run_the_new_code() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let (to, from) = std::sync::mpsc::sync_channel::<(usize, u32)>(0);
        let (done, finished) = std::sync::mpsc::sync_channel::<()>(0);
        thread::scope(|scope| {
            scope.spawn(move || {
                for (address, expected) in from {
                    assert_eq!(call_at(std::ptr::without_provenance(address)), expected, "{mode:?}");
                    done.send(()).unwrap();
                }
            });
            let mut addresses = std::collections::BTreeSet::new();
            for n in 0..2_000 {
                let block = arena.publish(&asm::constant(n)).unwrap();
                addresses.insert(block.as_ptr());
                assert_eq!(call(&block), n);
                to.send((block.as_ptr().addr(), n)).unwrap();
                finished.recv().unwrap();
            }
            drop(to);
            assert_eq!(addresses.len(), usize::from(arena.stats().flips < 1_000).max(1), "one address, reused");
        });
    }
}

/// Promise 5, in both directions.
#[test]
fn guards_hold_back_just_what_was_dropped_after_them() {
    for mode in modes() {
        for poison in [false, true] {
            let arena = small(mode).poison(poison).build().unwrap();
            let publish = |n| arena.publish(&asm::padded(n, 4096)).unwrap();
            let page = |block: &CodeBlock| block.as_ptr().addr();
            // Without a guard the space serves the next allocation.
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
            // Of one thread's guards each counts by itself.
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

/// A thread that took a guard runs what it looked up, however soon others drop it and publish over it.
#[test]
fn guarded_threads_never_run_reused_space() {
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).capacity(64 << 10).poison(true).build().unwrap();
        // Addresses, as a runtime's table of functions holds them.
        let table: Vec<_> = (0..8).map(|_| AtomicUsize::new(0)).collect();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
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
                            // A block that is still there has the tag of what ran.
                            assert!(hit.is_none_or(|hit| hit.tag == u64::from(got)), "{hit:?} ran as {got}");
                            assert_eq!(got as usize % table.len(), turn, "{mode:?}: ran another function");
                        }
                        drop(guard);
                    }
                });
            }
            let mut owned: Vec<Option<CodeBlock>> = (0..table.len()).map(|_| None).collect();
            for n in 0..6_000u32 {
                let turn = n as usize % table.len();
                table[turn].store(0, Ordering::Release);
                owned[turn] = None;
                let block = loop {
                    match arena.publish(Code::new(&asm::constant(n)).tag(n.into())) {
                        // Threads that stand still under a guard hold back space.
                        Err(Error::ArenaFull { .. }) => thread::yield_now(),
                        published => break published.unwrap(),
                    }
                };
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

/// Promise 6: any order of drops, and all memory is back.
#[test]
fn all_memory_comes_back_in_any_order() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let capacity = arena.capacity();
        for seed in 0..6 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut blocks: Vec<_> =
                (0..500).map(|n| arena.publish(&asm::padded(n, 100 + rng.usize(..1_500))).unwrap()).collect();
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
            assert_eq!(arena.trim().unwrap(), stats.resident_bytes);
            assert_eq!(arena.stats().resident_bytes, 0);
            assert_eq!(arena.trim().unwrap(), 0);
        }
    }
}

/// Handles, blocks and batches in every order; the memory lives as long as any of them.
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

/// The memory of trimmed pages is really gone, and what is live stays.
#[test]
#[cfg(target_os = "linux")]
fn trimmed_pages_hold_no_memory() {
    let page = region::page::size();
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).capacity(4 << 20).build().unwrap();
        let mut blocks: Vec<_> = (0..1_000).map(|n| arena.publish(&asm::padded(n, 2_000)).unwrap()).collect();
        let base = blocks.iter().map(|b| b.as_ptr().addr()).min().unwrap();
        let resident = || resident(base, 4 << 20);
        assert_eq!(resident(), arena.stats().resident_bytes, "{mode:?}");
        // What a batch opened ahead and did not use holds no memory, and is not counted.
        let mut batch = arena.batch();
        for n in 0..700 {
            batch.push(&asm::padded(n, 1_000)).unwrap();
        }
        blocks.extend(batch.publish().unwrap());
        assert_eq!(resident(), arena.stats().resident_bytes, "{mode:?}");
        let survivor = blocks.remove(500);
        drop(blocks);
        arena.trim().unwrap();
        assert_eq!((resident(), arena.stats().resident_bytes), (page, page), "{mode:?}");
        assert_eq!(call(&survivor), 500);
        drop(survivor);
        arena.trim().unwrap();
        assert_eq!(resident(), 0, "{mode:?}");
    }
}

/// Promise 7: mappings do not grow with functions.
#[test]
#[cfg(target_os = "linux")]
fn mappings_stay_few_after_churn() {
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).capacity(64 << 20).build().unwrap();
        let mut rng = fastrand::Rng::with_seed(3);
        let mut blocks = Vec::new();
        let first = arena.publish(&asm::constant(0)).unwrap();
        // 100,000 live functions, published in batches of all sizes and one by one, dropped at random, and again.
        for round in 0..3 {
            while blocks.len() < 100_000 {
                let mut batch = arena.batch();
                for _ in 0..rng.usize(1..3_000) {
                    batch.push(&asm::padded(1, rng.usize(16..600))).unwrap();
                }
                blocks.extend(batch.publish().unwrap());
            }
            let count = mappings(first.as_ptr().addr() & !0xfff, 64 << 20).len();
            assert!(count <= 64, "{mode:?}, round {round}: {count} mappings");
            rng.shuffle(&mut blocks);
            blocks.truncate(30_000);
            arena.trim().unwrap();
        }
    }
}

/// Batches that are open at one time, each in pages of its own, leave no trace in the memory map.
#[test]
#[cfg(target_os = "linux")]
fn mappings_merge_again_after_many_open_batches() {
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).capacity(64 << 20).build().unwrap();
        let first = arena.publish(&asm::constant(0)).unwrap();
        let mut batches: Vec<_> = (0..30).map(|_| arena.batch()).collect();
        for (n, batch) in (0..).zip(&mut batches) {
            batch.reserve(if n == 0 { 2 << 20 } else { 128 << 10 }, 2 << 20).unwrap();
        }
        for batch in batches.drain(..).rev() {
            drop(batch.publish().unwrap());
        }
        let count = mappings(first.as_ptr().addr() & !0xfff, 64 << 20).len();
        assert!(count <= 4, "{mode:?}: {count} mappings");
        arena.trim().unwrap();
        assert_eq!(call(&first), 0);
    }
}

/// Huge pages bring memory with them that no code was placed in; that goes back as well.
#[test]
#[cfg(target_os = "linux")]
fn trim_takes_huge_pages_whole() {
    let page = region::page::size();
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).capacity(8 << 20).huge_pages(true).build().unwrap();
        let blocks: Vec<_> = (0..600).map(|n| arena.publish(&asm::padded(n, page)).unwrap()).collect();
        let base = blocks[0].as_ptr().addr() & !((2 << 20) - 1);
        drop(blocks);
        arena.trim().unwrap();
        assert_eq!((resident(base, 8 << 20), arena.stats().resident_bytes), (0, 0), "{mode:?}");
    }
}

/// Protection changes, flushes and writes go by batch.
#[test]
fn calls_go_by_batch() {
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).capacity(32 << 20).build().unwrap();
        let before = arena.stats();
        let mut batch = arena.batch();
        for _ in 0..10_000 {
            batch.push(&asm::padded(1, 512)).unwrap();
        }
        let blocks = batch.publish().unwrap();
        let after = arena.stats();
        assert!(after.flips - before.flips <= 32, "{after}");
        assert!(after.kernel_writes - before.kernel_writes <= 4, "{after}");
        assert!(after.barriers - before.barriers <= 1, "{after}");
        assert_eq!(after.flushed_bytes - before.flushed_bytes, 10_000 * 512);
        drop(blocks);
        assert_eq!(arena.stats().flips, after.flips, "drops flip nothing");
    }
}

/// Promise 8: the far ends of an arena reach each other with a direct branch.
#[test]
fn all_code_is_in_branch_range_of_all_other() {
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).build().unwrap();
        let mut batch = arena.batch();
        let low = batch.reserve(asm::tail_len(), 16).unwrap();
        let middle = batch.reserve(arena.capacity() - (8 << 20), 16).unwrap();
        // Too large for what is left between the first and the middle.
        let high = batch.push(&asm::padded(8, 2 << 20)).unwrap();
        assert!(batch.address(low) < batch.address(middle) && batch.address(middle) < batch.address(high));
        let code = asm::tail_call(batch.address(low), batch.address(high));
        batch.bytes_mut(low).copy_from_slice(&code);
        let blocks = batch.publish().unwrap();
        let distance = blocks[2].as_ptr().addr().abs_diff(blocks[0].as_ptr().addr());
        assert!(distance >= arena.capacity() - (8 << 20), "{mode:?}");
        assert_eq!(call(&blocks[0]), 8);
    }
}

/// Promise 9: from every byte of every block, and from none between.
#[test]
fn lookup_finds_every_byte() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let mut rng = fastrand::Rng::with_seed(11);
        let mut blocks = Vec::new();
        // Many to a bin, one over many bins, and everything in between.
        for n in 0..600u32 {
            let len = match n % 10 {
                0 => rng.usize(16..40_000),
                1..5 => rng.usize(16..600),
                _ => 16,
            };
            if let Ok(block) = arena.publish(Code::new(&asm::padded(n, len)).tag(n.into())) {
                blocks.push(block);
            }
            if n % 3 == 0 && !blocks.is_empty() {
                let gone = blocks.swap_remove(rng.usize(..blocks.len()));
                let address = gone.as_ptr();
                drop(gone);
                assert!(arena.lookup(address).is_none());
            }
        }
        for block in &blocks {
            for offset in 0..block.len() {
                let hit = arena.lookup(block.as_ptr().wrapping_add(offset)).expect("a live byte");
                assert_eq!((hit.start, hit.len, hit.tag), (block.as_ptr(), block.len(), block.tag()));
            }
            let behind = arena.lookup(block.as_ptr().wrapping_add(block.len()));
            assert!(behind.is_none_or(|hit| hit.start == block.as_ptr().wrapping_add(block.len())));
        }
        let base = blocks.iter().map(CodeBlock::as_ptr).min().unwrap();
        let ranges: Vec<_> = blocks.iter().map(|b| b.as_ptr().addr()..b.as_ptr().addr() + b.len()).collect();
        for offset in (0..arena.capacity()).step_by(7) {
            let address = base.wrapping_add(offset);
            let expected = ranges.iter().any(|range| range.contains(&address.addr()));
            assert_eq!(arena.lookup(address).is_some(), expected);
        }
        for outside in [std::ptr::null(), std::ptr::without_provenance(usize::MAX), base.wrapping_sub(1)] {
            assert!(arena.lookup(outside).is_none());
        }
    }
}

/// Lookups that race with publishing and dropping never answer wrongly about a block that is live all along.
#[test]
fn lookup_is_right_while_others_publish_and_drop() {
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).capacity(64 << 10).build().unwrap();
        let fixed: Vec<_> =
            (0..40).map(|n| arena.publish(Code::new(&asm::padded(n, 200)).tag(n.into())).unwrap()).collect();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut rng = fastrand::Rng::with_seed(1);
                let mut come_and_go = Vec::new();
                for n in 0..20_000u64 {
                    let len = rng.usize(16..300);
                    if let Ok(block) = arena.publish(Code::new(&asm::padded(1, len)).tag(n << 32 | len as u64)) {
                        come_and_go.push(block);
                    }
                    if come_and_go.len() > 100 || rng.u8(..) == 0 {
                        come_and_go.swap_remove(rng.usize(..come_and_go.len()));
                    }
                }
                stop.store(true, Ordering::Relaxed);
            });
            let mut rng = fastrand::Rng::with_seed(2);
            let base = fixed[0].as_ptr().addr() & !0xfff;
            while !stop.load(Ordering::Relaxed) {
                let block = &fixed[rng.usize(..fixed.len())];
                let hit = arena.lookup(block.as_ptr().wrapping_add(rng.usize(..block.len()))).expect("live all along");
                assert_eq!((hit.start, hit.len, hit.tag), (block.as_ptr(), 200, block.tag()));
                // Of one that comes and goes, length and tag belong together.
                let any = arena.lookup(std::ptr::without_provenance(base + rng.usize(..64 << 10)));
                assert!(any.is_none_or(|hit| hit.tag < 40 || hit.tag as u32 as usize == hit.len));
            }
        });
    }
}

/// One slot of the tables is used again and again: what is found is of one block, not half of two.
#[test]
fn lookup_never_mixes_two_blocks() {
    let arena = small(WxMode::DualMap).build().or_else(|_| small(WxMode::Flip).build()).unwrap();
    let address = AtomicUsize::new(0);
    let (mut hits, mut misses) = (0u64, 0u64);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..400_000usize {
                let len = 17 + n % 16;
                let block = arena.publish(Code::new(&[0; 32][..len]).tag(len as u64)).unwrap();
                let before = address.swap(block.as_ptr().addr(), Ordering::Relaxed);
                assert!(before == 0 || before == block.as_ptr().addr(), "the same place, the same slot");
            }
        });
        while !writer.is_finished() {
            let address = address.load(Ordering::Relaxed);
            match arena.lookup(std::ptr::without_provenance(address)) {
                Some(hit) => {
                    assert_eq!((hit.start.addr(), hit.len as u64), (address, hit.tag));
                    hits += 1;
                }
                None => misses += 1,
            }
        }
    });
    assert!(hits > 0 && misses > 0, "{hits} hits, {misses} misses");
}

/// Exhaustion is an error with figures, and dropping something is the way out of it.
#[test]
fn a_full_arena_says_so_and_recovers() {
    for mode in modes() {
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
        // SAFETY: the pages stay mapped as long as the arena; the bytes are initialised.
        let bytes = unsafe { std::slice::from_raw_parts(address, 256) };
        assert!(bytes.chunks_exact(4).all(|chunk| chunk == &bytes[..4]), "not all of it was overwritten");
        if cfg!(any(target_arch = "x86", target_arch = "x86_64")) {
            assert_eq!(bytes, [0xcc; 256]);
        }
        assert_eq!(call(&keep), 1);
    }
}

/// Two threads publish and drop at once; all adds up, and every function returns its own number.
#[test]
fn threads_publish_and_drop_at_once() {
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).capacity(4 << 20).build().unwrap();
        thread::scope(|scope| {
            for seed in 0..4 {
                let arena = arena.clone();
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    let mut mine: Vec<(CodeBlock, u32)> = Vec::new();
                    for step in 0..600 {
                        let n = rng.u32(..32_768);
                        match step % 5 {
                            0 => {
                                let mut batch = arena.batch();
                                let count = rng.u32(1..60);
                                for _ in 0..count {
                                    batch.push(&asm::padded(n, rng.usize(16..900))).unwrap();
                                }
                                mine.extend(batch.publish().unwrap().into_iter().map(|block| (block, n)));
                            }
                            1 if step % 50 == 1 => drop(arena.trim().unwrap()),
                            _ => mine.push((arena.publish(&asm::padded(n, rng.usize(16..900))).unwrap(), n)),
                        }
                        while mine.len() > 500 {
                            let (block, n) = mine.swap_remove(rng.usize(..mine.len()));
                            assert_eq!(call(&block), n);
                        }
                    }
                    for (block, n) in &mine {
                        assert_eq!(call(block), *n);
                    }
                });
            }
        });
        let stats = arena.stats();
        assert_eq!((stats.live_blocks, stats.free_bytes, stats.largest_hole), (0, 4 << 20, 4 << 20), "{mode:?}");
    }
}

/// An observer that panics takes nothing with it: blocks that were to be returned are retired.
#[test]
fn a_panicking_observer_leaks_nothing() {
    struct Panics(AtomicBool);
    impl gaia_jit::Observer for Panics {
        fn published(&self, _: &gaia_jit::BlockInfo, _: Option<&str>) {
            assert!(!self.0.load(Ordering::Relaxed), "as asked for");
        }

        fn retired(&self, _: &gaia_jit::BlockInfo) {
            assert!(!self.0.load(Ordering::Relaxed) || thread::panicking(), "as asked for");
        }
    }
    for mode in modes() {
        let observer = std::sync::Arc::new(Panics(AtomicBool::new(false)));
        let arena = small(mode).observer(observer.clone()).build().unwrap();
        let block = arena.publish(&asm::constant(1)).unwrap();
        let quietly = |body: &mut dyn FnMut()| {
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err());
        };
        observer.0.store(true, Ordering::Relaxed);
        quietly(&mut || drop(arena.publish(&asm::constant(2))));
        let mut batch = Some(arena.batch());
        for n in 0..10 {
            batch.as_mut().unwrap().push(&asm::constant(n)).unwrap();
        }
        quietly(&mut || drop(batch.take().unwrap().publish()));
        let mut block = Some(block);
        quietly(&mut || drop(block.take()));
        observer.0.store(false, Ordering::Relaxed);
        let stats = arena.stats();
        assert_eq!((stats.live_blocks, stats.free_bytes, stats.largest_hole), (0, 1 << 20, 1 << 20), "{mode:?}");
    }
}

/// Space that is held aside for a moment, to be overwritten or trimmed, is not missing.
#[test]
fn an_arena_is_not_full_while_others_look_after_its_space() {
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).capacity(64 << 10).poison(true).build().unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for trims in [false, true] {
                let (arena, stop) = (&arena, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        if trims {
                            arena.trim().unwrap();
                        } else {
                            let _ = arena.stats();
                        }
                    }
                });
            }
            for n in 0..4_000 {
                let guard = arena.pin();
                let block =
                    arena.publish(&asm::padded(1, 60_000)).unwrap_or_else(|error| panic!("{mode:?} {n}: {error}"));
                drop(block);
                drop(guard);
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}

/// Moved into huge pages, code is the same code at the same place, also for a thread that runs it meanwhile.
#[test]
#[cfg(target_os = "linux")]
fn code_runs_on_while_it_moves_into_huge_pages() {
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).capacity(8 << 20).huge_pages(true).build().unwrap();
        let mut blocks = Vec::new();
        for _ in 0..8 {
            let mut batch = arena.batch();
            for n in 0..1_000 {
                batch.push(&asm::padded(n, 600)).unwrap();
            }
            blocks.extend(batch.publish().unwrap());
        }
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for (n, block) in (0..).zip(&blocks) {
                        assert_eq!(call(block), n % 1_000);
                    }
                }
            });
            match arena.collapse() {
                Ok(bytes) => assert!((2 << 20..=6 << 20).contains(&bytes), "{bytes}"),
                Err(Error::OperatingSystem { call: "madvise", .. }) => eprintln!("no huge pages here"),
                Err(other) => panic!("{other}"),
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n % 1_000));
        assert_eq!(arena.publish(&asm::constant(3)).map(|block| call(&block)).unwrap(), 3);
        drop(blocks);
        arena.trim().unwrap();
        assert_eq!(arena.stats().resident_bytes, 0);
    }
}

/// One place is always free, wherever it lies at the moment: with the one who dropped it, on a shelf, or in the books.
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
            scope.spawn(|| {
                let mut held = None;
                while !stop.load(Ordering::Relaxed) {
                    drop(held.take());
                    held = arena.publish(Code::new(&code).align(32)).ok();
                }
            });
            let rounds = if mode == WxMode::Flip { 10_000 } else { 100_000 };
            for _ in 0..rounds {
                drop(arena.publish(Code::new(&code).align(32)).expect("one place is always free"));
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!((call(&kept[0]), call(&kept[1])), (1, 1));
    }
}
