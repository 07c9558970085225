//! Every system call fails once, first to last: each time there is an error or it is absorbed, and
//! nothing is lost.
//!
//! A test runs one scripted life of an arena ([`life`]) again and again. In the n-th run the n-th
//! call is refused, until a run makes fewer calls than that.
//!
//! ```text
//! build with a Faulty system --> life, with call n refused --> heal --> check: all space is free
//! ```
//!
//! After each run the arena is used again, and must have all of its space. What the system refused
//! to unmap must be in `sys::parked`, and leaves from there with the next arena.

use std::cell::RefCell;

use super::common::child;
use super::faulty::Faulty;
use super::gives_back;
use crate::icache::RETURN_1_2;
use crate::sys::{self, Os};
use crate::{CodeArena, CodeBlock, Error, JitMemory, Unfilled, WxMode};

/// What an arena holds is what was published, whatever failed since.
fn check(arena: &CodeArena, blocks: &[(CodeBlock, Vec<u8>)]) {
    for (block, code) in blocks {
        // Of the large ones both ends: this is done some hundred thousand times.
        let end = code.len().saturating_sub(2048);
        assert_eq!(block.len(), code.len());
        assert_eq!(
            (&block.as_bytes()[end..], &block.as_bytes()[..code.len() - end]),
            (&code[end..], &code[..code.len() - end])
        );
        // SAFETY: all the code of these tests begins with a function of this type.
        let f = unsafe { block.as_fn::<extern "C" fn() -> u32>() };
        assert!(matches!(f(), 1 | 2));
        assert_eq!(arena.lookup(block.as_ptr()).map(|hit| hit.len), Some(code.len()));
    }
    let stats = arena.stats();
    assert_eq!(stats.live_blocks, blocks.len(), "{stats}");
    // What cannot be overwritten waits.
    let only_way = matches!(arena.mode(), WxMode::FileWrite | WxMode::PerThread);
    assert!(stats.pending_blocks == 0 || only_way, "{stats}");
    assert_eq!(stats.live_bytes, blocks.iter().map(|(_, code)| code.len()).sum::<usize>());
    assert_eq!(
        stats.live_bytes + stats.padding_bytes + stats.pending_bytes + stats.batch_bytes + stats.free_bytes,
        stats.capacity
    );
}

pub(super) fn function(kind: usize, len: usize) -> Vec<u8> {
    let head = RETURN_1_2[kind % 2];
    let mut code = vec![0; len.max(head.len())];
    code[..head.len()].copy_from_slice(head);
    code
}

/// All that an arena does: grow, publish into fresh pages and into holes, batches of both kinds,
/// drops, trims.
pub(super) fn life(arena: &CodeArena) -> Result<(), Error> {
    let mut blocks: Vec<(CodeBlock, Vec<u8>)> = Vec::new();
    let outcome = RefCell::new(Ok(()));
    let note = |error: Error| {
        assert!(matches!(error, Error::OperatingSystem { .. }), "{error:?}");
        *outcome.borrow_mut() = Err(error);
    };
    let batch_of = |blocks: &mut Vec<(CodeBlock, Vec<u8>)>, count: usize, len: usize| {
        let codes: Vec<_> = (0..count).map(|i| function(i, len)).collect();
        let mut batch = arena.batch();
        let pushed = codes.iter().try_for_each(|code| batch.push(code).map(drop));
        match pushed.and_then(|()| batch.publish()) {
            Ok(published) => blocks.extend(published.into_iter().zip(codes)),
            Err(error) => note(error),
        }
        check(arena, blocks);
    };
    batch_of(&mut blocks, 5, 100);
    batch_of(&mut blocks, 1, 7);
    batch_of(&mut blocks, 100, 1_000);
    batch_of(&mut blocks, 2, 90 << 10);
    for i in 0..4 {
        let code = function(i, 300 + 70_000 * (i / 3));
        match arena.publish(&code) {
            Ok(block) => blocks.push((block, code)),
            Err(error) => note(error),
        }
        check(arena, &blocks);
    }
    // Leave holes, and empty pages.
    for keep in [3, 40] {
        let mut index = 0;
        blocks.retain(|_| {
            index += 1;
            index % keep == 0
        });
        check(arena, &blocks);
        if let Err(error) = arena.trim() {
            note(error);
        }
        check(arena, &blocks);
        batch_of(&mut blocks, 20, 500);
        batch_of(&mut blocks, 90, 900);
    }
    drop(arena.batch());
    blocks.clear();
    check(arena, &blocks);
    if let Err(error) = arena.trim() {
        note(error);
    }
    outcome.into_inner()
}

fn run(mode: WxMode, poison: bool, always: &[&'static str]) {
    let os = Faulty::leaked();
    let build = || CodeArena::builder().capacity(4 << 20).mode(mode).poison(poison).huge_pages(true).os(os).build();
    os.refuse(always);
    if let Err(error) = build() {
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        return;
    }
    let mut n = 0;
    loop {
        os.fail_nth(n);
        let Ok(arena) = build() else {
            assert!(os.has_failed());
            n += 1;
            continue;
        };
        let outcome = life(&arena);
        let done = !os.has_failed();
        assert!(!done || outcome.is_ok(), "{outcome:?}");
        // What was refused is made good by the next call that needs it.
        os.fail_nth(usize::MAX);
        assert!(arena.trim().is_ok());
        let stats = arena.stats();
        assert_eq!((stats.free_bytes, stats.largest_hole), (4 << 20, 4 << 20), "call {n}");
        assert!(stats.resident_bytes == 0 || !gives_back(&arena), "call {n}");
        os.fail_nth(if n % 2 == 0 { 0 } else { 1 });
        drop(arena);
        os.fail_nth(usize::MAX);
        // The next release takes along what was parked.
        drop(JitMemory::with_os(1, os));
        assert_eq!((os.mapped(), sys::parked_bytes()), (0, 0), "call {n}");
        if done {
            break;
        }
        n += 1;
    }
    assert!(n > 5, "only {n} calls were made");
}

/// In processes of their own: what is parked is the whole process's, and other tests' releases
/// would take it along.
#[test]
fn every_call_of_flip_fails_once() {
    child::run("every_call_of_flip_fails_once", || {
        run(WxMode::Flip, false, &[]);
        run(WxMode::Flip, false, &["writer"]);
    });
}

#[test]
fn every_call_of_flip_with_poison_fails_once() {
    child::run("every_call_of_flip_with_poison_fails_once", || {
        run(WxMode::Flip, true, &[]);
        run(WxMode::Flip, true, &["read"]);
    });
}

#[test]
fn every_call_of_dual_map_fails_once() {
    child::run("every_call_of_dual_map_fails_once", || {
        run(WxMode::DualMap, false, &[]);
        run(WxMode::DualMap, true, &[]);
    });
}

#[test]
fn every_call_of_per_thread_fails_once() {
    child::run("every_call_of_per_thread_fails_once", || {
        run(WxMode::PerThread, false, &[]);
        run(WxMode::PerThread, true, &[]);
    });
}

#[test]
fn every_call_of_file_write_fails_once() {
    child::run("every_call_of_file_write_fails_once", || {
        run(WxMode::FileWrite, false, &[]);
        run(WxMode::FileWrite, true, &[]);
    });
}

#[test]
fn every_call_of_a_single_block_fails_once() {
    child::run("every_call_of_a_single_block_fails_once", || {
        single_block();
        a_mapping_that_is_not_taken_back_waits();
    });
}

fn single_block() {
    let os = Faulty::leaked();
    let page = region::page::size();
    for n in 0..100 {
        os.fail_nth(n);
        let Ok(mut jit) = JitMemory::with_os(8 * page, os) else { continue };
        let mut failed = 0;
        let mut written = Vec::new();
        for offset in [0, 3 * page, 2 * page - 4, 7 * page] {
            let code = function(offset / page, 8);
            match jit.write_at(offset, &code) {
                Ok(()) => written.push((offset, code)),
                Err(_) => failed += 1,
            }
            failed += usize::from(jit.make_executable().is_err());
            failed += usize::from(jit.make_writable().is_err());
            failed += usize::from(jit.make_executable().is_err());
            for (offset, code) in &written {
                assert_eq!(&jit.as_slice()[*offset..][..code.len()], code);
            }
        }
        let base = jit.make_executable().unwrap();
        for (offset, _) in &written {
            // SAFETY: a function of this type was written there.
            let f = unsafe { std::mem::transmute::<*const u8, extern "C" fn() -> u32>(base.wrapping_add(*offset)) };
            assert!(matches!(f(), 1 | 2));
        }
        let done = !os.has_failed();
        assert!(failed <= 1 && (failed == 0) == done);
        drop(jit);
        os.heal();
        drop(JitMemory::with_os(1, os));
        assert_eq!((os.mapped(), sys::parked_bytes()), (0, 0));
        if done {
            return;
        }
    }
    panic!("never came to the end");
}

fn a_mapping_that_is_not_taken_back_waits() {
    let os = Faulty::leaked();
    let blocks: Vec<_> = (0..10).map(|_| JitMemory::with_os(1, os).unwrap()).collect();
    os.refuse(&["release"]);
    drop(blocks);
    assert_eq!((os.mapped(), sys::parked_bytes()), (10, 10 * region::page::size()));
    os.heal();
    os.take_log();
    // Each release takes two along, no more: that would be quadratic.
    for left in [8, 6, 4, 2, 0] {
        drop(JitMemory::with_os(1, os));
        assert_eq!(os.take_log(), ["map", "release", "release", "release"]);
        assert_eq!((os.mapped(), sys::parked_bytes()), (left, left * region::page::size()));
    }
}

#[test]
fn without_the_kernel_write_space_waits_for_an_empty_page() {
    let os = Faulty::leaked();
    os.refuse(&["writer"]);
    let page = region::page::size();
    let arena = CodeArena::builder().capacity(4 * page).os(os).build().unwrap();
    os.take_log();
    let publish = |n| arena.publish(&function(n, 64));
    let first: Vec<_> = (0..4).map(|n| publish(n).unwrap()).collect();
    assert_eq!(os.take_log().iter().filter(|call| **call == "open").count(), 4, "each opened a page of its own");
    // There is space, but in pages with live code.
    let Err(Error::ArenaFull { free, largest_hole, .. }) = publish(5) else { panic!("placed in a live page") };
    assert!(free > 3 * page && largest_hole > page / 2);
    assert!(os.take_log().is_empty(), "no page was touched");
    drop(first);
    // Together they share a page.
    let mut batch = arena.batch();
    for n in 0..4 {
        batch.push(&function(n, 64)).unwrap();
    }
    let blocks = batch.publish().unwrap();
    assert_eq!(arena.stats().resident_bytes - page * 3, page);
    assert_eq!(blocks.iter().map(|block| block.as_ptr().addr() / page).max(), Some(blocks[0].as_ptr().addr() / page));
    // SAFETY: nobody runs it.
    let patched = unsafe { blocks[0].patch(0, &[0]) };
    assert!(matches!(patched, Err(Error::Unsupported { .. })));
}

/// What stood in the way is said.
#[test]
fn why_holes_are_not_filled_is_known() {
    let unfilled = |refused: &[&'static str]| {
        let os = Faulty::leaked();
        os.refuse(refused);
        let arena = CodeArena::builder().capacity(1 << 20).os(os).build().unwrap();
        let stats = arena.stats();
        assert_eq!(stats.fills_holes, stats.unfilled.is_none());
        stats.unfilled
    };
    let Some(usual) = unfilled(&[]).map_or(Some(None), |why| (why != Unfilled::NoSuchCall).then_some(Some(why))) else {
        return;
    };
    assert_eq!(unfilled(&["writer"]), Some(Unfilled::NotOpened));
    if usual.is_none() {
        assert_eq!([unfilled(&["read"]), unfilled(&["write"])], [Some(Unfilled::NotWritten); 2]);
    }
}

/// What a batch had written before a write was refused holds memory, which a trim has to find.
#[test]
fn half_of_a_batch_holds_memory() {
    for mode in [WxMode::Flip, WxMode::FileWrite] {
        let os = Faulty::leaked();
        let Ok(arena) = CodeArena::builder().mode(mode).capacity(1 << 20).os(os).build() else { continue };
        if !arena.stats().fills_holes {
            continue;
        }
        let mut batch = arena.batch();
        batch.push(&function(1, 40_000)).unwrap();
        assert_eq!(arena.stats().resident_bytes, 0, "{mode:?}: nothing is written yet");
        os.refuse(&["write"]);
        assert!(batch.publish().is_err());
        os.heal();
        assert!(arena.stats().resident_bytes >= 40_000, "{mode:?}");
        assert!(arena.trim().unwrap() >= 40_000, "{mode:?}");
        assert_eq!((arena.stats().free_bytes, arena.stats().resident_bytes), (1 << 20, 0));
    }
}

#[test]
fn calls_go_by_batch_not_by_function() {
    let os = Faulty::leaked();
    let calls = |mode, count| {
        let arena = CodeArena::builder().mode(mode).capacity(8 << 20).os(os).build().unwrap();
        let warm = arena.publish(&function(1, 8)).unwrap();
        os.take_log();
        let mut batch = arena.batch();
        for n in 0..count {
            batch.push(&function(n, 40)).unwrap();
        }
        let blocks = batch.publish().unwrap();
        let (mut log, made) = (os.take_log(), blocks.len() as f64);
        drop((blocks, warm));
        assert!(os.take_log().is_empty(), "drops call nothing");
        // What is added to core dumps grows by an eighth each time.
        let dumps = log.iter().filter(|call| **call == "dump").count();
        assert!(dumps <= 2 + (made / 1_000.0).max(1.0).log(1.125) as usize, "{dumps}");
        log.retain(|call| *call != "dump");
        log
    };
    // One contiguous piece, one write; or, without the kernel write, one run of pages.
    let arena = CodeArena::builder().capacity(1 << 20).build().unwrap();
    let once: &[_] = if arena.stats().fills_holes { &["write"] } else { &["open", "seal"] };
    assert_eq!(calls(WxMode::Flip, 1), once);
    assert_eq!(calls(WxMode::Flip, 1_000), once);
    // 20,000 functions of 48 bytes: 64 KiB staged, then runs of 64, 128, 256 and 512 KiB.
    let many = calls(WxMode::Flip, 20_000);
    assert!(many.len() <= 2 + 2 * 5, "{many:?}");
    if CodeArena::builder().mode(WxMode::FileWrite).capacity(1 << 20).build().is_ok() {
        // Small functions do not lie across the ends of spans, so each of 15 spans is a piece.
        let pieces = calls(WxMode::FileWrite, 20_000);
        assert!(pieces.len() <= 15 && pieces.iter().all(|call| *call == "write"), "{pieces:?}");
    }
    // Where shared memory has to be asked for, it is in pieces of 64 KiB.
    if CodeArena::builder().mode(WxMode::DualMap).capacity(1 << 20).build().is_err() {
        return;
    }
    let shared = calls(WxMode::DualMap, 20_000);
    assert!(shared.iter().all(|call| *call == "commit shared"), "{shared:?}");
    assert!(shared.len() <= if os.commits() { 15 } else { 0 }, "{shared:?}");
}
