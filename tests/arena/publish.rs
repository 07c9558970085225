//! Tests of the arena's calls in every mode: what they return and refuse.
//!
//! - *Functions*: bytes, arguments, tags and figures of single functions and of batches. Functions
//!   of a batch branch to each other.
//! - *Bounds*: capacity, length and alignment at their smallest and largest values.
//! - *Other owners*: slots of another batch, addresses of another arena, and raw pointers.
//! - *`patch`*: the new bytes run, and only they are flushed.
//! - *Nothing is left*: a dropped batch frees all of its space. Reserved bytes are traps until they
//!   are written.
//! - *Modes*: a list of modes is tried in order, and every refusal can be read. An arena that is
//!   built `near` an address is in reach of it.
//!
//! A refusal is compared with the variant of `Error` and its fields. The tests loop over
//! `common::modes`, so a mode that the system does not have is left out without a message. Only the
//! test of `near` may print `NOT RUN`.

use crate::common::{self, asm, call, modes, publish_all, small};
use gaia_jit::{Code, CodeArena, Error, WxMode};

#[test]
fn publishes_and_runs() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let blocks = publish_all(&arena, (0..2_000).map(asm::constant));
        for (n, block) in (0..).zip(&blocks) {
            assert_eq!(call(block), n, "{mode:?}");
            assert_eq!(block.as_bytes(), asm::constant(n));
        }
        let stats = arena.stats();
        assert_eq!(stats.live_blocks, 2_000);
        assert_eq!(stats.live_bytes, blocks.iter().map(|b| b.len()).sum::<usize>());
        assert!(stats.resident_bytes <= stats.live_bytes + stats.padding_bytes + 4096 * 16, "{stats}");
    }
}

#[test]
fn arguments_arrive() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let block = arena.publish(&asm::add()).unwrap();
        // SAFETY: the code is of this type, and the block lives.
        let add = unsafe { block.as_fn::<extern "C" fn(u32, u32) -> u32>() };
        assert_eq!(add(40, 2), 42);
    }
}

#[test]
fn a_batch_links_its_functions() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        for count in [1, 3, 200, 3_000] {
            let mut batch = arena.batch();
            let targets: Vec<_> = (0..count).map(|n| batch.push(&asm::constant(n)).unwrap()).collect();
            let callers: Vec<_> = targets.iter().map(|_| batch.reserve(asm::tail_len(), 16).unwrap()).collect();
            for (&target, &caller) in targets.iter().rev().zip(&callers) {
                let code = asm::tail_call(batch.address(caller), batch.address(target));
                batch.bytes_mut(caller).copy_from_slice(&code);
                batch.set_tag(caller, caller.index() as u64);
            }
            let blocks = batch.publish().unwrap();
            assert_eq!(blocks.len(), 2 * count as usize);
            for n in 0..count {
                let caller = &blocks[(count + n) as usize];
                assert_eq!(call(caller), count - 1 - n, "{mode:?} batch of {count}");
                assert_eq!(caller.tag(), u64::from(count + n));
            }
        }
    }
}

#[test]
fn sizes_and_alignments_at_their_bounds() {
    for mode in modes() {
        assert!(matches!(CodeArena::builder().mode(mode).capacity(0).build(), Err(Error::ZeroSize)));
        assert!(matches!(
            CodeArena::builder().mode(mode).capacity(usize::MAX).build(),
            Err(Error::TooLarge { asked: usize::MAX, .. })
        ));
        let arena = CodeArena::builder().mode(mode).capacity(4 << 20).build().unwrap();
        assert_eq!((arena.capacity(), arena.mode()), (4 << 20, mode));
        assert!(matches!(arena.publish(&[]), Err(Error::ZeroSize)));
        let too_large = vec![0; (4 << 20) + 1];
        assert!(matches!(arena.publish(&too_large[..]), Err(Error::TooLarge { asked: 4_194_305, limit: 4_194_304 })));
        let code = asm::constant(7);
        for align in [0, 3, 48, 4 << 20, usize::MAX] {
            assert!(matches!(arena.publish(Code::new(&code).align(align)), Err(Error::BadAlignment { .. })));
        }
        let mut batch = arena.batch();
        assert!(matches!(batch.reserve(usize::MAX, 16), Err(Error::TooLarge { .. })));
        assert!(matches!(batch.reserve(0, 16), Err(Error::ZeroSize)));
        assert!(matches!(batch.reserve(1, 6), Err(Error::BadAlignment { .. })));
        drop(batch);
        let blocks: Vec<_> = (0..22)
            .rev()
            .map(|shift| {
                let block = arena.publish(Code::new(&code).align(1 << shift)).unwrap();
                assert_eq!(block.as_ptr() as usize % (1 << shift), 0);
                assert_eq!(call(&block), 7);
                block
            })
            .collect();
        assert!(matches!(arena.publish(&too_large[1..]), Err(Error::ArenaFull { asked: 4_194_304, .. })));
        drop(blocks);
        // An arena that is empty again holds one block of its whole capacity.
        let whole = arena.publish(&too_large[1..]).unwrap();
        assert_eq!((whole.len(), arena.stats().free_bytes), (4 << 20, 0));
        assert!(matches!(arena.publish(&code), Err(Error::ArenaFull { free: 0, largest_hole: 0, .. })));
        drop(whole);
        assert_eq!(arena.stats().free_bytes, 4 << 20);
    }
}

#[test]
fn the_smallest_arena_works() {
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).capacity(1).build().unwrap();
        assert_eq!(arena.capacity(), region::page::size());
        let block = arena.publish(&asm::constant(5)).unwrap();
        assert_eq!(call(&block), 5);
    }
}

#[test]
fn foreign_slots_and_pointers_are_told_apart() {
    for mode in modes() {
        let (one, other) = (small(mode).build().unwrap(), small(mode).build().unwrap());
        let (mut a, mut b) = (one.batch(), one.batch());
        let slot = a.push(&asm::constant(1)).unwrap();
        b.push(&asm::constant(2)).unwrap();
        assert!(b.address(slot).is_null());
        assert!(b.bytes_mut(slot).is_empty());
        b.set_tag(slot, 1);
        assert_eq!(b.publish().unwrap()[0].tag(), 0);
        let block = one.publish(&asm::constant(3)).unwrap();
        assert!(one.contains(block.as_ptr()) && !other.contains(block.as_ptr()));
        assert!(other.lookup(block.as_ptr()).is_none());
        for address in [std::ptr::null(), block.as_ptr().wrapping_add(1), (&raw const slot).cast()] {
            // SAFETY: the call is refused.
            let refused = unsafe { one.from_raw(address) };
            assert!(matches!(refused, Err(Error::NotInArena { .. })));
        }
        let raw = block.into_raw();
        drop(a);
        drop((one.clone(), other));
        // SAFETY: the pointer was given up by `into_raw`, and is taken back once.
        let block = unsafe { one.from_raw(raw) }.unwrap();
        drop(one);
        assert_eq!(call(&block), 3);
    }
}

#[test]
fn code_is_patched() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        if mode == WxMode::Flip && arena.stats().kernel_writes == 0 && arena.publish(&[0]).is_ok() {
            // Without the kernel write a patch is refused; the tests of refused calls cover that.
            if arena.stats().kernel_writes == 0 {
                continue;
            }
        }
        let block = arena.publish(&asm::constant(1)).unwrap();
        assert_eq!(call(&block), 1);
        let flushed = arena.stats().flushed_bytes;
        // SAFETY: nobody runs the block now.
        unsafe { block.patch(0, &asm::constant(2)) }.unwrap();
        assert_eq!(arena.stats().flushed_bytes - flushed, asm::constant(2).len() as u64);
        assert_eq!(call(&block), 2);
        for (offset, len) in [(0, block.len() + 1), (block.len(), 1), (usize::MAX, 1), (1, block.len())] {
            // SAFETY: the call is refused.
            let refused = unsafe { block.patch(offset, &vec![0; len]) };
            assert!(matches!(refused, Err(Error::PastCapacity { .. })));
        }
        // SAFETY: nothing is written.
        unsafe { block.patch(block.len(), &[]) }.unwrap();
        assert_eq!(call(&block), 2);
    }
}

#[test]
fn a_dropped_batch_leaves_nothing() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let before = arena.stats();
        for count in [0, 1, 100, 5_000] {
            let mut batch = arena.batch();
            for _ in 0..count {
                batch.push(&asm::constant(1)).unwrap();
            }
            drop(batch);
            let stats = arena.stats();
            assert_eq!((stats.free_bytes, stats.live_blocks, stats.batch_bytes), (before.free_bytes, 0, 0));
            assert_eq!(stats.largest_hole, arena.capacity());
        }
        assert!(arena.batch().publish().unwrap().is_empty());
    }
}

#[test]
fn reserved_and_never_written_it_traps() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let mut batch = arena.batch();
        let slot = batch.reserve(64, 16).unwrap();
        let expected: &[u8] = if cfg!(any(target_arch = "x86", target_arch = "x86_64")) {
            &[0xcc]
        } else if cfg!(target_arch = "aarch64") {
            &[0, 0, 0x20, 0xd4]
        } else {
            continue;
        };
        assert_eq!(batch.bytes_mut(slot), expected.repeat(64 / expected.len()));
        assert_eq!(batch.publish().unwrap()[0].as_bytes(), expected.repeat(64 / expected.len()));
    }
}

#[test]
fn modes_without_support_say_so() {
    for (mode, name) in [(WxMode::DualMap, "DualMap"), (WxMode::PerThread, "PerThread")] {
        match small(mode).build() {
            Ok(arena) => assert_eq!(arena.mode(), mode),
            Err(Error::Unsupported { what, why }) => assert!(what == name && !why.is_empty()),
            Err(other) => panic!("{mode:?}: {other}"),
        }
    }
}

#[test]
fn near_is_near() {
    let here = near_is_near as *const u8;
    for mode in modes() {
        let Some(arena) = common::near("near_is_near", small(mode).near(here)) else { continue };
        let reach = if cfg!(target_arch = "aarch64") { 128 << 20 } else { 2usize << 30 };
        let block = arena.publish(&asm::constant(9)).unwrap();
        assert!(block.as_ptr().addr().abs_diff(here.addr()) < reach);
        assert_eq!(call(&block), 9);
    }
}

/// The first mode of a list that the system allows is used, and the refusals before it can be read.
#[test]
fn the_first_mode_of_a_list_that_can_be_had_is_used() {
    let all = [WxMode::PerThread, WxMode::FileWrite, WxMode::DualMap, WxMode::Flip];
    let can_be_had: Vec<_> = common::modes().collect();
    for n in 0..all.len() {
        let arena = CodeArena::builder().capacity(1 << 20).modes(&all[n..]).build().unwrap();
        let first = all[n..].iter().position(|mode| can_be_had.contains(mode)).unwrap();
        assert_eq!(arena.mode(), all[n + first]);
        let refused: Vec<_> = arena.refused().iter().map(|(mode, _)| *mode).collect();
        assert_eq!(refused, all[n..n + first]);
        assert!(arena.refused().iter().all(|(_, why)| matches!(why, Error::Unsupported { .. })));
    }
    let empty = CodeArena::builder().modes(&[]).build();
    assert!(matches!(&empty, Err(Error::Unsupported { why, .. }) if why.contains("empty")), "{empty:?}");
    // An error that can pass is no reason to use another mode. A wrong size is wrong in all modes.
    let large = CodeArena::builder().capacity(usize::MAX).modes(&all).build();
    assert!(matches!(large, Err(Error::TooLarge { .. })), "{large:?}");
}
