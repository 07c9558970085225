//! Tests of what the system, or other code of the process, takes away after an arena was built.
//! Each runs in a process of its own.
//!
//! | What is taken away | What is expected |
//! |---|---|
//! | the change from writable to executable (`PR_SET_MDWE`) | no batch fails while the kernel write works |
//! | descriptors: closed, used by others, missing for a time | `Flip` continues; holes are filled again when descriptors are back |
//! | one system call, before each of nine steps | functions keep their results, and all space is free at the end |
//! | kernel writes, for a process or one thread | one staged batch fails; later ones take pages; other threads notice nothing |
//!
//! A filter stays until the process ends, so every sequence of steps has a forked child. A test
//! without filters, `close_range`, the policy or the kernel write prints `NOT RUN`. The steps exist
//! to catch an early return that leaves pages without an owner or in the wrong protection.

use std::os::fd::AsRawFd;

use crate::common::{self, asm, call, child, fork, modes, sandbox, small};
use gaia_jit::{CodeArena, CodeBlock, Error, Reserve, WxMode};

fn batch_of(arena: &CodeArena, count: u32, len: usize) -> Result<Vec<CodeBlock>, Error> {
    let mut batch = arena.batch();
    for n in 0..count {
        batch.push(&asm::padded(n, len))?;
    }
    batch.publish()
}

fn runs(blocks: &[CodeBlock]) -> bool {
    (0..).zip(blocks).all(|(n, block)| call(block) == n)
}

/// A sandbox in which nothing that was writable can become executable (`PR_SET_MDWE`,
/// `MemoryDenyWriteExecute` of systemd), entered after start-up. No batch fails and nothing is
/// lost, because the kernel write still works.
#[test]
fn a_sandbox_against_flips_costs_no_batch() {
    child::run("a_sandbox_against_flips_costs_no_batch", || {
        const PR_SET_MDWE: libc::c_int = 65;
        const CAPACITY: usize = 16 << 20;
        let arena = CodeArena::builder().capacity(CAPACITY).build().unwrap();
        let data_before = batch_of(&arena, 100, 4_000).unwrap();
        let mut open = arena.batch();
        (0..100).for_each(|n| assert!(open.push(&asm::padded(n, 4_000)).is_ok()));
        // SAFETY: takes numbers only.
        if !arena.stats().fills_holes || unsafe { libc::prctl(PR_SET_MDWE, 1, 0, 0, 0) } != 0 {
            return common::not_run("a_sandbox_against_flips_costs_no_batch", "no PR_SET_MDWE or no kernel write");
        }
        // A batch that was open already meets the refusal first.
        let opened = open.publish().unwrap();
        assert!(runs(&opened) && runs(&data_before));
        for _ in 0..100 {
            let blocks = batch_of(&arena, 64, 4_096).unwrap();
            assert!(runs(&blocks));
        }
        assert_eq!(call(&arena.publish(&asm::padded(7, 100_000)).unwrap()), 7);
        drop((opened, data_before));
        arena.trim().unwrap();
        let stats = arena.stats();
        assert_eq!((stats.free_bytes, stats.resident_bytes), (CAPACITY, 0), "{stats}");
        // The whole capacity can be used.
        let blocks = batch_of(&arena, (CAPACITY / 4_096) as u32, 4_096).unwrap();
        assert!(runs(&blocks));
    });
}

/// A program closes every descriptor above the standard ones before it starts another program, and
/// then opens others.
#[test]
fn descriptors_closed_under_an_arena() {
    child::run("descriptors_closed_under_an_arena", || {
        for mode in modes() {
            let arena = small(mode).build().unwrap();
            let first = arena.publish(&asm::constant(1)).unwrap();
            // SAFETY: what this test is about; nothing else in this process needs its descriptors.
            if unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) } != 0 {
                return common::not_run("descriptors_closed_under_an_arena", "no close_range here");
            }
            let published = arena.publish(&asm::constant(2));
            assert_eq!(call(&first), 1);
            match published {
                Ok(block) => assert_eq!(call(&block), 2),
                Err(error) => assert!(mode == WxMode::FileWrite, "{mode:?}: {error}"),
            }
            // A new arena has a descriptor of its own again.
            let next = small(mode).build().unwrap();
            assert_eq!(call(&next.publish(&asm::constant(3)).unwrap()), 3);
        }
    });
}

/// Every number that an arena may have had leads to a file of the program. Nothing is written to
/// that file, and `Flip` continues.
#[test]
fn numbers_reused_by_others() {
    child::run("numbers_reused_by_others", || {
        let arena = small(WxMode::Flip).build().unwrap();
        if !arena.stats().fills_holes {
            return common::not_run("numbers_reused_by_others", "Flip fills no holes here");
        }
        let first = arena.publish(&asm::constant(1)).unwrap();
        let mine = std::env::temp_dir().join(format!("gaia-jit-late-{}", std::process::id()));
        let file = std::fs::File::options().read(true).append(true).create_new(true).open(&mine).unwrap();
        std::fs::remove_file(&mine).unwrap();
        for number in (3..1024).filter(|number| *number != file.as_raw_fd()) {
            // SAFETY: takes numbers only.
            let there = unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
            // SAFETY: what this test is about; nothing else in this process needs its descriptors.
            assert!(!there || unsafe { libc::dup2(file.as_raw_fd(), number) } == number);
        }
        let second = arena.publish(&asm::constant(2)).unwrap();
        assert_eq!((call(&first), call(&second)), (1, 2));
        let blocks = batch_of(&arena, 100, 100).unwrap();
        assert!(runs(&blocks));
        // One write went to the file before the arena noticed.
        assert!(file.metadata().unwrap().len() <= 64);
    });
}

/// Arenas of a process share one descriptor.
#[test]
fn a_thousand_arenas_take_one_descriptor() {
    child::run("a_thousand_arenas_take_one_descriptor", || {
        let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = count();
        let arenas: Vec<_> = (0..1_100).map(|_| CodeArena::builder().capacity(64 << 10).build().unwrap()).collect();
        assert_eq!(count(), before + usize::from(arenas[0].stats().fills_holes));
        for (n, arena) in (0..).zip(&arenas) {
            assert_eq!(call(&arena.publish(&asm::constant(n)).unwrap()), n);
        }
        // A child has a descriptor of its own, so that it does not write to its parent.
        assert!(fork::fork(|| {
            let own = small(WxMode::Flip).build().unwrap();
            let blocks = batch_of(&own, 50, 100).unwrap();
            assert!(runs(&blocks));
            assert!(matches!(arenas[0].publish(&asm::constant(1)), Err(Error::Forked { .. })));
        }));
        // The descriptor is closed with the last arena, and opened anew.
        for _ in 0..3 {
            drop(small(WxMode::Flip).build().unwrap());
        }
        drop(arenas);
        assert_eq!(count(), before);
        let again = small(WxMode::Flip).build().unwrap();
        assert_eq!(call(&again.publish(&asm::constant(4)).unwrap()), 4);
    });
}

/// The steps in the life of an arena.
const STEPS: usize = 9;

/// Does one step. A refusal is an error of the system.
fn step(n: usize, arena: &CodeArena, blocks: &mut Vec<(CodeBlock, u32)>) {
    let mut keep = |published: Result<Vec<CodeBlock>, Error>, from: u32| match published {
        Ok(new) => blocks.extend(new.into_iter().zip(from..)),
        Err(Error::OperatingSystem { .. }) => {}
        Err(other) => panic!("{other:?}"),
    };
    match n {
        0 => keep(arena.publish(&asm::constant(7)).map(|block| vec![block]), 7),
        1 => keep(batch_of(arena, 40, 60), 0),
        2 => keep(batch_of(arena, 80, 2_000), 0),
        3 => keep(arena.publish(&asm::padded(9, 90_000)).map(|block| vec![block]), 9),
        4 | 7 => {
            let mut index = 0;
            blocks.retain(|_| {
                index += 1;
                index % 3 == 0
            });
            let _ = arena.trim();
        }
        5 => keep(batch_of(arena, 50, 3_000), 0),
        6 => {
            let _ = arena.collapse();
            if let Some((block, value)) = blocks.first_mut() {
                // SAFETY: nobody runs it meanwhile.
                match unsafe { block.patch(0, &asm::constant(77)) } {
                    Ok(()) => *value = 77,
                    // It was written, but other cores may not see that, so it must not run.
                    Err(Error::OperatingSystem {
                        call: "membarrier" | "riscv_flush_icache" | "cacheflush", ..
                    }) => {
                        drop(blocks.remove(0));
                    }
                    // Nothing was written.
                    Err(_) => {}
                }
            }
        }
        _ => keep(batch_of(arena, 200, 300), 0),
    }
    assert!(blocks.iter().all(|(block, value)| call(block) == *value));
}

/// Leaves holes between blocks.
fn keep_every_other(blocks: &mut Vec<CodeBlock>) {
    let mut index = 0;
    blocks.retain(|_| {
        index += 1;
        index % 2 == 0
    });
}

/// A filter refuses every system call that an arena may make, from each step of a life on.
/// Published code runs. When all of it is dropped, everything is free. If one way in is left, the
/// whole capacity can be used.
#[test]
fn a_filter_at_every_point_of_a_life() {
    const NAME: &str = "a_filter_at_every_point_of_a_life";
    let mut calls = vec![
        (libc::SYS_mprotect, "mprotect"),
        (libc::SYS_madvise, "madvise"),
        (libc::SYS_munmap, "munmap"),
        (libc::SYS_mremap, "mremap"),
        (libc::SYS_pwrite64, "pwrite64"),
        (libc::SYS_pread64, "pread64"),
        (libc::SYS_fallocate, "fallocate"),
        (libc::SYS_prlimit64, "prlimit64"),
        (libc::SYS_statx, "statx"),
        (libc::SYS_openat, "openat"),
        (libc::SYS_prctl, "prctl"),
        (libc::SYS_membarrier, "membarrier"),
        (libc::SYS_fcntl, "fcntl"),
    ];
    #[cfg(target_pointer_width = "64")]
    calls.extend([(libc::SYS_mmap, "mmap"), (libc::SYS_getrlimit, "getrlimit")]);
    // Sanitizers, and musl's allocator, map memory of their own. They end the process if they
    // cannot.
    if common::sanitized() || cfg!(target_env = "musl") {
        calls.retain(|(_, name)| !matches!(*name, "mmap" | "munmap" | "mremap"));
    }
    // On RISC-V the flush reaches the other cores, so a silent refusal would be stale code.
    #[cfg(any(target_arch = "riscv64", target_arch = "riscv32"))]
    calls.push((259, "riscv_flush_icache"));
    child::run(NAME, || {
        if !fork::fork(|| assert!(sandbox::deny(libc::SYS_fallocate))) {
            return common::not_run(NAME, "no filters here");
        }
        for mode in modes() {
            let fills_holes = common::fills_holes(mode);
            for (call, name) in &calls {
                for from in 0..STEPS {
                    let what = format!("{mode:?}: {name} from step {from} on");
                    assert!(fork::fork(|| life(mode, fills_holes, *call, name, from)), "{what}");
                }
            }
        }
    });
}

fn life(mode: WxMode, fills_holes: bool, denied: libc::c_long, name: &str, from: usize) {
    // Memory for the global allocator, because its requests to the system would be refused.
    drop(vec![1_u8; 8 << 20]);
    let mut blocks = Vec::with_capacity(4096);
    let arena = small(mode).build().unwrap();
    for n in 0..STEPS {
        assert!(n != from || sandbox::deny(denied));
        step(n, &arena, &mut blocks);
    }
    blocks.clear();
    let stats = arena.stats();
    assert_eq!((stats.free_bytes, stats.largest_hole), (stats.capacity, stats.capacity), "{stats}");
    let only_way = match name {
        "pwrite64" | "statx" => mode == WxMode::FileWrite,
        // Where there is no older call for the limit.
        "prlimit64" => mode == WxMode::FileWrite && cfg!(target_pointer_width = "32"),
        "mprotect" => mode == WxMode::Flip && !fills_holes,
        "membarrier" => cfg!(any(target_arch = "aarch64", target_arch = "arm", target_arch = "s390x")),
        "riscv_flush_icache" => true,
        _ => false,
    };
    // The first call that meets a refusal may return an error.
    let _ = arena.publish(&asm::constant(1));
    let full = (0..16).try_for_each(|_| batch_of(&arena, 15, 4_000).map(|new| blocks.extend(new.into_iter().zip(0..))));
    assert!(full.is_ok() || only_way, "{full:?}");
    assert!(blocks.iter().all(|(block, value)| call(block) == *value));
    // Memory that the system did not take back is released when the process ends.
    std::mem::forget((blocks, arena));
}

/// A refusal that passes (no descriptor is free) does not keep functions and batches from holes, if
/// holes are all that is left.
#[test]
fn holes_are_filled_again_when_a_refusal_has_passed() {
    const NAME: &str = "holes_are_filled_again_when_a_refusal_has_passed";
    child::run(NAME, || {
        for batches in [false, true] {
            let arena = CodeArena::builder().capacity(256 << 10).build().unwrap();
            if !arena.stats().fills_holes {
                return common::not_run(NAME, "Flip fills no holes here");
            }
            let mut blocks = Vec::new();
            while let Ok(block) = arena.publish(&asm::padded(1, 1_000)) {
                blocks.push(block);
            }
            keep_every_other(&mut blocks);
            let limit = |soft| {
                let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                // SAFETY: valid for the call to write to.
                assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
                let before = limit.rlim_cur;
                limit.rlim_cur = soft;
                // SAFETY: valid for the call to read.
                assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
                before
            };
            // SAFETY: what this test is about; nothing else in this process needs its descriptors.
            if unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) } != 0 {
                return common::not_run(NAME, "no close_range here");
            }
            let before = limit(0);
            assert!(arena.publish(&asm::constant(1)).is_err());
            limit(before);
            for n in 0..100 {
                let block = if batches {
                    batch_of(&arena, 1, 100).unwrap().remove(0)
                } else {
                    arena.publish(&asm::padded(0, 100)).unwrap()
                };
                assert_eq!(call(&block), 0, "{n}");
            }
        }
    });
}

/// The kernel write is refused for good. A batch that had staged bytes fails once. Later functions
/// get pages of their own, however often the write is tried again.
#[test]
fn a_refused_write_fails_a_batch_once() {
    const NAME: &str = "a_refused_write_fails_a_batch_once";
    child::run(NAME, || {
        let (batches, reserves, redirects) = (
            small(WxMode::Flip).build().unwrap(),
            small(WxMode::Flip).build().unwrap(),
            small(WxMode::Flip).build().unwrap(),
        );
        if !batches.stats().fills_holes || !sandbox::deny_kernel_writes() {
            return common::not_run(NAME, "no kernel write, or no filters here");
        }
        // The write is tried again for every 1,024th function.
        let failed = |one: &dyn Fn() -> Result<(), Error>| {
            let failed = |n: &u32| match one() {
                Ok(()) => false,
                Err(Error::OperatingSystem { .. }) => true,
                Err(other) => panic!("{n}: {other}"),
            };
            (0..2_500).filter(failed).collect::<Vec<_>>()
        };
        let batch = || batch_of(&batches, 2, 100).map(|blocks| assert!(runs(&blocks)));
        assert_eq!(failed(&batch), [0]);
        let write = |_: *const u8, bytes: &mut [u8]| {
            let code = asm::constant(1);
            bytes[..code.len()].copy_from_slice(&code);
            Ok(code.len())
        };
        let reserve = || reserves.publish_with(Reserve::new(16), write).map(drop);
        assert_eq!(failed(&reserve), [0]);
        let redirect = || redirects.redirect(redirects.publish(&asm::constant(1))?).map(drop);
        // The first function gets pages of its own at once, and the redirect's code after it.
        assert_eq!(failed(&redirect), [] as [u32; 0]);
        for arena in [batches, reserves, redirects] {
            assert_eq!(arena.stats().free_bytes, arena.capacity());
        }
    });
}

/// The same without a free whole page: pages are missing, not a write. When a block is dropped,
/// there is room again.
#[test]
fn a_refused_write_leaves_an_arena_that_is_full() {
    const NAME: &str = "a_refused_write_leaves_an_arena_that_is_full";
    child::run(NAME, || {
        let arena = small(WxMode::Flip).build().unwrap();
        let mut blocks = Vec::new();
        while let Ok(block) = arena.publish(&asm::padded(1, 1_000)) {
            blocks.push(block);
        }
        keep_every_other(&mut blocks);
        if !arena.stats().fills_holes || !sandbox::deny_kernel_writes() {
            return common::not_run(NAME, "no kernel write, or no filters here");
        }
        let publish = || arena.publish(&asm::constant(1)).map(drop);
        let batch = || batch_of(&arena, 2, 10).map(drop);
        let reserve = || arena.publish_with(Reserve::new(16), |_, bytes| Ok(bytes.len())).map(drop);
        // Each batch may be the first that meets the refusal, with bytes staged.
        let first = publish();
        assert!(matches!(first, Err(Error::OperatingSystem { .. })), "{first:?}");
        for n in 0..2_500 {
            for done in [publish(), batch(), reserve()] {
                assert!(matches!(done, Err(Error::ArenaFull { .. })), "{n}: {done:?}");
            }
        }
        blocks.clear();
        assert!(publish().is_ok() && batch().is_ok() && reserve().is_ok());
    });
}

/// A thread with a filter of its own continues with pages, whatever other threads find out
/// meanwhile.
#[test]
fn a_refusal_of_one_thread_is_of_no_other() {
    const NAME: &str = "a_refusal_of_one_thread_is_of_no_other";
    child::run(NAME, || {
        let arena = CodeArena::builder().capacity(16 << 20).build().unwrap();
        if !arena.stats().fills_holes || !fork::fork(|| assert!(sandbox::deny_kernel_writes())) {
            return common::not_run(NAME, "no kernel write, or no filters here");
        }
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        assert_eq!(call(&arena.publish(&asm::constant(5)).unwrap()), 5);
                    }
                });
            }
            let filtered = scope.spawn(|| {
                assert!(sandbox::deny_kernel_writes());
                (0..common::often(20_000)).try_for_each(|_| arena.publish(&asm::constant(6)).map(drop))
            });
            let ended = filtered.join();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(ended.is_ok_and(|published| published.is_ok()));
        });
    });
}
