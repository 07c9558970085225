//! What a process can be denied, each in a child process of its own: memory, mappings, file sizes, descriptors, the
//! execute permission; and what a forked child may and may not do.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use common::{asm, call, call_at, child, modes, small};
use gaia_jit::{Code, CodeArena, CodeBlock, Error, JitMemory, WxMode};

// The C library's name for the type differs.
#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = libc::c_int;

fn limit(resource: Resource, bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes as libc::rlim_t, rlim_max: bytes as libc::rlim_t };
    // SAFETY: `limit` is valid for the call to read.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
}

/// Runs `body` in a forked child; whether it ended well.
fn fork(body: impl FnOnce()) -> bool {
    // SAFETY: the children of these tests run code that needs no lock another thread could hold: the test process has
    // only the test's own thread at work.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_ok();
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(if ended { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: `status` is valid for the call to write to.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

#[test]
fn address_space_limit_is_an_error_and_passes() {
    child::run("address_space_limit_is_an_error_and_passes", || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let used = statm.split(' ').next().unwrap().parse::<u64>().unwrap() * region::page::size() as u64;
        let room = if cfg!(target_pointer_width = "64") { 200 << 20 } else { 40 << 20 };
        limit(libc::RLIMIT_AS, used + room);
        for mode in [WxMode::Flip, WxMode::DualMap] {
            let refused = CodeArena::builder().mode(mode).capacity(512 << 20).build();
            assert!(matches!(refused, Err(Error::OperatingSystem { .. })), "{refused:?}");
            // What was refused left nothing behind: as much as fits can be had again and again.
            for _ in 0..50 {
                let Ok(arena) = CodeArena::builder().mode(mode).capacity(8 << 20).build() else {
                    assert_eq!(mode, WxMode::DualMap, "Flip works everywhere");
                    break;
                };
                assert_eq!(call(&arena.publish(&asm::constant(3)).unwrap()), 3);
            }
        }
        let blocks: Vec<_> = std::iter::from_fn(|| JitMemory::new(16 << 20).ok()).collect();
        assert!(blocks.len() < 30);
        assert!(matches!(JitMemory::new(64 << 20), Err(Error::OperatingSystem { .. })));
        drop(blocks);
        assert!(JitMemory::new(16 << 20).is_ok());
    });
}

#[test]
fn file_size_limit_is_an_error_not_a_signal() {
    child::run("file_size_limit_is_an_error_not_a_signal", || {
        limit(libc::RLIMIT_FSIZE, 1 << 20);
        match CodeArena::builder().mode(WxMode::DualMap).capacity(4 << 20).build() {
            Err(Error::OperatingSystem { call, source }) => {
                assert!(call.contains("RLIMIT_FSIZE"), "{call}: {source}");
            }
            Err(Error::Unsupported { .. }) => {}
            other => panic!("{other:?}"),
        }
        for mode in modes() {
            // Within the limit, and in `Flip` whatever it is: kernel writes are no file of that kind.
            let capacity = if mode == WxMode::Flip { 64 << 20 } else { 1 << 20 };
            let arena = CodeArena::builder().mode(mode).capacity(capacity).build().unwrap();
            let blocks: Vec<_> = (0..300).map(|n| arena.publish(&asm::padded(n, 2_000)).unwrap()).collect();
            assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n));
        }
    });
}

#[test]
fn without_descriptors_building_is_an_error() {
    child::run("without_descriptors_building_is_an_error", || {
        let before: Vec<_> = modes().map(|mode| small(mode).build().unwrap()).collect();
        limit(libc::RLIMIT_NOFILE, 0);
        // Want of descriptors passes; an arena that was built without its kernel write would stay without.
        for mode in [WxMode::Flip, WxMode::DualMap] {
            let refused = small(mode).build();
            assert!(matches!(refused, Err(Error::OperatingSystem { .. })), "{refused:?}");
        }
        for arena in before {
            assert!(arena.stats().fills_holes);
            assert_eq!(call(&arena.publish(&asm::constant(1)).unwrap()), 1);
        }
    });
}

/// Fills the process up with mappings until the system refuses more.
fn exhaust_mappings(taken: &mut Vec<(usize, usize)>) {
    let page = region::page::size();
    loop {
        // Alternating protections keep neighbours from merging.
        let protection = if taken.len() % 2 == 0 { libc::PROT_READ } else { libc::PROT_NONE };
        // SAFETY: a new mapping at an address of the system's choice.
        let at =
            unsafe { libc::mmap(std::ptr::null_mut(), page, protection, libc::MAP_PRIVATE | libc::MAP_ANON, -1, 0) };
        if at == libc::MAP_FAILED {
            return;
        }
        taken.push((at.addr(), page));
    }
}

fn unmap(mappings: impl IntoIterator<Item = (usize, usize)>) {
    for (at, len) in mappings {
        // SAFETY: mapped by `exhaust_mappings`, unmapped once.
        assert_eq!(unsafe { libc::munmap(std::ptr::without_provenance_mut(at), len) }, 0);
    }
}

/// At the limit of mappings single blocks cannot always be unmapped; their memory is back at once, and their address
/// space as soon as the system allows it.
#[test]
fn single_blocks_are_not_lost_at_the_limit_of_mappings() {
    child::run("single_blocks_are_not_lost_at_the_limit_of_mappings", || {
        let page = region::page::size();
        // `None` where nothing is mapped, else whether there is memory.
        let resident = |address: usize| {
            let mut state = 0u8;
            // SAFETY: there is a byte for the one page asked about.
            let got = unsafe { libc::mincore(std::ptr::without_provenance_mut(address), page, &raw mut state) };
            (got == 0).then_some(state & 1 == 1)
        };
        // Neighbours, which the system merges into one mapping.
        let mut blocks: Vec<_> = (0..200).map(|_| JitMemory::new(page).unwrap()).collect();
        for block in &mut blocks {
            block.write(&asm::constant(4)).unwrap();
        }
        let dropped: Vec<usize> = blocks.iter().step_by(2).map(|block| block.as_ptr().addr()).collect();
        let mut hoard = Vec::with_capacity(1 << 17);
        exhaust_mappings(&mut hoard);
        // Every other one, so that each would split a mapping in two.
        let mut index = 0;
        blocks.retain(|_| {
            index += 1;
            index % 2 == 0
        });
        assert!(dropped.iter().any(|&address| resident(address).is_some()), "the system took all back, at its limit");
        assert!(dropped.iter().all(|&address| resident(address) != Some(true)), "memory is lost");
        unmap(hoard.drain(..1_000));
        // Each release takes some of what waits along.
        for _ in 0..dropped.len() {
            drop(JitMemory::new(page).unwrap());
        }
        assert!(dropped.iter().all(|&address| resident(address).is_none()), "address space is lost");
        for block in &mut blocks {
            assert_eq!(block.as_slice(), asm::constant(4));
            // SAFETY: the code is of this type.
            assert_eq!(unsafe { block.entry::<extern "C" fn() -> u32>(0) }.unwrap()(), 4);
        }
        drop(blocks);
        unmap(hoard);
    });
}

/// At the limit of mappings an arena that fills holes goes on; nothing is lost, and it recovers.
#[test]
fn an_arena_survives_the_limit_of_mappings() {
    child::run("an_arena_survives_the_limit_of_mappings", || {
        for mode in modes() {
            let arena = CodeArena::builder().mode(mode).capacity(64 << 20).build().unwrap();
            let mut blocks = vec![arena.publish(&asm::constant(1)).unwrap()];
            let mut hoard = Vec::with_capacity(1 << 17);
            exhaust_mappings(&mut hoard);
            for round in 0..200 {
                let mut batch = arena.batch();
                let pushed = (0..400).try_for_each(|n| batch.push(&asm::padded(n, 1_000)).map(drop));
                match pushed.and_then(|()| batch.publish()) {
                    Ok(published) => blocks.extend(published),
                    Err(Error::OperatingSystem { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
                if round % 3 == 0 {
                    blocks.truncate(100);
                }
                if let Ok(block) = arena.publish(&asm::padded(7, 600)) {
                    assert_eq!(call(&block), 7);
                }
                assert_eq!(call(&blocks[0]), 1);
            }
            unmap(hoard);
            blocks.clear();
            arena.trim().unwrap();
            let stats = arena.stats();
            assert_eq!((stats.free_bytes, stats.largest_hole, stats.resident_bytes), (64 << 20, 64 << 20, 0));
            assert_eq!(call(&arena.publish(&asm::constant(9)).unwrap()), 9);
        }
    });
}

/// `PR_SET_MDWE`: what was once writable cannot become executable. `Flip` must say so.
#[test]
fn a_process_that_denies_flips_gets_an_error() {
    child::run("a_process_that_denies_flips_gets_an_error", || {
        const PR_SET_MDWE: libc::c_int = 65;
        // SAFETY: takes numbers only.
        if unsafe { libc::prctl(PR_SET_MDWE, 1, 0, 0, 0) } != 0 {
            eprintln!("this kernel has no PR_SET_MDWE");
            return;
        }
        match small(WxMode::Flip).build() {
            Err(Error::Unsupported { what: "Flip", why }) => assert!(why.contains("mprotect"), "{why}"),
            // An emulator may accept the call and do nothing.
            Ok(arena) => assert_eq!(call(&arena.publish(&asm::constant(1)).unwrap()), 1),
            other => panic!("{other:?}"),
        }
        // A second view is no change of protection.
        if let Ok(arena) = small(WxMode::DualMap).build() {
            assert_eq!(call(&arena.publish(&asm::constant(2)).unwrap()), 2);
        }
        let mut jit = JitMemory::new(1).unwrap();
        jit.write(&asm::constant(1)).unwrap();
        let first = jit.make_executable().is_ok();
        assert_eq!(jit.make_executable().is_ok(), first, "a refusal can be tried again");
    });
}

/// Promise 10: a child runs, looks up and drops what it inherited, is refused the rest, and never touches its parent.
#[test]
fn a_forked_child_cannot_change_its_parents_code() {
    child::run("a_forked_child_cannot_change_its_parents_code", || {
        for mode in modes() {
            let arena = small(mode).build().unwrap();
            let mut blocks: Vec<Option<CodeBlock>> =
                (0..100).map(|n| Some(arena.publish(Code::new(&asm::constant(n)).tag(n.into())).unwrap())).collect();
            let mut open = Some(arena.batch());
            let slot = open.as_mut().unwrap().push(&asm::constant(200)).unwrap();
            // Something on the shelves, too.
            let early: Vec<_> = (0..10).map(|_| arena.publish(&asm::constant(1)).unwrap()).collect();
            let before = arena.stats();
            drop(early);
            let more: Vec<_> = (0..10).map(|_| arena.publish(&asm::constant(1)).unwrap()).collect();
            assert!(fork(|| {
                for (n, block) in (0..).zip(blocks.iter().flatten()) {
                    assert_eq!(call(block), n);
                    assert_eq!(arena.lookup(block.as_ptr()).map(|hit| hit.tag), Some(n.into()));
                }
                let guard = arena.pin();
                assert!(matches!(arena.publish(&asm::constant(1)), Err(Error::Forked { .. })));
                assert!(matches!(arena.batch().push(&asm::constant(1)), Err(Error::Forked { .. })));
                assert!(matches!(arena.trim(), Err(Error::Forked { .. })));
                // SAFETY: refused.
                let patched = unsafe { blocks[3].as_ref().unwrap().patch(0, &asm::constant(9)) };
                assert!(matches!(patched, Err(Error::Forked { .. })));
                let mut batch = open.take().unwrap();
                assert!(!batch.address(slot).is_null());
                // Nothing that could be written to is left of the parent's.
                if mode == WxMode::DualMap {
                    assert!(batch.bytes_mut(slot).is_empty());
                }
                assert!(matches!(batch.push(&asm::constant(1)), Err(Error::Forked { .. })));
                assert!(matches!(batch.publish(), Err(Error::Forked { .. })));
                drop(guard);
                for block in blocks.iter_mut().step_by(2) {
                    *block = None;
                }
                assert_eq!(call(blocks[1].as_ref().unwrap()), 1);
                // Nobody was at work as the child came to be, so it knows all that its parent knew.
                let stats = arena.stats();
                assert_eq!((stats.live_blocks, stats.free_bytes), (before.live_blocks, before.free_bytes));
                assert!(!arena.occupancy().pages.is_empty());
                // What it builds itself works.
                let own = small(mode).build().unwrap();
                let mine: Vec<_> = (0..100).map(|n| own.publish(&asm::constant(1_000 + n)).unwrap()).collect();
                assert!((1_000..).zip(&mine).all(|(n, block)| call(block) == n));
                blocks.clear();
                drop(arena.clone());
                drop(own);
            }));
            let after = arena.stats();
            assert_eq!(more.len(), 10);
            assert_eq!((after.live_blocks, after.free_bytes), (before.live_blocks, before.free_bytes));
            for (n, block) in (0..).zip(blocks.iter().flatten()) {
                assert_eq!((call(block), block.as_bytes()), (n, &asm::constant(n)[..]), "{mode:?}");
            }
            assert_eq!(call(&open.take().unwrap().publish().unwrap()[0]), 200);
        }
    });
}

/// Address, length and permissions of the views of dual mappings.
fn views() -> Vec<(usize, usize, String)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let views = maps.lines().filter(|line| line.contains("memfd:gaia-jit"));
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let (from, to) = words.next()?.split_once('-')?;
        let (from, to) = (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
        Some((from, to - from, words.next()?.to_string()))
    };
    views.filter_map(parse).collect()
}

/// A fork in the middle of a drop: the child that comes out of it must not overwrite the parent's code.
#[test]
fn a_child_forked_by_an_observer_leaves_its_parent_alone() {
    struct Forks;
    impl gaia_jit::Observer for Forks {
        fn retired(&self, block: &gaia_jit::BlockInfo) {
            // SAFETY: the child goes on with the drop, and ends right after it.
            let child = unsafe { libc::fork() };
            if child > 0 {
                let mut status = 0;
                // SAFETY: `status` is valid for the call to write to.
                unsafe { libc::waitpid(child, &raw mut status, 0) };
                assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
                // The child is done with the drop; this process has not got there yet.
                assert_eq!(call_at(block.start), 5, "the child wrote to its parent");
            }
        }
    }
    child::run("a_child_forked_by_an_observer_leaves_its_parent_alone", || {
        for mode in modes() {
            let parent = std::process::id();
            let arena = small(mode).poison(true).observer(std::sync::Arc::new(Forks)).build().unwrap();
            drop(arena.publish(&asm::padded(5, 64)).unwrap());
            if std::process::id() != parent {
                // SAFETY: ends the child without running what belongs to the parent.
                unsafe { libc::_exit(0) };
            }
            assert_eq!(arena.stats().live_blocks, 0);
        }
    });
}

/// Running out of memory while code is overwritten, or staged, is an error or is absorbed; it does not abort.
#[test]
fn large_blocks_at_the_memory_limit_do_not_abort() {
    child::run("large_blocks_at_the_memory_limit_do_not_abort", || {
        if cfg!(target_pointer_width = "32") {
            return;
        }
        for mode in modes() {
            let arena = CodeArena::builder().mode(mode).capacity(512 << 20).poison(true).build().unwrap();
            let mut batch = arena.batch();
            batch.reserve(300 << 20, 16).unwrap();
            let blocks = batch.publish().unwrap();
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            let used = statm.split(' ').next().unwrap().parse::<u64>().unwrap() * region::page::size() as u64;
            limit_soft(libc::RLIMIT_AS, used + (32 << 20));
            drop(blocks);
            let small = arena.publish(&asm::constant(1)).unwrap();
            let mut batch = arena.batch();
            // All that is left, but not in whole pages: in `Flip` it would have to be staged.
            match batch.reserve((512 << 20) - 16, 16) {
                Err(Error::OperatingSystem { .. } | Error::ArenaFull { .. }) => {}
                Ok(_) => assert_eq!(mode, WxMode::DualMap),
                Err(other) => panic!("{other}"),
            }
            drop(batch);
            assert_eq!(call(&small), 1);
            limit_soft(libc::RLIMIT_AS, u64::MAX);
        }
    });
}

fn limit_soft(resource: Resource, bytes: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the call to write to.
    assert_eq!(unsafe { libc::getrlimit(resource, &raw mut limit) }, 0);
    limit.rlim_cur = (bytes as libc::rlim_t).min(limit.rlim_max);
    // SAFETY: `limit` is valid for the call to read.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
}

/// A process that locks its memory, as audio and real-time programs do.
#[test]
fn locked_memory_works() {
    child::run("locked_memory_works", || {
        let before: Vec<_> = modes().map(|mode| small(mode).build().unwrap()).collect();
        // SAFETY: takes a number only.
        if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } != 0 {
            eprintln!("not run: this process may not lock memory");
            return;
        }
        for arena in before.into_iter().chain(modes().map(|mode| small(mode).build().unwrap())) {
            let blocks: Vec<_> = (0..300).map(|n| arena.publish(&asm::padded(n, 2_000)).unwrap()).collect();
            assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n));
            drop(blocks);
            // Shared memory that is locked cannot be given back; that is an error, and nothing else.
            match arena.trim() {
                Ok(_) => assert_eq!(arena.stats().resident_bytes, 0),
                Err(Error::OperatingSystem { .. }) => assert_eq!(arena.mode(), WxMode::DualMap),
                Err(other) => panic!("{other}"),
            }
            assert_eq!(arena.stats().largest_hole, arena.capacity());
            assert_eq!(call(&arena.publish(&asm::constant(8)).unwrap()), 8);
        }
    });
}

/// A child may drop the last handle: its address space goes, and with it nothing of the parent's or of its own.
#[test]
fn a_forked_child_drops_a_whole_arena() {
    child::run("a_forked_child_drops_a_whole_arena", || {
        for mode in modes() {
            let mut held = Some(small(mode).build().unwrap());
            let mut block = Some(held.as_ref().unwrap().publish(&asm::constant(5)).unwrap());
            let writable = views().into_iter().find(|(_, _, permissions)| permissions.starts_with("rw"));
            assert!(fork(|| {
                // Where the writable view was the child has something of its own now.
                let own = writable.map(|(address, len, _)| {
                    let (at, flags) = (std::ptr::without_provenance_mut(address), libc::MAP_PRIVATE | libc::MAP_ANON);
                    let access = libc::PROT_READ | libc::PROT_WRITE;
                    // SAFETY: a new mapping, only where nothing is mapped.
                    let got = unsafe { libc::mmap(at, len, access, flags | libc::MAP_FIXED_NOREPLACE, -1, 0) };
                    assert_eq!(got, at, "the writable view was inherited");
                    // SAFETY: mapped just now, and nobody else's.
                    unsafe { std::slice::from_raw_parts_mut(got.cast::<u8>(), len) }
                });
                let own = own.map(|bytes| {
                    bytes.fill(7);
                    &*bytes
                });
                drop((held.take(), block.take()));
                assert!(own.is_none_or(|bytes| bytes.iter().all(|byte| *byte == 7)));
            }));
            assert_eq!(call(block.as_ref().unwrap()), 5);
        }
    });
}

/// The writable view is not there in a child at all.
#[test]
fn a_forked_child_has_no_writable_view() {
    child::run("a_forked_child_has_no_writable_view", || {
        let Ok(arena) = small(WxMode::DualMap).build() else { return };
        let block = arena.publish(&asm::constant(5)).unwrap();
        let permissions = || {
            let mut found: Vec<_> = views().into_iter().map(|(_, _, permissions)| permissions).collect();
            found.sort();
            found
        };
        assert_eq!(permissions(), ["r-xs", "rw-s"]);
        assert!(fork(|| assert_eq!(permissions(), ["r-xs"])));
        assert_eq!(call(&block), 5);
    });
}

static ARENA: AtomicPtr<CodeArena> = AtomicPtr::new(std::ptr::null_mut());
static HITS: AtomicUsize = AtomicUsize::new(0);
static WRONG: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: libc::c_int) {
    // SAFETY: set to an arena that outlives the signals.
    let arena = unsafe { &*ARENA.load(Ordering::Acquire) };
    for n in 0..64usize {
        let Some(address) = FIXED.get(n).map(|a| a.load(Ordering::Relaxed)) else { return };
        match arena.lookup(address.wrapping_add(n % 5)) {
            Some(hit) if hit.tag == n as u64 && hit.len == 64 => HITS.fetch_add(1, Ordering::Relaxed),
            _ => WRONG.fetch_or(true, Ordering::Relaxed).into(),
        };
    }
}

static FIXED: [AtomicPtr<u8>; 64] = [const { AtomicPtr::new(std::ptr::null_mut()) }; 64];

/// Promise 9: a handler that interrupts a thread anywhere, also in the middle of publishing, finds what is live.
#[test]
fn lookup_works_in_a_signal_handler() {
    child::run("lookup_works_in_a_signal_handler", || {
        for mode in modes() {
            let arena = CodeArena::builder().mode(mode).capacity(256 << 10).build().unwrap();
            let blocks: Vec<_> =
                (0..64).map(|n| arena.publish(Code::new(&asm::padded(n, 64)).tag(n.into())).unwrap()).collect();
            for (slot, block) in FIXED.iter().zip(&blocks) {
                slot.store(block.as_ptr().cast_mut(), Ordering::Relaxed);
            }
            ARENA.store((&raw const arena).cast_mut(), Ordering::Release);
            let handler = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
            // SAFETY: the handler calls nothing that is not safe in one.
            unsafe { libc::signal(libc::SIGALRM, handler) };
            let every = libc::timeval { tv_sec: 0, tv_usec: 200 };
            let timer = libc::itimerval { it_interval: every, it_value: every };
            // SAFETY: `timer` is valid for the call to read.
            assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) }, 0);
            HITS.store(0, Ordering::Relaxed);
            let mut come_and_go = Vec::new();
            // Bounded by signals taken, not by time.
            while HITS.load(Ordering::Relaxed) < 64 * 300 {
                come_and_go.push(arena.publish(&asm::padded(1, 48)).unwrap());
                if come_and_go.len() > 500 {
                    come_and_go.clear();
                }
            }
            let off = libc::itimerval {
                it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
                it_value: libc::timeval { tv_sec: 0, tv_usec: 0 },
            };
            // SAFETY: `off` is valid for the call to read.
            assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const off, std::ptr::null_mut()) }, 0);
            assert!(!WRONG.load(Ordering::Relaxed), "{mode:?}");
        }
    });
}

/// The use that killed processes: functions are added to a block while another thread runs those already there. The
/// arena's form of it is sound; the block's documented limit is real.
#[test]
fn a_shared_single_block_dies_where_an_arena_lives() {
    let died = child::output("a_shared_single_block_dies_where_an_arena_lives", || {
        let mut jit = JitMemory::new(4096).unwrap();
        jit.write(&asm::spin()).unwrap();
        // SAFETY: the code is of this type.
        let spin = unsafe { jit.entry::<extern "C" fn(*const u32) -> u32>(0) }.unwrap();
        let flag: &'static std::sync::atomic::AtomicU32 = Box::leak(Box::default());
        std::thread::spawn(move || spin(flag.as_ptr()));
        // The page flips under the thread that runs in it.
        for _ in 0..1_000_000 {
            jit.write_at(1_024, &asm::constant(1)).unwrap();
            std::thread::yield_now();
        }
    });
    assert!(!died.status.success(), "the documented limit of a single block is gone: document that");
}
