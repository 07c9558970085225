//! Memory for modules, under a system that refuses any one call.
//!
//! A module is code that somebody else writes where it will run, with data of both kinds. `life` is
//! the scripted life of one module.
//!
//! | what | how it is checked | mistake that it finds |
//! |---|---|---|
//! | one refused call, for each n | `life`, then all figures are as at the start | space that is lost after an error |
//! | pages that could not be closed | the next reservation is in other pages | new bytes in pages with an unknown protection |
//! | a seal that is refused for good | published bytes are the written ones, or nothing is published | code that runs without its bytes |
//! | random data | pieces are disjoint, zero at first, and unchanged | overlap, or content of an earlier owner |
//! | `keep_free`, and no data area | resident bytes, `Error::DataFull` | memory that stays, or a panic |
//! | number of calls | the log of the system | one call for each small piece |

use std::ptr::NonNull;

use super::faulty::Faulty;
use crate::arena::{DataKind, Notes};
use crate::icache::RETURN_1_2;
use crate::sys::{Native, Os};
use crate::units::GRANULE;
use crate::{CodeArena, Error};

/// What a module does: data of both kinds and code, finalized twice, then freed. Errors do not end
/// it, but are counted.
fn life(arena: &CodeArena, page: usize) -> usize {
    let mut errors = 0;
    let mut note = |error: Error| {
        assert!(matches!(error, Error::OperatingSystem { .. }), "{error:?}");
        errors += 1;
    };
    let (mut code, mut data, mut constants) =
        (arena.in_place(), arena.data_pages(DataKind::Writable), arena.data_pages(DataKind::Constant));
    let mut blocks = Vec::new();
    for (round, function) in RETURN_1_2.iter().enumerate() {
        let mut fill = |at: Result<NonNull<u8>, Error>, bytes: &[u8]| match at {
            // SAFETY: reserved for as many bytes.
            Ok(at) => unsafe { at.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) },
            Err(error) => note(error),
        };
        fill(data.reserve(page + 1, 64), &[0xA5; 100]);
        fill(constants.reserve(8, 8), &[0x5A; 8]);
        fill(code.reserve(function.len(), 16, round as u64), function);
        fill(code.reserve(3 * page, GRANULE, round as u64), function);
        let _ = constants.make_read_only().map_err(&mut note);
        if let Err(error) = code.publish(&Notes::default(), &mut blocks) {
            note(error);
            // Once more, as nothing was lost.
            code.publish(&Notes::default(), &mut blocks).unwrap();
        }
        assert_eq!(code.len(), 0);
    }
    for block in &blocks {
        // SAFETY: all the code begins with such a function.
        let f = unsafe { block.as_fn::<extern "C" fn() -> u32>() };
        assert_eq!(u64::from(f()), block.tag() + 1);
    }
    errors
}

#[test]
fn any_one_call_is_refused_and_nothing_is_lost() {
    let system = Faulty::leaked();
    let page = system.page_size();
    for n in 0.. {
        let arena = CodeArena::builder().capacity(1 << 20).os(system).build().unwrap();
        system.fail_nth(n);
        let errors = life(&arena, page);
        let failed = system.has_failed();
        system.heal();
        // Frees what waits for the pages that could not be sealed.
        let _ = arena.trim().unwrap();
        let stats = arena.stats();
        assert_eq!((stats.live_blocks, stats.batch_bytes, stats.data_bytes), (0, 0, 0), "call {n}: {stats}");
        assert_eq!((stats.free_bytes, stats.data_resident_bytes), (stats.capacity, 0));
        if !failed {
            assert_eq!((errors, stats.resident_bytes), (0, 0));
            break;
        }
    }
}

/// The system may have changed a part of the pages when it refuses to change all.
#[test]
fn pages_that_could_not_be_closed_are_not_used_further() {
    let system = Faulty::leaked();
    let page = system.page_size();
    let arena = CodeArena::builder().capacity(1 << 20).os(system).build().unwrap();
    let (mut code, mut constants) = (arena.in_place(), arena.data_pages(DataKind::Constant));
    let page_of = |at: NonNull<u8>| at.addr().get() / page;
    let first = [code.reserve(16, 16, 0).unwrap(), constants.reserve(16, 16).unwrap()].map(page_of);
    system.refuse(&["seal", "bar"]);
    assert!(code.publish(&Notes::default(), &mut Vec::new()).is_err() && constants.make_read_only().is_err());
    system.heal();
    let second = [code.reserve(16, 16, 0).unwrap(), constants.reserve(16, 16).unwrap()].map(page_of);
    assert!(first[0] != second[0] && first[1] != second[1], "{first:?} {second:?}");
    let mut blocks = Vec::new();
    assert!(code.publish(&Notes::default(), &mut blocks).is_ok() && constants.make_read_only().is_ok());
    assert_eq!(blocks.len(), 2);
}

/// Random pieces of both kinds: none lies over another, each is zeros at first and keeps what was
/// written, what goes is used again before fresh memory, and nothing is left at the end.
#[test]
fn random_data_is_disjoint_and_all_of_it_comes_back() {
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let data = rng.usize(1..40) * (16 << 10);
        let arena = CodeArena::builder().capacity(1 << 20).data(data).build().unwrap();
        let page = Native.page_size();
        let (mut modules, mut most) = (Vec::new(), 0);
        for step in 0..400 {
            let kind = if rng.bool() { DataKind::Writable } else { DataKind::Constant };
            let mut pages = arena.data_pages(kind);
            let mut pieces = Vec::new();
            for _ in 0..rng.usize(1..6) {
                let most = 1 << rng.u32(1..14);
                let len = rng.usize(1..most);
                let align = 1 << rng.u32(0..9);
                let at = match pages.reserve(len, align) {
                    Ok(at) => at,
                    Err(Error::DataFull { asked, largest_hole, .. }) => {
                        assert!(
                            asked > largest_hole || align > 1 || kind == DataKind::Constant,
                            "{asked} {largest_hole}"
                        );
                        break;
                    }
                    Err(other) => panic!("{other}"),
                };
                assert_eq!(at.addr().get() % align, 0);
                assert!(arena.contains(at.as_ptr()) && arena.contains(at.as_ptr().wrapping_add(len - 1)));
                // SAFETY: reserved for as many bytes.
                let bytes = unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), len) };
                assert!(bytes.iter().all(|byte| *byte == 0), "seed {seed}, step {step}");
                bytes.fill(step as u8 | 1);
                pieces.push((at, len, step as u8 | 1));
            }
            if kind == DataKind::Constant {
                pages.make_read_only().unwrap();
            }
            modules.push((pages, pieces));
            while modules.len() > 8 || rng.u8(..) < 80 && !modules.is_empty() {
                drop(modules.swap_remove(rng.usize(..modules.len())));
            }
            for (at, len, byte) in modules.iter().flat_map(|(_, pieces)| pieces) {
                // SAFETY: as above; written and read by this thread alone.
                let bytes = unsafe { std::slice::from_raw_parts(at.as_ptr(), *len) };
                assert!(bytes.iter().all(|seen| seen == byte), "seed {seed}, step {step}");
            }
            let stats = arena.stats();
            most = most.max(stats.data_bytes);
            assert!(stats.data_bytes <= stats.data_capacity && stats.free_bytes == stats.capacity);
            if step % 97 == 0 {
                arena.trim().unwrap();
            }
        }
        modules.clear();
        assert!(arena.stats().data_resident_bytes <= 2 * most + (128 << 10) + 8 * page, "seed {seed}");
        arena.trim().unwrap();
        let stats = arena.stats();
        assert_eq!((stats.data_bytes, stats.data_resident_bytes), (0, 0), "seed {seed}");
        // All of it can be had in one piece.
        let whole = arena.data_pages(DataKind::Writable).reserve(stats.data_capacity, 1).unwrap();
        assert_eq!(whole.addr().get() % page, 0);
    }
}

/// Under `keep_free` the memory goes back by itself; without a data area there is an error.
#[test]
fn data_memory_goes_back_by_itself_and_may_be_none() {
    let arena = CodeArena::builder().capacity(1 << 20).keep_free(0).build().unwrap();
    let mut pages = arena.data_pages(DataKind::Writable);
    pages.reserve(50_000, 16).unwrap();
    assert!(arena.stats().data_resident_bytes >= 50_000);
    drop(pages);
    assert_eq!((arena.stats().data_bytes, arena.stats().data_resident_bytes), (0, 0));
    let none = CodeArena::builder().capacity(1 << 20).data(0).build().unwrap();
    let refused = none.data_pages(DataKind::Constant).reserve(1, 1);
    assert!(matches!(refused, Err(Error::DataFull { asked: 1.., free: 0, .. })), "{refused:?}");
    let large = CodeArena::builder().capacity(1 << 20).data(usize::MAX).build();
    assert!(matches!(large, Err(Error::TooLarge { .. })), "{large:?}");
}

/// Small pieces of many modules are made writable with one call for all of a span; constants take
/// one call each way.
#[test]
fn data_takes_few_calls() {
    let system = Faulty::leaked();
    if system.commits() {
        // Opened pages count there, and are opened as they are needed.
        return;
    }
    let arena = CodeArena::builder().capacity(1 << 20).os(system).build().unwrap();
    system.take_log();
    let modules: Vec<_> = (0..50)
        .map(|n| {
            let mut pages = arena.data_pages(DataKind::Writable);
            pages.reserve(100 + n, 16).unwrap();
            pages
        })
        .collect();
    assert_eq!(system.take_log(), ["open"]);
    drop(modules);
    (0..50).for_each(|_| assert!(arena.data_pages(DataKind::Writable).reserve(100, 16).is_ok()));
    assert!(system.take_log().is_empty());
    let mut constants = arena.data_pages(DataKind::Constant);
    (0..20).for_each(|_| assert!(constants.reserve(100, 16).is_ok()));
    constants.make_read_only().unwrap();
    // What was writable is free and is used first.
    assert_eq!(system.take_log(), ["bar"]);
    drop(constants);
    arena.data_pages(DataKind::Writable).reserve(100, 16).unwrap();
    assert_eq!(system.take_log(), ["open"]);
}

/// Code whose pages the system lets nobody make executable any more is published with the bytes
/// that were written, or not at all, however often it is tried.
#[test]
fn what_cannot_be_sealed_any_more_is_never_published_without_its_bytes() {
    let function = RETURN_1_2[0];
    for (refused, other) in [("writer", ""), ("", "write"), ("", "")] {
        let system = Faulty::leaked();
        system.refuse(&[refused]);
        let arena = CodeArena::builder().capacity(1 << 20).os(system).build().unwrap();
        if refused.is_empty() && !arena.stats().fills_holes {
            continue;
        }
        let mut modules = [arena.in_place(), arena.in_place()];
        for code in &mut modules {
            let at = code.reserve(function.len(), 16, 0).unwrap();
            // SAFETY: reserved for as many bytes.
            unsafe { at.copy_from_nonoverlapping(NonNull::from(function).cast(), function.len()) };
        }
        system.refuse(&[other]);
        system.forbid("seal", 0);
        let mut blocks = Vec::new();
        for mut code in modules {
            let tries: Vec<bool> = (0..3).map(|_| code.publish(&Notes::default(), &mut blocks).is_ok()).collect();
            // With the kernel write, modules that were being written then go on.
            assert_eq!(tries, [refused.is_empty() && other.is_empty(); 3], "{refused} {other}");
        }
        for block in &blocks {
            assert_eq!(block.as_bytes(), function);
        }
        assert_eq!(arena.stats().live_blocks, blocks.len());
        drop(blocks);
        system.heal();
        let _ = arena.trim().unwrap();
        assert_eq!(arena.stats().free_bytes, 1 << 20, "{refused} {other}");
    }
}
