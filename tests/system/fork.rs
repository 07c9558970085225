//! Tests of promise 10: what a forked child may and may not do.
//!
//! | What | How it is checked |
//! |---|---|
//! | an inherited arena | calls, `lookup` and drops work; changes return `Error::Forked`; the parent's bytes are compared |
//! | the writable view | the list of mappings of a child does not contain it |
//! | the last handle is dropped in a child | a mapping that the child placed in the old range stays intact |
//! | a fork inside of an observer | the drop ends in both processes, and the child poisons nothing |
//! | forks during the first build of a process | each child publishes in an arena of its own within 30 seconds |
//!
//! The tests fork in a child process, in which no other test has threads. The last one is not made
//! with sanitizers or under an emulator, because both have locks of their own that a child may
//! inherit; then it prints `NOT RUN`. It exists to catch a lock of the library that is held at the
//! moment of a fork. The others exist to catch a write to memory that parent and child share.

use std::borrow::Cow;

use crate::common::{self, asm, call, call_at, child, fork::fork, modes, small};
use gaia_jit::{Code, CodeBlock, Error, WxMode};

/// Promise 10: a child runs, looks up and drops inherited blocks, is refused everything else, and
/// never changes its parent.
#[test]
fn a_forked_child_cannot_change_its_parents_code() {
    child::run("a_forked_child_cannot_change_its_parents_code", || {
        for mode in modes() {
            let arena = small(mode).build().unwrap();
            let mut blocks: Vec<Option<CodeBlock>> =
                (0..100).map(|n| Some(arena.publish(Code::new(&asm::constant(n)).tag(n.into())).unwrap())).collect();
            let mut open = Some(arena.batch());
            let slot = open.as_mut().unwrap().push(&asm::constant(200)).unwrap();
            // Some blocks wait for guards, too.
            let early: Vec<_> = (0..10).map(|_| arena.publish(&asm::constant(1)).unwrap()).collect();
            let before = arena.stats();
            drop(early);
            let more: Vec<_> = (0..10).map(|_| arena.publish(&asm::constant(1)).unwrap()).collect();
            assert!(fork(|| {
                for (n, block) in (0..).zip(blocks.iter().flatten()) {
                    assert_eq!(call(block), n);
                    // The memory is not one that the parent may write to.
                    let is_copy = matches!(block.as_bytes(), Cow::Owned(_));
                    assert_eq!((is_copy, &block.as_bytes()[..]), (mode != WxMode::Flip, &asm::constant(n)[..]));
                    assert_eq!(arena.lookup(block.as_ptr()).map(|hit| hit.tag), Some(n.into()));
                }
                let guard = arena.pin();
                assert!(matches!(arena.publish(&asm::constant(1)), Err(Error::Forked { .. })));
                assert!(matches!(arena.batch().push(&asm::constant(1)), Err(Error::Forked { .. })));
                assert!(matches!(arena.trim(), Err(Error::Forked { .. })));
                // SAFETY: the call is refused.
                let patched = unsafe { blocks[3].as_ref().unwrap().patch(0, &asm::constant(9)) };
                assert!(matches!(patched, Err(Error::Forked { .. })));
                let mut batch = open.take().unwrap();
                assert!(!batch.address(slot).is_null());
                // No writable mapping of the parent is left.
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
                // No other thread was working when the child was forked, so it has everything that
                // its parent had.
                let stats = arena.stats();
                assert_eq!((stats.live_blocks, stats.free_bytes), (before.live_blocks, before.free_bytes));
                assert!(!arena.map().pages.is_empty());
                // An arena that the child builds works.
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
                assert_eq!((call(block), &block.as_bytes()[..]), (n, &asm::constant(n)[..]), "{mode:?}");
            }
            assert_eq!(call(&open.take().unwrap().publish().unwrap()[0]), 200);
        }
    });
}

/// Returns address, length and permissions of the views of dual mappings.
fn views() -> Vec<(usize, usize, String)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let views = maps.lines().filter(|line| line.contains("/dev/zero (deleted)") || line.contains("memfd:gaia-jit"));
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let (from, to) = words.next()?.split_once('-')?;
        let (from, to) = (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
        Some((from, to - from, words.next()?.to_string()))
    };
    views.filter_map(parse).collect()
}

/// A fork in the middle of a drop. The child must not overwrite the parent's code.
#[test]
fn a_child_forked_by_an_observer_leaves_its_parent_alone() {
    struct Forks;
    impl gaia_jit::Observer for Forks {
        fn retired(&self, block: &gaia_jit::BlockInfo) {
            // SAFETY: the child continues the drop, and ends right after it.
            let child = unsafe { libc::fork() };
            if child > 0 {
                let mut status = 0;
                // SAFETY: `status` is valid for the call to write to.
                unsafe { libc::waitpid(child, &raw mut status, 0) };
                assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
                // The child has finished the drop. This process has not yet.
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

/// A child may drop the last handle and the last block. The mappings stay in it, because it can
/// neither lock nor count. No memory of the parent or the child is unmapped.
#[test]
fn a_forked_child_drops_a_whole_arena() {
    if !common::own_kernel("a_forked_child_drops_a_whole_arena") {
        return;
    }
    child::run("a_forked_child_drops_a_whole_arena", || {
        for mode in modes() {
            let mut held = Some(small(mode).build().unwrap());
            let mut block = Some(held.as_ref().unwrap().publish(&asm::constant(5)).unwrap());
            let writable = views().into_iter().find(|(_, _, permissions)| permissions.starts_with("rw"));
            assert!(fork(|| {
                // The child now has a mapping of its own at the address of the writable view.
                let own = writable.map(|(address, len, _)| {
                    let (at, flags) = (std::ptr::without_provenance_mut(address), libc::MAP_PRIVATE | libc::MAP_ANON);
                    let access = libc::PROT_READ | libc::PROT_WRITE;
                    // SAFETY: a new mapping, only where nothing is mapped.
                    let got = unsafe { libc::mmap(at, len, access, flags | libc::MAP_FIXED_NOREPLACE, -1, 0) };
                    assert_eq!(got, at, "the writable view was inherited");
                    // SAFETY: it was mapped above, and nobody else has it.
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

/// The writable view does not exist in a child.
#[test]
fn a_forked_child_has_no_writable_view() {
    if !common::own_kernel("a_forked_child_has_no_writable_view") {
        return;
    }
    child::run("a_forked_child_has_no_writable_view", || {
        let Ok(arena) = small(WxMode::DualMap).build() else { return };
        let block = arena.publish(&asm::constant(5)).unwrap();
        let permissions = || {
            let mut found: Vec<_> = views().into_iter().map(|(_, _, permissions)| permissions).collect();
            found.sort();
            // The part with code, and the part that is left out of core dumps.
            found.dedup();
            found
        };
        assert_eq!(permissions(), ["r-xs", "rw-s"]);
        assert!(fork(|| assert_eq!(permissions(), ["r-xs"])));
        assert_eq!(call(&block), 5);
    });
}

/// Children that are forked at every moment of another thread's first use of the crate in a
/// process. The parts that are found out once for a process take no lock that a child could inherit
/// in the locked state.
#[test]
fn a_child_of_a_process_that_is_building_its_first_arena() {
    const NAME: &str = "a_child_of_a_process_that_is_building_its_first_arena";
    if common::sanitized() {
        return common::not_run(NAME, "sanitizers have locks of their own");
    }
    // A user-mode emulator has such locks too: a child hung there once in some hundreds.
    if !common::own_kernel(NAME) {
        return;
    }
    child::run(NAME, || {
        for round in 0..common::often(200) {
            // Each time in a process of its own, in which nothing was found out yet.
            let ended = fork(|| {
                let start = std::sync::Barrier::new(2);
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        start.wait();
                        for mode in [WxMode::Flip, WxMode::FileWrite, WxMode::DualMap] {
                            let Ok(arena) = small(mode).build() else { continue };
                            assert_eq!(call(&arena.publish(&asm::constant(1)).unwrap()), 1);
                        }
                    });
                    start.wait();
                    for _ in 0..20 {
                        // SAFETY: the child takes no lock except the crate's own. It allocates,
                        // which the C library makes possible, and ends.
                        let grandchild = unsafe { libc::fork() };
                        if grandchild == 0 {
                            // SAFETY: has no requirements; the signal ends a child that hangs.
                            unsafe { libc::alarm(30) };
                            let works = [WxMode::Flip, WxMode::FileWrite].into_iter().all(|mode| {
                                small(mode).build().map_or(true, |arena| {
                                    arena.publish(&asm::constant(2)).is_ok_and(|block| call(&block) == 2)
                                })
                            });
                            // SAFETY: ends the child without running what belongs to the parent.
                            unsafe { libc::_exit(i32::from(!works)) };
                        }
                        let mut status = 0;
                        // SAFETY: `status` is valid for the call to write to.
                        assert_eq!(unsafe { libc::waitpid(grandchild, &raw mut status, 0) }, grandchild);
                        assert_eq!(status, 0, "a child was ended by a signal, or could not publish");
                    }
                });
            });
            assert!(ended, "round {round}");
        }
    });
}
