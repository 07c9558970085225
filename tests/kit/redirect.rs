//! Tests of `Redirect`: its address stays, and its target is exchanged.
//!
//! - *`swap`*: the next call reaches the new target. The counters of `stats` show that nothing was
//!   flipped, flushed or written by the kernel.
//! - *Memory*: 1,000 redirects share pages, and all of it comes back. A guard keeps a dropped
//!   redirect callable.
//! - *Threads*: two threads call under guards while two others swap and drop targets. Dropped
//!   targets are poisoned, so a call of one would trap.
//! - *Other arenas*: a target keeps the memory of its own arena.
//! - *Panics*: they pass through, because a redirect adds no frame.
//! - *Forked children*: they cannot swap what they inherited. This test needs Linux and a child
//!   process.
//!
//! The test with threads also checks the pointer and the owner at the end, because two swaps at
//! once could leave a pointer to a target that was dropped.

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use gaia_jit::{CodeArena, Error, Redirect, WxMode};

use super::common::{StopOnDrop, asm, call, call_at, fills_holes, modes, often, publish_after_guards, small};

#[test]
fn calls_follow_the_target() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let entry = arena.redirect(arena.publish(&asm::constant(1)).unwrap()).unwrap();
        let (at, first) = (entry.as_ptr(), entry.target());
        assert_eq!((call_at(at), arena.lookup(at).map(|hit| hit.start)), (1, Some(at)));
        let flips = arena.stats();
        let second = arena.publish(&asm::constant(2)).unwrap();
        let published = arena.stats();
        let second_at = second.as_ptr();
        let old = entry.swap(second).unwrap();
        let swapped = arena.stats();
        assert_eq!((old.as_ptr(), call(&old)), (first, 1));
        assert_eq!((entry.as_ptr(), entry.target(), call_at(at)), (at, second_at, 2));
        // Nothing but the pointer changed.
        assert_eq!(
            (swapped.flips, swapped.kernel_writes, swapped.flushed_bytes, swapped.barriers),
            (published.flips, published.kernel_writes, published.flushed_bytes, published.barriers)
        );
        assert!(flips.flushed_bytes <= published.flushed_bytes);
        // Back to the first target, with arguments that arrive.
        drop(entry.swap(old).unwrap());
        assert_eq!(call_at(at), 1);
        let add = arena.redirect(arena.publish(&asm::add()).unwrap()).unwrap();
        // SAFETY: the target is of this type, and stays alive.
        let add = unsafe { add.as_fn::<extern "C" fn(u32, u32) -> u32>() };
        assert_eq!(add(40, 2), 42);
    }
}

#[test]
fn all_of_it_comes_back() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let entry = arena.redirect(arena.publish(&asm::constant(1)).unwrap()).unwrap();
        assert_eq!((arena.stats().live_blocks, arena.stats().data_blocks), (2, 1));
        let guard = arena.pin();
        let at = entry.as_ptr();
        drop(entry);
        assert_eq!((arena.stats().live_blocks, arena.stats().pending_blocks), (0, 2));
        // A thread with a guard may be about to call it.
        assert_eq!(call_at(at), 1);
        drop(guard);
        let stats = arena.stats();
        assert_eq!((stats.pending_blocks, stats.data_bytes, stats.free_bytes), (0, 0, stats.capacity), "{mode:?}");
        // A failure leaves nothing.
        let none = small(mode).data(0).build().unwrap();
        let refused = none.redirect(none.publish(&asm::constant(1)).unwrap());
        assert!(matches!(refused, Err(Error::DataFull { .. })), "{refused:?}");
        assert_eq!((none.stats().live_blocks, none.stats().free_bytes), (0, none.capacity()));
    }
}

#[test]
fn many_share_pages() {
    for mode in modes().filter(|mode| fills_holes(*mode)) {
        let arena = small(mode).build().unwrap();
        let entries: Vec<Redirect> =
            (0..1_000).map(|n| arena.redirect(arena.publish(&asm::constant(n)).unwrap()).unwrap()).collect();
        assert!((0..).zip(&entries).all(|(n, entry)| call_at(entry.as_ptr()) == n));
        let stats = arena.stats();
        assert_eq!((stats.data_bytes, stats.data_blocks, stats.live_blocks), (16_000, 1_000, 2_000));
        let page = region::page::size();
        assert!(stats.data_resident_bytes <= 16_000_usize.next_multiple_of(page), "{stats:#}");
        assert!(stats.resident_bytes <= (1_000 * (16 + 16)) + 16 * page, "{stats:#}");
        // The targets are exchanged one by one.
        for (n, entry) in (0..).zip(&entries).step_by(2) {
            drop(entry.swap(arena.publish(&asm::constant(5_000 + n)).unwrap()).unwrap());
        }
        for (n, entry) in (0..).zip(&entries) {
            assert_eq!(call_at(entry.as_ptr()), if n % 2 == 0 { 5_000 + n } else { n });
        }
    }
}

/// Threads call the redirect all the time while others exchange the target and drop the old one,
/// which is overwritten as soon as nobody can be in it.
#[test]
fn callers_under_guards_never_meet_a_dropped_target() {
    for mode in modes() {
        let arena = small(mode).poison(true).build().unwrap();
        let entry = arena.redirect(arena.publish(&asm::padded(1_000, 200)).unwrap()).unwrap();
        let (stop, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let _ended = StopOnDrop(&stop);
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let guard = arena.pin();
                        let got = call_at(entry.as_ptr());
                        drop(guard);
                        assert!((1_000..5_000).contains(&got), "{got}");
                        calls.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let swappers: Vec<_> = [1_000, 3_000]
                .into_iter()
                .map(|from| {
                    let (arena, entry) = (&arena, &entry);
                    scope.spawn(move || {
                        for n in 0..often(1_000) as u32 {
                            let old = entry.swap(publish_after_guards(arena, &asm::padded(from + n, 200))).unwrap();
                            drop(old);
                        }
                    })
                })
                .collect();
            swappers.into_iter().for_each(|swapper| swapper.join().unwrap());
            while calls.load(Ordering::Relaxed) < 100 {
                std::thread::yield_now();
            }
        });
        assert_eq!(entry.target(), arena.lookup(entry.target()).unwrap().start);
        // The pointer and the owner belong to one block: nothing else is live except the code of
        // the redirect.
        assert_eq!(arena.stats().live_blocks, 2, "{mode:?}");
    }
}

/// A target in another arena keeps that arena's memory.
#[test]
fn a_target_may_lie_elsewhere() {
    for mode in modes() {
        let (arena, other) = (small(mode).build().unwrap(), CodeArena::builder().capacity(1 << 20).build().unwrap());
        let entry = arena.redirect(other.publish(&asm::constant(9)).unwrap()).unwrap();
        drop((arena, other));
        assert_eq!(call_at(entry.as_ptr()), 9);
        let third = small(WxMode::Flip).build().unwrap();
        let old = entry.swap(third.publish(&asm::constant(8)).unwrap()).unwrap();
        drop(third);
        assert_eq!((call_at(entry.as_ptr()), call(&old)), (8, 9), "{mode:?}");
    }
}

extern "C-unwind" fn panics() -> u32 {
    panic!("as meant");
}

/// A redirect leaves nothing on the stack, so a panic of its target passes through it.
#[test]
fn a_panic_goes_through() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let mut batch = arena.batch();
        let slot = batch.reserve_with_stubs(asm::tail_len(), 16, 1).unwrap();
        let to = batch.branch_target(slot, panics as *const u8).unwrap();
        let code = asm::tail_call(batch.address(slot), to);
        batch.bytes_mut(slot)[..code.len()].copy_from_slice(&code);
        let entry = arena.redirect(batch.publish().unwrap().remove(0)).unwrap();
        // SAFETY: this is its type.
        let call = unsafe { entry.as_fn::<extern "C-unwind" fn() -> u32>() };
        assert!(catch_unwind(|| call()).is_err(), "{mode:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_changes_nothing() {
    use super::common::{child, fork::fork};
    child::run("a_forked_child_changes_nothing", || {
        for mode in modes() {
            let arena = small(mode).build().unwrap();
            let mut entry = Some(arena.redirect(arena.publish(&asm::constant(1)).unwrap()).unwrap());
            let mut spare = Some(arena.publish(&asm::constant(2)).unwrap());
            assert!(fork(|| {
                let entry = entry.take().unwrap();
                assert_eq!(call_at(entry.as_ptr()), 1);
                let spare = spare.take().unwrap();
                let own = small(mode).build().unwrap();
                // A redirect in the child's own arena may lead to an inherited block.
                let refused = arena.redirect(own.publish(&asm::constant(3)).unwrap());
                assert!(matches!(refused, Err(Error::Forked { .. })));
                let new = own.redirect(spare).unwrap();
                assert_eq!(call_at(new.as_ptr()), 2);
                let refused = entry.swap(own.publish(&asm::constant(3)).unwrap());
                assert!(matches!(refused, Err(Error::Forked { .. })));
                assert_eq!(call_at(entry.as_ptr()), 1);
            }));
            let entry = entry.unwrap();
            assert_eq!(call_at(entry.as_ptr()), 1);
            drop(entry.swap(spare.unwrap()).unwrap());
            assert_eq!(call_at(entry.as_ptr()), 2);
        }
    });
}
