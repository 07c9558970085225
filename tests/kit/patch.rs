//! Tests of words of live code that change under running threads, and of blocks that become
//! shorter.
//!
//! | What | How it is checked |
//! |---|---|
//! | `patch_word` | two threads run the instruction 1,000 times or more; each result is that of the old or of the new word |
//! | words that cannot be changed | offsets that are outside or not aligned, other instructions of AArch64, modes without stores |
//! | `shrink` | many lengths; `lookup`, figures and the next publications agree with the new length |
//! | guards, observers, lookups | the end waits for guards; an observer makes it an error; lookups find the block all the time |
//! | batches | three threads begin, fill and publish one batch |
//!
//! `Changing` has a function for each architecture whose result depends on one word. The first test
//! prints `NOT RUN` if neither `DualMap` nor `PerThread` exists. A forked child is refused; this is
//! tested on Linux, in a process without other tests.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gaia_jit::{Batch, CodeBlock, Error, WxMode};

use super::common::{StopOnDrop, asm, call, modes, not_run, often, small};

/// A function with a word at `offset` that changes its result: the words, and the result of each.
struct Changing {
    code: Vec<u8>,
    offset: usize,
    words: [(u32, u32); 2],
}

fn changing() -> Changing {
    let word = |bytes: &[u8]| u32::from_ne_bytes(bytes[..4].try_into().unwrap());
    if cfg!(any(target_arch = "x86", target_arch = "x86_64")) {
        // nop, three times; mov eax, n; ret
        let mut code = vec![0x90; 3];
        code.extend(asm::constant(0x11));
        return Changing { code, offset: 4, words: [(0x1111_1111, 0x1111_1111), (0x2222_2222, 0x2222_2222)] };
    }
    if cfg!(target_arch = "s390x") {
        let [one, two] = [0x1111, 0x2222].map(|n| (word(&asm::constant(n)), n));
        return Changing { code: asm::constant(0x1111), offset: 0, words: [one, two] };
    }
    // A branch to one of two functions.
    let (one, two) = (asm::constant(0x1111), asm::constant(0x2222));
    let mut code = vec![0; 4];
    code.extend(&one);
    code.extend(&two);
    let branch = |distance: usize| -> u32 {
        let n = distance as u32;
        if cfg!(target_arch = "aarch64") {
            0x1400_0000 | (n / 4)
        } else if cfg!(target_arch = "arm") {
            0xea00_0000 | (n.wrapping_sub(8) >> 2) & 0x00ff_ffff
        } else {
            (n >> 1 & 0x3ff) << 21 | (n >> 11 & 1) << 20 | 0x6f // jal zero
        }
    };
    let words = [(branch(4), 0x1111), (branch(4 + one.len()), 0x2222)];
    code[..4].copy_from_slice(&words[0].0.to_le_bytes());
    Changing { code, offset: 0, words }
}

/// Threads run the instruction all the time while it changes. They run the old word or the new one,
/// and never parts of both.
#[test]
fn a_word_changes_in_one_piece_under_running_threads() {
    if std::env::var_os("GAIA_TEST_MISSED_STORES").is_some() {
        return not_run("a_word_changes_in_one_piece_under_running_threads", "this emulator misses stores to code");
    }
    let mut tried = 0;
    for mode in modes().filter(|mode| matches!(mode, WxMode::DualMap | WxMode::PerThread)) {
        let Changing { code, offset, words } = changing();
        let arena = small(mode).build().unwrap();
        let block = arena.publish(&code).unwrap();
        let (stop, calls) = (AtomicBool::new(false), AtomicU64::new(0));
        // SAFETY: it is one instruction, or its constant, before and after.
        let patch = |n: usize| unsafe { block.patch_word(offset, words[n].0) }.unwrap();
        patch(0);
        let seen = std::thread::scope(|scope| {
            let ended = StopOnDrop(&stop);
            let executors: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut seen = BTreeSet::new();
                        while !stop.load(Ordering::Relaxed) {
                            seen.insert(call(&block));
                            calls.fetch_add(1, Ordering::Relaxed);
                        }
                        seen
                    })
                })
                .collect();
            for n in 0.. {
                patch(n % 2);
                // This thread runs the new word from now on.
                assert_eq!(call(&block), words[n % 2].1, "{mode:?}");
                if n >= often(20_000) && calls.load(Ordering::Relaxed) > 1_000 {
                    break;
                }
            }
            drop(ended);
            executors.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<BTreeSet<_>>()
        });
        assert!(seen.iter().all(|got| words.iter().any(|(_, result)| got == result)), "{mode:?}: {seen:x?}");
        tried += 1;
    }
    if tried == 0 {
        super::common::not_run("a_word_changes_in_one_piece_under_running_threads", "no mode here writes by stores");
    }
}

#[test]
fn what_no_store_can_do_is_refused() {
    for mode in modes() {
        let Changing { mut code, offset, words } = changing();
        let is_eight_bytes = !cfg!(target_arch = "aarch64");
        code.resize(code.len().next_multiple_of(16), 0);
        let arena = small(mode).build().unwrap();
        let block = arena.publish(&code).unwrap();
        // SAFETY: no other thread runs the block.
        let patch = |offset: usize, word: u32| unsafe { block.patch_word(offset, word) };
        if !matches!(mode, WxMode::DualMap | WxMode::PerThread) {
            assert!(matches!(patch(offset, words[1].0), Err(Error::Unsupported { .. })), "{mode:?}");
            assert_eq!(block.as_bytes()[..], code);
            continue;
        }
        for outside in [code.len(), code.len() - 3, usize::MAX, usize::MAX - 3] {
            assert!(matches!(patch(outside, words[1].0), Err(Error::PastCapacity { .. })), "{outside}");
        }
        for amid in 1..4 {
            assert!(matches!(patch(offset + amid, words[1].0), Err(Error::Unsupported { .. })), "{amid}");
        }
        // SAFETY: no other thread runs the block.
        let eight = unsafe { block.patch_word(8, 0_u64) };
        assert_eq!(eight.is_ok(), is_eight_bytes, "{eight:?}");
        // SAFETY: no other thread runs the block.
        let amid = unsafe { block.patch_word(4, 0_u64) };
        assert!(matches!(amid, Err(Error::Unsupported { .. })));
        if cfg!(target_arch = "aarch64") {
            // From a branch to `ret`, and from `movz` to a branch.
            assert!(matches!(patch(offset, 0xd65f_03c0), Err(Error::Unsupported { .. })));
            assert!(matches!(patch(4, 0x1400_0001), Err(Error::Unsupported { .. })));
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_is_refused() {
    use super::common::{child, fork::fork};
    child::run("a_forked_child_is_refused", || {
        for mode in modes() {
            let Changing { code, offset, words } = changing();
            let arena = small(mode).build().unwrap();
            let mut block = Some(arena.publish(&code).unwrap());
            let before = call(block.as_ref().unwrap());
            assert!(fork(|| {
                // SAFETY: no other thread runs the block.
                let patched = unsafe { block.as_ref().unwrap().patch_word(offset, words[1].0) };
                assert!(matches!(patched, Err(Error::Forked { .. })), "{patched:?}");
                assert!(matches!(block.as_mut().unwrap().shrink(1), Err(Error::Forked { .. })));
            }));
            assert_eq!(call(block.as_ref().unwrap()), before);
        }
    });
}

/// Blocks of all sizes become shorter by any amount. The space after them is used again, and the
/// rest stays.
#[test]
fn a_block_becomes_shorter() {
    for mode in modes() {
        let arena = small(mode).capacity(4 << 20).build().unwrap();
        for len in [40, 1_000, 70_000, 200_000, 1 << 20] {
            for new in
                [len, len - 1, len / 2, 65_536, 131_072, 4_096, 33, 32, 17, 16].into_iter().filter(|new| *new <= len)
            {
                let mut block = arena.publish(&asm::padded(9, len)).unwrap();
                let other = arena.publish(&asm::padded(8, 500)).unwrap();
                block.shrink(new).unwrap();
                let stats = arena.stats();
                assert_eq!(
                    (block.len(), stats.live_bytes, stats.live_blocks, stats.pending_bytes),
                    (new, new + 500, 2, 0),
                    "{mode:?} {len} {new}"
                );
                assert_eq!(stats.free_bytes, (4 << 20) - new.next_multiple_of(16) - 512);
                let hit =
                    |offset: usize| arena.lookup(block.as_ptr().wrapping_add(offset)).map(|hit| (hit.start, hit.len));
                let whole = Some((block.as_ptr(), new));
                assert!([0, new / 2, new - 1].into_iter().all(|offset| hit(offset) == whole), "{len} {new}");
                assert!(
                    [new, len - 1, len]
                        .into_iter()
                        .filter(|at| *at >= new)
                        .all(|offset| hit(offset).is_none_or(|(start, _)| start != block.as_ptr()))
                );
                // The next function may lie in the place of the tail.
                let next: Vec<CodeBlock> = (0..100).map(|n| arena.publish(&asm::padded(n, 700)).unwrap()).collect();
                let whole_tail = arena.publish(&asm::padded(7, len.div_ceil(2))).unwrap();
                assert!((0..).zip(&next).all(|(n, block)| call(block) == n));
                assert_eq!((call(&block), call(&other), call(&whole_tail)), (9, 8, 7));
                assert!(next.iter().all(|block| arena.lookup(block.as_ptr()).unwrap().start == block.as_ptr()));
                let raw = block.into_raw();
                // SAFETY: the pointer was given up by `into_raw`, and is taken back once.
                let block = unsafe { arena.from_raw(raw) }.unwrap();
                assert_eq!((block.len(), call(&block)), (new, 9));
                drop((block, other, next, whole_tail));
                let stats = arena.stats();
                assert_eq!(
                    (stats.free_bytes, stats.live_bytes, stats.padding_bytes),
                    (4 << 20, 0, 0),
                    "{mode:?} {len} {new}"
                );
            }
        }
    }
}

#[test]
fn what_is_given_back_waits_for_guards() {
    for (mode, poison) in modes().flat_map(|mode| [(mode, false), (mode, true)]) {
        let arena = small(mode).poison(poison).build().unwrap();
        let mut block = arena.publish(&asm::padded(9, 1_000)).unwrap();
        let tail = block.as_ptr().wrapping_add(100);
        assert!(matches!(block.shrink(0), Err(Error::ZeroSize)));
        assert!(matches!(block.shrink(1_001), Err(Error::PastCapacity { len: 1_001, capacity: 1_000, .. })));
        let guard = arena.pin();
        block.shrink(100).unwrap();
        assert_eq!(arena.stats().pending_bytes, 1_008 - 112);
        let others: Vec<_> = (0..20).map(|n| arena.publish(&asm::padded(n, 200)).unwrap()).collect();
        let within = |block: &CodeBlock| (tail as usize..tail as usize + 900).contains(&(block.as_ptr() as usize));
        assert!(!others.iter().any(within), "{mode:?}");
        drop(guard);
        assert_eq!((arena.stats().pending_bytes, arena.stats().pending_blocks), (0, 0));
        block.shrink(50).unwrap();
        assert_eq!((block.len(), call(&block), arena.stats().live_blocks), (50, 9, 21));
        drop((block, others));
        assert_eq!(arena.stats().free_bytes, 1 << 20);
    }
    struct Listens;
    impl gaia_jit::Observer for Listens {}
    let arena = small(WxMode::Flip).observer(std::sync::Arc::new(Listens)).build().unwrap();
    let mut block = arena.publish(&asm::padded(9, 1_000)).unwrap();
    assert!(matches!(block.shrink(100), Err(Error::Unsupported { .. })));
    assert_eq!((block.len(), call(&block)), (1_000, 9));
}

/// Lookups always find blocks while these become shorter.
#[test]
fn lookups_find_a_block_that_becomes_shorter() {
    let arena = small(WxMode::Flip).build().unwrap();
    let mut block = arena.publish(gaia_jit::Code::new(&asm::padded(9, 600_000)).tag(5)).unwrap();
    let (at, stop, finds) = (block.as_ptr() as usize, AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _ended = StopOnDrop(&stop);
        scope.spawn(|| {
            let mut last = 600_000;
            while !stop.load(Ordering::Relaxed) {
                let hit = arena.lookup(std::ptr::without_provenance::<u8>(at + 63)).expect("live all the time");
                assert_eq!((hit.start as usize, hit.tag), (at, 5));
                assert!(hit.len <= last, "longer again");
                last = hit.len;
                finds.fetch_add(1, Ordering::Relaxed);
            }
        });
        for len in (64..600_000).rev().step_by(16) {
            block.shrink(len).unwrap();
        }
        while finds.load(Ordering::Relaxed) < 100 {
            std::thread::yield_now();
        }
    });
}

/// One thread begins a batch, another fills it, a third publishes it.
#[test]
fn a_batch_goes_from_thread_to_thread() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let send = |batch: Batch, work: fn(&mut Batch)| {
            std::thread::spawn(move || {
                let mut batch = batch;
                work(&mut batch);
                batch
            })
            .join()
            .unwrap()
        };
        let batch = send(arena.batch(), |batch| {
            (0..50).for_each(|n| drop(batch.push(&asm::padded(n, 3_000))));
        });
        let batch = send(batch, |batch| {
            let slot = batch.reserve(asm::constant(0).len(), 16).unwrap();
            batch.bytes_mut(slot).copy_from_slice(&asm::constant(77));
        });
        let blocks = std::thread::spawn(move || batch.publish()).join().unwrap().unwrap();
        assert!((0..50).zip(&blocks).all(|(n, block)| call(block) == n) && call(&blocks[50]) == 77, "{mode:?}");
    }
}
