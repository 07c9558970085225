//! Tests of promise 9: lookup from any address inside a block.
//!
//! | What | How it is checked |
//! |---|---|
//! | every byte of a block is found, and no byte between blocks | blocks of 16 to 40,000 bytes are dropped at random; all offsets of the others are looked up |
//! | races with `publish` and `drop` | blocks that stay are found every time; the tag of any other result contains the length of its block |
//! | one entry of the tables for many blocks | a thread publishes at one address with changing lengths; length and tag must agree |
//! | signal handlers | a handler looks up 64 blocks while it interrupts a publishing thread |
//! | bins with many blocks | a further line with one block, `lookup_many` over 100 blocks, a slot whose last block had a tag |
//!
//! The races exist to catch a result that is half of one block and half of another. The test with
//! signals exists on Linux. A handler is set for all threads of a process, so the test has a child
//! process.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::common::{StopOnDrop, asm, fills_holes, modes, often, small};
use gaia_jit::{Code, CodeArena, CodeBlock, WxMode};

/// Promise 9: lookup from every byte of every block, and from no byte between.
#[test]
fn lookup_finds_every_byte() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let mut rng = fastrand::Rng::with_seed(11);
        let mut blocks = Vec::new();
        // Many blocks in a bin, one over many bins, and everything between.
        for n in 0..600u32 {
            let len = match n % 10 {
                0 => rng.usize(16..40_000),
                1..5 => rng.usize(16..600),
                _ => 16,
            };
            if let Ok(block) = arena.publish(Code::new(&asm::padded(n, len)).tag(n.into())) {
                blocks.push(block);
            }
            if n % 3 == 0 && !blocks.is_empty() {
                let gone = blocks.swap_remove(rng.usize(..blocks.len()));
                let address = gone.as_ptr();
                drop(gone);
                assert!(arena.lookup(address).is_none());
            }
        }
        for block in &blocks {
            for offset in 0..block.len() {
                let hit = arena.lookup(block.as_ptr().wrapping_add(offset)).expect("a live byte");
                assert_eq!((hit.start, hit.len, hit.tag), (block.as_ptr(), block.len(), block.tag()));
            }
            let behind = arena.lookup(block.as_ptr().wrapping_add(block.len()));
            assert!(behind.is_none_or(|hit| hit.start == block.as_ptr().wrapping_add(block.len())));
        }
        let base = blocks.iter().map(CodeBlock::as_ptr).min().unwrap();
        let ranges: Vec<_> = blocks.iter().map(|b| b.as_ptr().addr()..b.as_ptr().addr() + b.len()).collect();
        for offset in (0..arena.capacity()).step_by(7) {
            let address = base.wrapping_add(offset);
            let expected = ranges.iter().any(|range| range.contains(&address.addr()));
            assert_eq!(arena.lookup(address).is_some(), expected);
        }
        for outside in [std::ptr::null(), std::ptr::without_provenance(usize::MAX), base.wrapping_sub(1)] {
            assert!(arena.lookup(outside).is_none());
        }
    }
}

/// Lookups that race with publishing and dropping never return a wrong result for a block that is
/// live all the time.
#[test]
fn lookup_is_right_while_others_publish_and_drop() {
    for mode in modes() {
        let capacity = if fills_holes(mode) { 64 << 10 } else { 1 << 20 };
        let arena = CodeArena::builder().mode(mode).capacity(capacity).build().unwrap();
        let fixed: Vec<_> =
            (0..40).map(|n| arena.publish(Code::new(&asm::padded(n, 200)).tag(n.into())).unwrap()).collect();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let _ended = StopOnDrop(&stop);
                let mut rng = fastrand::Rng::with_seed(1);
                let mut come_and_go = Vec::new();
                for n in 0..often(20_000) as u64 {
                    let len = rng.usize(16..300);
                    if let Ok(block) = arena.publish(Code::new(&asm::padded(1, len)).tag(n << 32 | len as u64)) {
                        come_and_go.push(block);
                    }
                    if come_and_go.len() > 100 || rng.u8(..) == 0 {
                        come_and_go.swap_remove(rng.usize(..come_and_go.len()));
                    }
                }
            });
            let mut rng = fastrand::Rng::with_seed(2);
            let base = fixed[0].as_ptr().addr() & !0xfff;
            while !stop.load(Ordering::Relaxed) {
                let block = &fixed[rng.usize(..fixed.len())];
                let hit = arena.lookup(block.as_ptr().wrapping_add(rng.usize(..block.len()))).expect("live all along");
                assert_eq!((hit.start, hit.len, hit.tag), (block.as_ptr(), 200, block.tag()));
                // Length and tag of a block that is dropped and published again belong together.
                let any = arena.lookup(std::ptr::without_provenance(base + rng.usize(..capacity)));
                assert!(any.is_none_or(|hit| hit.tag < 40 || hit.tag as u32 as usize == hit.len));
            }
        });
    }
}

/// One slot of the tables is used again and again. A result belongs to one block, not half to each
/// of two.
#[test]
fn lookup_never_mixes_two_blocks() {
    let arena = small(WxMode::DualMap).build().or_else(|_| small(WxMode::Flip).build()).unwrap();
    let address = AtomicUsize::new(0);
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ended = StopOnDrop(&enough);
        let writer = scope.spawn(|| {
            let mut n = 0usize;
            while !enough.load(Ordering::Relaxed) {
                n += 1;
                let len = 17 + n % 16;
                let block = arena.publish(Code::new(&[0; 32][..len]).tag(len as u64)).unwrap();
                let before = address.swap(block.as_ptr().addr(), Ordering::Relaxed);
                assert!(before == 0 || before == block.as_ptr().addr(), "the same place, the same slot");
            }
        });
        let (mut hits, enough_hits) = (0, often(300_000));
        while hits < enough_hits && !writer.is_finished() {
            let address = address.load(Ordering::Relaxed);
            if let Some(hit) = arena.lookup(std::ptr::without_provenance(address)) {
                assert_eq!((hit.start.addr(), hit.len as u64), (address, hit.tag));
                hits += 1;
            }
        }
    });
}

/// Lookups in a signal handler, in the middle of anything.
#[cfg(target_os = "linux")]
mod signals {
    use std::sync::atomic::AtomicPtr;

    use super::*;
    use crate::common::child;

    /// An arena and blocks that stay in it. It is never freed, because a handler can run late, on
    /// any thread of the process.
    struct Watched {
        arena: CodeArena,
        blocks: Vec<CodeBlock>,
        /// The arena of the mode before. Leak checkers accept memory that can still be reached.
        _before: *mut Watched,
    }

    static WATCHED: AtomicPtr<Watched> = AtomicPtr::new(std::ptr::null_mut());
    static HANDLED: AtomicUsize = AtomicUsize::new(0);
    static WRONG: AtomicBool = AtomicBool::new(false);

    extern "C" fn on_signal(_: libc::c_int) {
        // SAFETY: set before there were signals, and never freed.
        let watched = unsafe { &*WATCHED.load(Ordering::Acquire) };
        for (n, block) in watched.blocks.iter().enumerate() {
            match watched.arena.lookup(block.as_ptr().wrapping_add(n % 5)) {
                Some(hit) if hit.tag == n as u64 && hit.len == 64 => {}
                _ => WRONG.store(true, Ordering::Relaxed),
            }
        }
        HANDLED.fetch_add(1, Ordering::Relaxed);
    }

    /// Promise 9: a handler that interrupts a thread anywhere, also in the middle of publishing,
    /// finds the live blocks.
    #[test]
    fn lookup_works_in_a_signal_handler() {
        child::run("lookup_works_in_a_signal_handler", || {
            for mode in modes() {
                let arena = CodeArena::builder().mode(mode).capacity(8 << 20).build().unwrap();
                let blocks: Vec<_> =
                    (0..64).map(|n| arena.publish(Code::new(&asm::padded(n, 64)).tag(n.into())).unwrap()).collect();
                let watched = Box::leak(Box::new(Watched {
                    arena: arena.clone(),
                    blocks,
                    _before: WATCHED.load(Ordering::Relaxed),
                }));
                WATCHED.store(watched, Ordering::Release);
                let handler = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
                // SAFETY: the handler calls nothing that is not safe in one.
                unsafe { libc::signal(libc::SIGUSR1, handler) };
                // SAFETY: takes nothing.
                let publisher = unsafe { libc::pthread_self() } as usize;
                let done = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    // One signal after another, each some instructions after the last was handled.
                    // Their number bounds the test, however long one takes.
                    scope.spawn(|| {
                        let _ended = StopOnDrop(&done);
                        let mut rng = fastrand::Rng::with_seed(1);
                        for _ in 0..300 {
                            let before = HANDLED.load(Ordering::Relaxed);
                            // SAFETY: the thread waits for this one.
                            assert_eq!(unsafe { libc::pthread_kill(publisher as libc::pthread_t, libc::SIGUSR1) }, 0);
                            while HANDLED.load(Ordering::Relaxed) == before {
                                std::thread::yield_now();
                            }
                            // No `spin_loop`: its instruction ends a processor's turn in an
                            // emulator where they run in turns, so each would last a turn.
                            (0..rng.u32(..3_000)).for_each(|n| _ = std::hint::black_box(n));
                        }
                    });
                    let mut come_and_go = Vec::new();
                    while !done.load(Ordering::Relaxed) {
                        come_and_go.push(arena.publish(&asm::padded(1, 48)).unwrap());
                        if come_and_go.len() > 50 {
                            come_and_go.clear();
                        }
                    }
                });
                assert!(!WRONG.load(Ordering::Relaxed), "{mode:?}");
            }
        });
    }
}

#[test]
fn a_tag_does_not_outlive_its_block() {
    let arena = small(WxMode::Flip).build().unwrap();
    let block = arena.publish(Code::new(&[0xc3; 16]).tag(7)).unwrap();
    let at = block.as_ptr();
    drop(block);
    let block = arena.publish(&[0xc3; 16]).unwrap();
    assert_eq!((block.as_ptr(), block.tag(), arena.lookup(at).unwrap().tag), (at, 0, 0));
}

/// The first seven blocks of a bin are dropped. The eighth, which reaches into the next bins,
/// stays.
#[test]
fn a_bin_may_have_one_block_in_its_second_line() {
    let arena = small(WxMode::Flip).build().unwrap();
    let mut first: Vec<_> = (0..7).map(|_| arena.publish(&[0xc3; 16]).unwrap()).collect();
    let long = arena.publish(&[0xc3; 10_000][..]).unwrap();
    first.clear();
    let hit = arena.lookup(long.as_ptr().wrapping_add(9_000)).unwrap();
    assert_eq!((hit.start, hit.len), (long.as_ptr(), 10_000));
}

#[test]
fn many_in_one_bin_are_looked_up_at_once() {
    let arena = small(WxMode::Flip).build().unwrap();
    let blocks: Vec<_> = (0..100).map(|n| arena.publish(Code::new(&[0xc3; 16]).tag(n)).unwrap()).collect();
    let addresses: Vec<_> = blocks.iter().map(gaia_jit::CodeBlock::as_ptr).collect();
    let mut found = vec![None; 100];
    arena.lookup_many(&addresses, &mut found);
    for (n, (hit, block)) in (0..).zip(found.iter().zip(&blocks)) {
        assert_eq!(hit.map(|hit| (hit.start, hit.len, hit.tag)), Some((block.as_ptr(), 16, n)));
    }
}
