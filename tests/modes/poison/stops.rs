//! Tests of stale calls: each has to stop, and none may run into another function.
//!
//! | Address of the call | Variants |
//! |---|---|
//! | a dropped function | before and after `trim`, in small and large batches |
//! | padding, and a reserved end that was not needed | short and long |
//! | pages without code | never used, opened by a batch, gaps for alignment |
//! | a batch that was given up | staged bytes and pages of its own |
//!
//! `stops` of `mod.rs` forks a child for each call and looks at its signal. The tests have
//! processes of their own, because a child must not inherit a lock that a thread of another test
//! holds. A control shows that the same call runs on if pages without memory stay executable.
//!
//! The last test is the opposite: with `keep_free`, `trim` and `collapse` in turn, every live
//! function runs. It exists to catch a page that was barred and not opened again.

use gaia_jit::{CodeArena, CodeBlock, WxMode};

use super::{PAGE, arena, ends_by, pages_of_code, stops};
use crate::common::{asm, call, child, modes};

#[test]
fn a_dropped_function_stops_and_after_a_trim_too() {
    child::run("a_dropped_function_stops_and_after_a_trim_too", || {
        for mode in modes() {
            // Staged batches, and batches in pages of their own.
            for count in [4, 40] {
                let arena = arena(mode, true);
                let mut blocks = pages_of_code(&arena, count);
                assert_eq!(ends_by(blocks[1].as_ptr()), None, "{mode:?}: the control");
                let address = blocks.remove(1).as_ptr();
                if arena.stats().fills_holes {
                    stops(address, &format!("{mode:?}: dropped"));
                }
                let trimmed = arena.trim().unwrap();
                if trimmed > 0 || arena.stats().fills_holes {
                    stops(address, &format!("{mode:?}: trimmed"));
                    stops(address.wrapping_add(PAGE - 16), &format!("{mode:?}: trimmed"));
                }
                // The space can be used again.
                blocks.extend(pages_of_code(&arena, 1));
                let again = arena.publish(&asm::constant(77)).unwrap();
                assert_eq!(call(&again), 77);
                if arena.stats().fills_holes {
                    stops(again.as_ptr().wrapping_add(16), &format!("{mode:?}: beside what is new in a page"));
                }
                assert_eq!(call(&blocks[0]), 0);
                assert_eq!(call(&blocks[1]), 2);
            }
        }
    });
}

/// The control: what the calls above do if pages without memory are executable.
#[test]
fn the_control_runs_on() {
    child::run("the_control_runs_on", || {
        let arena = arena(WxMode::Flip, false);
        let mut blocks = pages_of_code(&arena, 4);
        let address = blocks.remove(1).as_ptr();
        if cfg!(target_os = "linux") && arena.trim().unwrap() > 0 {
            assert_eq!(ends_by(address), None);
        }
        assert_eq!(call(&blocks[0]), 0);
    });
}

#[test]
fn padding_stops() {
    child::run("padding_stops", || {
        for mode in modes() {
            for poison in [false, true] {
                let arena = arena(mode, poison);
                let short: Vec<_> =
                    [6, 500, 1_017].iter().map(|len| arena.publish(&asm::padded(1, *len)).unwrap()).collect();
                // For longer padding a second system call would be necessary.
                let long =
                    [3_001, 70_001].iter().filter(|_| poison).map(|len| arena.publish(&asm::padded(1, *len)).unwrap());
                let long: Vec<_> = long.collect();
                let mut batch = arena.batch();
                [7, 900, 5_001].iter().for_each(|len| assert!(batch.push(&asm::padded(1, *len)).is_ok()));
                let batch = batch.publish().unwrap();
                let behind = arena.publish(&asm::constant(5)).unwrap();
                for block in short.iter().chain(&long).chain(&batch) {
                    stops(block.as_ptr().wrapping_add(block.len()), &format!("{mode:?}: behind {} bytes", block.len()));
                }
                assert_eq!(call(&behind), 5);
            }
        }
    });
}

#[test]
fn a_page_that_never_held_code_stops() {
    child::run("a_page_that_never_held_code_stops", || {
        for mode in modes() {
            if cfg!(not(any(target_os = "linux", target_os = "android"))) {
                continue;
            }
            let arena = arena(mode, true);
            let first = arena.publish(&asm::constant(1)).unwrap();
            let base = first.as_ptr().addr() & !(PAGE - 1);
            let at = |offset: usize| first.as_ptr().wrapping_add(base - first.as_ptr().addr() + offset);
            for offset in [48, PAGE - 16, PAGE, 5 * PAGE + 64, (1 << 20) - PAGE] {
                stops(at(offset), &format!("{mode:?}: at {offset}"));
            }
            // Pages that a batch opened and did not use, and gaps for alignment.
            let mut batch = arena.batch();
            let slots: Vec<_> = (0..70).map(|n| batch.push(&asm::padded(n, 1_010)).unwrap()).collect();
            let aligned = batch.reserve(8, 3 * PAGE / 3).unwrap();
            batch.bytes_mut(aligned)[..6].copy_from_slice(&asm::constant(9));
            let aligned = batch.address(aligned);
            let blocks = batch.publish().unwrap();
            assert!((0..70).zip(&slots).all(|(n, slot)| call(&blocks[slot.index()]) == n));
            for offset in [16, 64, PAGE - 16, PAGE, 2 * PAGE + 160] {
                stops(aligned.wrapping_add(offset), &format!("{mode:?}: behind a batch, {offset}"));
            }
            stops(aligned.wrapping_sub(16), &format!("{mode:?}: before an aligned function"));
            assert_eq!(call(&first), 1);
        }
    });
}

#[test]
fn an_address_of_a_batch_that_was_given_up_stops() {
    child::run("an_address_of_a_batch_that_was_given_up_stops", || {
        for mode in modes() {
            for (poison, count) in [(false, 5), (false, 100), (true, 5), (true, 100)] {
                let arena = arena(mode, poison);
                let kept = arena.publish(&asm::constant(3)).unwrap();
                let mut batch = arena.batch();
                let slots: Vec<_> = (0..count).map(|n| batch.push(&asm::padded(n, 1_000)).unwrap()).collect();
                if count == 5 {
                    // Written already, and to be written again.
                    batch.bytes_mut(slots[2])[0] = asm::constant(1)[0];
                }
                let named: Vec<_> = slots.iter().map(|slot| batch.address(*slot)).collect();
                drop(batch);
                let behind = arena.publish(&asm::padded(4, 3 * PAGE)).unwrap();
                let live = |address: &&*const u8| arena.lookup(**address).is_none();
                // Bytes in ordinary memory were never in the arena before they are published. The
                // arena may hold older bytes.
                let staged = !poison && matches!(mode, WxMode::Flip | WxMode::FileWrite);
                for address in named.iter().filter(live) {
                    if staged {
                        assert!(count == 5 || !matches!(&read(*address)[..], [0xb8, ..]), "{mode:?}: code is there");
                    } else {
                        stops(*address, &format!("{mode:?}, poison {poison}, {count} functions"));
                    }
                }
                assert_eq!((call(&kept), call(&behind)), (3, 4));
            }
        }
    });
}

/// The part that a function reserved and did not need does not hold bytes that were written there.
#[test]
fn the_end_that_was_not_needed_stops() {
    child::run("the_end_that_was_not_needed_stops", || {
        for mode in modes() {
            for len in [600, 100_000] {
                let arena = arena(mode, true);
                let write = |_: *const u8, bytes: &mut [u8]| {
                    for at in [0, 304, len - 64] {
                        bytes[at..at + 6].copy_from_slice(&asm::constant(6));
                    }
                    Ok(32)
                };
                let block = arena.publish_with(gaia_jit::Reserve::new(len), write).unwrap();
                let behind = arena.publish(&asm::padded(7, 8 * PAGE)).unwrap();
                for address in [304, len - 64].map(|at| block.as_ptr().wrapping_add(at)) {
                    if arena.lookup(address).is_none() {
                        stops(address, &format!("{mode:?}: of {len} bytes"));
                    }
                }
                assert_eq!((call(&block), call(&behind)), (6, 7));
            }
        }
    });
}

fn read(address: *const u8) -> [u8; 6] {
    // SAFETY: it is inside of the arena, and its pages are mapped and readable.
    unsafe { address.cast::<[u8; 6]>().read() }
}

/// Memory of free runs is returned, used again, and moved to huge pages. Every function that is
/// placed there runs.
#[test]
fn what_is_placed_runs_whatever_was_trimmed() {
    for mode in modes() {
        let arena =
            CodeArena::builder().capacity(8 << 20).mode(mode).poison(true).keep_free(256 << 10).build().unwrap();
        let mut rng = fastrand::Rng::with_seed(7);
        let mut live: Vec<(u32, CodeBlock)> = Vec::new();
        for round in 0..60 {
            for _ in 0..rng.usize(..40) {
                let n = rng.u32(..30_000);
                let len = [20, 200, 3_000, 9_000, 70_000][rng.usize(..5)];
                live.push((n, arena.publish(&asm::padded(n, len)).unwrap()));
            }
            let mut batch = arena.batch();
            let numbers: Vec<u32> = (0..rng.usize(..90)).map(|_| rng.u32(..30_000)).collect();
            numbers.iter().for_each(|n| assert!(batch.push(&asm::padded(*n, 1_500)).is_ok()));
            if round % 5 != 4 {
                live.extend(numbers.into_iter().zip(batch.publish().unwrap()));
            }
            assert!(live.iter().all(|(n, block)| call(block) == *n), "{mode:?}");
            live.retain(|_| rng.u8(..10) < 4);
            match round % 7 {
                3 => assert!(arena.trim().is_ok()),
                5 => drop(arena.collapse()),
                _ => {}
            }
            assert!(live.iter().all(|(n, block)| call(block) == *n), "{mode:?}");
        }
        live.clear();
        arena.trim().unwrap();
        assert_eq!(arena.stats().free_bytes, 8 << 20);
    }
}
