//! Tests of the promises without a file of their own: W^X, neighbours, atomicity, coherence, reach,
//! costs by batch.
//!
//! | Promise | How it is checked |
//! |---|---|
//! | 1: W^X | a thread reads the list of mappings again and again while another publishes (Linux and Windows) |
//! | 2: neighbours | two threads run functions in the pages in which a third publishes, drops and trims |
//! | 3: atomicity | a batch that does not fit leaves the figures and the bytes of older blocks unchanged |
//! | 4: coherence | an address that is used again is called on two threads |
//! | 7: costs | `stats` counts flips, kernel writes, barriers and flushed bytes of a batch of 10,000 |
//! | 8: reach | a direct branch leads from one end of an arena of the default size to the other |
//!
//! Further tests are about threads that publish at once, observers that panic, huge pages, and
//! `serialize_cores`, which prints `NOT RUN` if it is refused. The search for `rwx` mappings runs
//! in a child process, because `PerThread` arenas of other tests are listed as `rwx`.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread;

use crate::common::{self, StopOnDrop, asm, call, call_at, modes, often, small};
#[cfg(any(target_os = "linux", windows))]
use crate::common::{child, maps::mappings};
#[cfg(any(target_os = "linux", windows))]
use gaia_jit::WxMode;
use gaia_jit::{CodeArena, CodeBlock, Error};

/// Promise 1: no page is writable and executable at once, at any moment.
#[test]
#[cfg(any(target_os = "linux", windows))]
fn no_page_is_ever_writable_and_executable() {
    // In a process of its own, because other tests may use keys. With keys, the mapping does not
    // decide who may write.
    child::run("no_page_is_ever_writable_and_executable", || {
        for mode in modes().filter(|&mode| mode != WxMode::PerThread) {
            let arena = CodeArena::builder().mode(mode).capacity(8 << 20).build().unwrap();
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let _ended = StopOnDrop(&stop);
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
                });
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        for permissions in mappings(0, usize::MAX) {
                            assert!(!permissions.starts_with("rwx"), "{mode:?}: {permissions}");
                        }
                    }
                });
            });
        }
    });
}

/// The writable view of a dual mapping is elsewhere, and is not executable.
#[test]
#[cfg(any(target_os = "linux", windows))]
fn live_code_is_readable_and_executable_only() {
    for mode in modes().filter(|&mode| mode != WxMode::PerThread) {
        let arena = small(mode).build().unwrap();
        let block = arena.publish(&asm::constant(1)).unwrap();
        let permissions = mappings(block.as_ptr().addr(), 1);
        assert_eq!(permissions.len(), 1);
        assert_eq!(&permissions[0][..3], "r-x", "{mode:?}");
    }
}

/// Lets a function that spins return, also after a panic.
struct Leave<'a>(&'a AtomicU32);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.store(77, Ordering::Release);
    }
}

/// Promise 2: code runs in the same pages in which other threads publish, drop, patch and trim.
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
            let ended = (StopOnDrop(&stop), Leave(&flag));
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
            drop(ended);
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
        // The batch still holds its earlier functions.
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
            assert_eq!((call(block), &block.as_bytes()[..]), (n, &asm::padded(n, 1_000)[..]));
        }
    }
}

/// Promise 4: an address that is used again runs the new bytes, on the thread that publishes and on
/// others.
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
            for n in 0..often(2_000) as u32 {
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

/// Changes of protection, flushes and writes happen once for each batch.
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
        // Too large for the space between the first and the middle.
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

/// Two threads publish and drop at once. All figures add up, and every function returns its own
/// number.
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

/// If an observer panics, nothing is lost: the blocks that were to be returned are retired.
#[test]
fn a_panicking_observer_leaks_nothing() {
    struct Panics(AtomicBool);
    impl gaia_jit::Observer for Panics {
        fn published(&self, _: &[gaia_jit::Published<'_>]) {
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

/// Code that is moved into huge pages is unchanged at the same address, also for a thread that runs
/// it meanwhile.
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
            let _ended = StopOnDrop(&stop);
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
        });
        assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n % 1_000));
        assert_eq!(arena.publish(&asm::constant(3)).map(|block| call(&block)).unwrap(), 3);
        drop(blocks);
        arena.trim().unwrap();
        assert_eq!(arena.stats().resident_bytes, 0);
    }
}

/// On x86 other cores serialise only if that was asked for, once for each publication.
#[test]
fn cores_serialize_once_for_a_batch() {
    for mode in modes() {
        let arena = match small(mode).serialize_cores(true).build() {
            Ok(arena) => arena,
            Err(Error::Unsupported { what, why }) => {
                return common::not_run("cores_serialize_once_for_a_batch", &format!("{what}: {why}"));
            }
            Err(other) => panic!("{other}"),
        };
        let barriers = || arena.stats().barriers;
        let before = barriers();
        let mut batch = arena.batch();
        (0..100).for_each(|n| assert!(batch.push(&asm::constant(n)).is_ok()));
        let blocks = batch.publish().unwrap();
        let asked = barriers() - before;
        // On RISC-V the flush itself reaches other cores.
        assert_eq!(asked, 1, "{mode:?}");
        assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n));
        assert_eq!(call(&arena.publish(&asm::constant(5)).unwrap()), 5);
        assert_eq!(barriers() - before, 2, "{mode:?}");
    }
}
