//! Blocks of data, under a system that counts and refuses.
//!
//! | what | how it is checked | mistake that it finds |
//! |---|---|---|
//! | constants in shared pages | the log of calls has no `open` | a page with constants that is writable for a moment |
//! | both kinds in a full area | no page has both, and writable blocks are written to | a protection that is wrong for one of them |
//! | one refused call, for each n | figures are 0 at the end, and at most one error | a leak, or an error that could be avoided |
//! | no kernel write, from the start or later | constants take whole pages | a write to read-only pages, or a failure that lasts |
//! | random blocks and guards | each block keeps its byte while it lives or waits | space that is used again too early |
//!
//! Each test runs in every mode of the machine. The system is a `Faulty`, except in the random
//! test. Where the kernel does not write to read-only pages, the tests of shared pages check less
//! or nothing.

use super::common::{asm, call, fills_holes, small};
use super::faulty::Faulty;
use crate::sys::{Native, Os};
use crate::{CodeArena, DataAccess, DataBlock, Error, WxMode};

fn bytes_of(block: &DataBlock) -> Vec<u8> {
    // SAFETY: the block lives, and nobody writes to it.
    (0..block.len()).map(|at| unsafe { block.as_ptr().wrapping_add(at).read_volatile() }).collect()
}

fn modes() -> impl Iterator<Item = WxMode> {
    [WxMode::Flip, WxMode::DualMap, WxMode::PerThread, WxMode::FileWrite]
        .into_iter()
        .filter(|mode| small(*mode).build().is_ok())
}

/// Whether the kernel writes to read-only pages here.
fn kernel_writes() -> bool {
    fills_holes(WxMode::Flip)
}

/// Constants of many blocks share pages, and a page with constants is never opened.
#[test]
fn constants_share_pages_that_are_never_writable() {
    for mode in modes() {
        let system = Faulty::leaked();
        let arena = small(mode).data(4 << 20).os(system).build().unwrap();
        // Finds the way out.
        drop(arena.data(1, 1, DataAccess::ReadOnly, |_, _| {}).unwrap());
        system.take_log();
        let constant = |n: u8| arena.data(100, 32, DataAccess::ReadOnly, |_, bytes| bytes.fill(n)).unwrap();
        let mut blocks: Vec<_> = (1..=100).map(constant).collect();
        let log = system.take_log();
        if !kernel_writes() {
            assert_eq!(log.iter().filter(|call| matches!(**call, "seal" | "bar")).count(), 100, "{mode:?}");
            continue;
        }
        assert!(!log.contains(&"open"), "{mode:?}: {log:?}");
        assert_eq!(log.iter().filter(|call| **call == "write").count(), 100);
        assert!(log.iter().filter(|call| matches!(**call, "seal" | "bar")).count() <= 1, "{mode:?}: {log:?}");
        assert!(arena.stats().data_resident_bytes <= 12_800_usize.next_multiple_of(Native.page_size()));
        // Holes are filled again, and the neighbours stay.
        for n in (0..100).step_by(3) {
            blocks[n] = constant(200);
        }
        assert!(!system.take_log().contains(&"open"));
        for (n, block) in blocks.iter().enumerate() {
            let byte = if n % 3 == 0 { 200 } else { n as u8 + 1 };
            assert_eq!(bytes_of(block), [byte; 100]);
        }
        drop(blocks);
        assert_eq!((arena.stats().data_bytes, arena.stats().data_blocks), (0, 0));
        let _ = arena.trim();
        assert_eq!(arena.stats().data_resident_bytes, 0);
    }
}

/// A hardened kernel (`proc_mem.force_override`) writes through `/proc/self/mem` only where the
/// process may write itself. Constants then have pages of their own, and none is refused.
#[test]
fn constants_where_the_kernel_writes_to_writable_pages_only() {
    for mode in modes() {
        let system = Faulty::leaked();
        system.refuse(&["forced write"]);
        let arena = small(mode).data(1 << 20).os(system).build().unwrap();
        let blocks: Vec<_> =
            (1..=20).map(|n| arena.data(100, 32, DataAccess::ReadOnly, |_, bytes| bytes.fill(n)).unwrap()).collect();
        let mut batch = arena.batch();
        batch.data(40, 8, DataAccess::ReadOnly, |_, bytes| bytes.fill(30)).unwrap();
        batch.push(&asm::constant(4)).unwrap();
        let (published, data) = batch.publish_with_data().unwrap();
        assert_eq!((call(&published[0]), bytes_of(&data[0])), (4, vec![30; 40]), "{mode:?}");
        assert!((1..).zip(&blocks).all(|(n, block)| bytes_of(block) == [n; 100]), "{mode:?}");
        #[cfg(target_os = "linux")]
        for block in &blocks {
            let rights = super::common::maps::mappings(block.as_ptr().addr(), block.len());
            assert!(rights.iter().all(|rights| rights.starts_with("r--")), "{mode:?}: {rights:?}");
        }
        drop((blocks, published, data));
        assert_eq!(arena.stats().data_bytes, 0);
    }
}

/// What is of one kind and lies where the other one has its pages shares no page with it.
#[test]
fn a_full_area_mixes_no_kinds_in_a_page() {
    for (mode, refused) in modes().flat_map(|mode| [(mode, false), (mode, true)]) {
        let page = Native.page_size();
        let system = Faulty::leaked();
        if refused {
            system.refuse(&["writer"]);
        }
        let arena = small(mode).data(128 << 10).os(system).build().unwrap();
        let place = |access, len: usize, n: u8| arena.data(len, 16, access, |_, bytes| bytes.fill(n));
        for first in [DataAccess::ReadOnly, DataAccess::ReadWrite] {
            let second = if first == DataAccess::ReadOnly { DataAccess::ReadWrite } else { DataAccess::ReadOnly };
            // All of the area is of the first kind; then holes.
            let mut blocks: Vec<_> = std::iter::from_fn(|| place(first, 1_000, 1).ok()).collect();
            assert!(
                blocks.len() * 1_000 > (64 << 10) || page > 4096 || refused || !kernel_writes(),
                "{}",
                blocks.len()
            );
            let mut kept = Vec::new();
            // Every eighth stays, but for a run of pages.
            for (n, block) in blocks.drain(..).enumerate() {
                if n % 8 == 0 && !(16..32).contains(&n) {
                    kept.push(block);
                }
            }
            let mut others = Vec::new();
            while let Ok(block) = place(second, 100, 2) {
                others.push(block);
            }
            // Under way: a fault would end this.
            for block in &others {
                if let Some(at) = block.as_mut_ptr() {
                    // SAFETY: ours, and writable.
                    unsafe { at.write_volatile(3) };
                }
            }
            let refill: Vec<_> = std::iter::from_fn(|| place(first, 16, 4).ok()).collect();
            for block in kept.iter().chain(&others).chain(&refill) {
                let is_shared = |other: &&DataBlock| {
                    other.access() != block.access() && other.as_ptr() as usize / page == block.as_ptr() as usize / page
                };
                assert!(
                    !kept.iter().chain(&others).chain(&refill).any(|other| is_shared(&other)),
                    "{mode:?} {block:?}"
                );
                if let Some(at) = block.as_mut_ptr() {
                    // SAFETY: ours, and writable.
                    unsafe { at.write_volatile(5) };
                }
            }
            drop((kept, others, refill));
            assert_eq!(arena.stats().data_bytes, 0);
        }
    }
}

/// Any call is refused, and nothing is lost: by themselves, and in a batch with code.
#[test]
fn any_one_call_is_refused_and_nothing_is_lost() {
    for mode in modes() {
        let system = Faulty::leaked();
        for n in 0.. {
            let arena = small(mode).os(system).build().unwrap();
            let kept = arena.data(40, 8, DataAccess::ReadOnly, |_, bytes| bytes.fill(9)).unwrap();
            system.fail_nth(n);
            let mut errors = 0;
            let mut note = |error: Error| {
                assert!(matches!(error, Error::OperatingSystem { .. }), "{error:?}");
                errors += 1;
            };
            for access in [DataAccess::ReadOnly, DataAccess::ReadWrite] {
                match arena.data(5_000, 64, access, |_, bytes| bytes.fill(1)) {
                    Ok(block) => assert_eq!(bytes_of(&block), [1; 5_000]),
                    Err(error) => note(error),
                }
                let mut batch = arena.batch();
                let _ = batch.push(&super::common::asm::constant(3)).map_err(&mut note);
                let placed = (0..3)
                    .filter_map(|n| batch.data(600, 16, access, |_, bytes| bytes.fill(n)).map_err(&mut note).ok());
                let placed: Vec<_> = placed.collect();
                assert!(placed.iter().all(|slot| arena.contains(batch.data_address(*slot))));
                match batch.publish_with_data() {
                    Ok((_, data)) => assert!(data.len() == placed.len() && data.iter().all(|block| block.len() == 600)),
                    Err(error) => note(error),
                }
            }
            let failed = system.has_failed();
            system.heal();
            assert_eq!(bytes_of(&kept), [9; 40]);
            drop(kept);
            let _ = arena.trim();
            let stats = arena.stats();
            assert_eq!(
                (stats.live_blocks, stats.batch_bytes, stats.data_bytes),
                (0, 0, 0),
                "{mode:?} call {n}: {stats}"
            );
            assert_eq!((stats.data_blocks, stats.data_resident_bytes), (0, 0), "{mode:?} call {n}");
            if !failed {
                assert_eq!(errors, 0);
                break;
            }
            // A refusal of what can be done without is none.
            assert!(errors <= 1, "{mode:?} call {n}");
        }
    }
}

/// Where the kernel write is refused constants take whole pages, those of a batch together.
#[test]
fn without_the_kernel_write_constants_take_pages() {
    for mode in modes() {
        let system = Faulty::leaked();
        system.refuse(&["writer"]);
        let arena = small(mode).data(1 << 20).os(system).build().unwrap();
        let page = Native.page_size();
        let constant = |n: u8| arena.data(100, 32, DataAccess::ReadOnly, |_, bytes| bytes.fill(n)).unwrap();
        let blocks: Vec<_> = (1..5).map(constant).collect();
        let pages: std::collections::BTreeSet<_> = blocks.iter().map(|block| block.as_ptr() as usize / page).collect();
        assert_eq!(pages.len(), 4, "{mode:?}");
        assert!((1..5).zip(&blocks).all(|(n, block)| bytes_of(block) == [n; 100]));
        let mut batch = arena.batch();
        let slots: Vec<_> =
            (0..8).map(|n| batch.data(100, 32, DataAccess::ReadOnly, |_, bytes| bytes.fill(n)).unwrap()).collect();
        let addresses: Vec<_> = slots.iter().map(|slot| batch.data_address(*slot)).collect();
        let (_, data) = batch.publish_with_data().unwrap();
        assert!(addresses.iter().zip(&data).all(|(at, block)| *at == block.as_ptr()));
        assert!((0..8).zip(&data).all(|(n, block)| bytes_of(block) == [n; 100]));
        assert_eq!((arena.stats().data_blocks, arena.stats().data_bytes), (12, 4 * 112 + 8 * 112));
        // What a batch left of its pages is not written to as long as one of its blocks is there.
        let later: Vec<_> = (0..4).map(constant).collect();
        let of_batch = data[0].as_ptr() as usize / page;
        assert!(later.iter().all(|block| block.as_ptr() as usize / page != of_batch));
        // It gives all of it back without being published.
        let mut batch = arena.batch();
        batch.data(100, 32, DataAccess::ReadOnly, |_, _| {}).unwrap();
        drop((batch, blocks, data, later));
        assert_eq!((arena.stats().data_blocks, arena.stats().data_bytes), (0, 0));
        system.heal();
    }
}

/// Two hundred blocks that come and go in any order under guards that come and go.
#[test]
fn random_blocks_are_disjoint_and_wait_for_guards() {
    for (mode, seed) in modes().zip(0..) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let arena = CodeArena::builder().capacity(1 << 20).mode(mode).data(256 << 10).build().unwrap();
        let (mut blocks, mut guards, mut waits) = (Vec::new(), std::collections::VecDeque::new(), Vec::new());
        for step in 0..1_000_u32 {
            match rng.u32(..10) {
                0..5 => {
                    let access = if rng.bool() { DataAccess::ReadOnly } else { DataAccess::ReadWrite };
                    let (len, byte) = (rng.usize(1..3_000), rng.u8(..));
                    let made = arena.data(len, 1 << rng.u32(0..8), access, |_, bytes| {
                        assert!(bytes.iter().all(|byte| *byte == 0));
                        bytes.fill(byte);
                    });
                    match made {
                        Ok(block) => blocks.push((block, byte)),
                        Err(Error::DataFull { .. }) => {
                            blocks.truncate(blocks.len() / 2);
                            guards.clear();
                            waits.clear();
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
                5..8 if !blocks.is_empty() => {
                    let (block, byte) = blocks.swap_remove(rng.usize(..blocks.len()));
                    if !guards.is_empty() {
                        waits.push((block.as_ptr(), block.len(), byte));
                    }
                    drop(block);
                }
                8 => guards.push_back(arena.pin()),
                _ => {
                    // The one that the dropped blocks wait for.
                    guards.pop_front();
                    waits.clear();
                }
            }
            if step % 10 > 0 {
                continue;
            }
            assert!(blocks.iter().all(|(block, byte)| bytes_of(block).iter().all(|seen| seen == byte)), "step {step}");
            // What was dropped under a guard that is still held stands as it did.
            for (at, len, byte) in &waits {
                // SAFETY: not used again before the guards are gone.
                assert!((0..*len).all(|n| unsafe { at.wrapping_add(n).read_volatile() } == *byte), "step {step}");
            }
        }
        drop((blocks, guards));
        let stats = arena.stats();
        assert_eq!((stats.data_bytes, stats.data_blocks, stats.pending_data_bytes), (0, 0, 0), "{mode:?}");
    }
}

/// The kernel write is forbidden after the first constants: one call fails, and the next ones take
/// pages of their own.
#[test]
fn a_write_that_is_forbidden_later_costs_one_call() {
    for mode in modes().filter(|_| kernel_writes()) {
        let system = Faulty::leaked();
        let arena = small(mode).os(system).build().unwrap();
        let constant = |n: u8| arena.data(100, 32, DataAccess::ReadOnly, |_, bytes| bytes.fill(n));
        let first = [constant(1).unwrap(), constant(2).unwrap()];
        system.forbid("write", 0);
        assert!(matches!(constant(3), Err(Error::OperatingSystem { .. })), "{mode:?}");
        let (third, fourth) = (constant(3).unwrap(), constant(4).unwrap());
        for (n, block) in (1..).zip(first.iter().chain([&third, &fourth])) {
            assert_eq!(bytes_of(block), [n; 100]);
        }
        let page = Native.page_size();
        assert_ne!(third.as_ptr() as usize / page, fourth.as_ptr() as usize / page);
        system.heal();
        drop((first, third, fourth));
        assert_eq!(arena.stats().data_bytes, 0);
    }
}
