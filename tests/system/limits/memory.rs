//! Tests at the limit of memory, and with locked memory.

use gaia_jit::{CodeArena, Error, WxMode};

use super::limit_soft;
use crate::common::{self, LARGE, asm, call, child, modes, small};

/// A lack of memory while code is overwritten or staged is an error or is absorbed. It does not
/// abort.
#[test]
fn large_blocks_at_the_memory_limit_do_not_abort() {
    if !common::own_kernel("large_blocks_at_the_memory_limit_do_not_abort") {
        return;
    }
    child::run("large_blocks_at_the_memory_limit_do_not_abort", || {
        if cfg!(target_pointer_width = "32") {
            return;
        }
        for mode in modes() {
            let arena = CodeArena::builder().mode(mode).capacity(LARGE).poison(true).build().unwrap();
            let mut batch = arena.batch();
            batch.reserve(LARGE / 5 * 3, 16).unwrap();
            let blocks = batch.publish().unwrap();
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            let used = statm.split(' ').next().unwrap().parse::<u64>().unwrap() * region::page::size() as u64;
            limit_soft(libc::RLIMIT_AS, used + LARGE as u64 / 16);
            drop(blocks);
            let small = arena.publish(&asm::constant(1)).unwrap();
            let mut batch = arena.batch();
            // The whole rest, but not in whole pages: in `Flip` it would have to be staged.
            match batch.reserve(LARGE - 16, 16) {
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

/// A process that locks its memory, as audio and real-time programs do.
#[test]
fn locked_memory_works() {
    if !common::own_kernel("locked_memory_works") {
        return;
    }
    child::run("locked_memory_works", || {
        let before: Vec<_> = modes().map(|mode| small(mode).build().unwrap()).collect();
        // SAFETY: takes a number only.
        if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } != 0 {
            eprintln!("not run: this process may not lock memory");
            return;
        }
        for arena in before.into_iter().chain(modes().map(|mode| small(mode).build().unwrap())) {
            let blocks = common::publish_all(&arena, (0..300).map(|n| asm::padded(n, 2_000)));
            assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n));
            drop(blocks);
            assert!(arena.trim().unwrap() > 500_000, "{:?}", arena.mode());
            assert_eq!(arena.stats().resident_bytes, 0);
            assert_eq!(arena.stats().largest_hole, arena.capacity());
            assert_eq!(call(&arena.publish(&asm::constant(8)).unwrap()), 8);
        }
    });
}
