//! Ends: of an arena, of a thread, of what a forked child may do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::{arena, check_empty, publish};
#[cfg(unix)]
use crate::Error;
use crate::tests::common::{asm, call};
#[cfg(unix)]
use crate::tests::common::{child, modes};
use crate::{CodeArena, CodeBlock, Observer, Reservation, WxMode};

/// How many arenas were released.
#[derive(Default)]
struct Released(AtomicUsize);

impl Observer for Released {
    fn released(&self, _: &Reservation) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The last blocks go on several threads at one time, and memory back to the system, once no handle
/// is left.
#[test]
fn every_arena_is_released_once() {
    let released = Arc::new(Released::default());
    for round in 0..60 {
        let builder = CodeArena::builder().capacity(4 << 20).mode(WxMode::Flip).observer(released.clone());
        let arena = builder.keep_free(if round % 2 == 0 { 0 } else { usize::MAX }).build().unwrap();
        let mut parts: [Vec<CodeBlock>; 4] = Default::default();
        (0..60).for_each(|n| parts[n % 4].push(publish(&arena, n % 3, 40_000).unwrap()));
        drop(arena);
        thread::scope(|scope| parts.into_iter().for_each(|part| drop(scope.spawn(move || drop(part)))));
    }
    assert_eq!(released.0.load(Ordering::Relaxed), 60);
}

/// Where a thread's own variables are gone already, or are going.
#[test]
fn a_thread_that_ends_publishes_and_drops() {
    struct Last(Option<(CodeArena, CodeBlock)>);
    impl Drop for Last {
        fn drop(&mut self) {
            let Some((arena, block)) = self.0.take() else { return };
            let guard = arena.pin();
            drop(block);
            assert_eq!(call(&arena.publish(&asm::constant(6)).unwrap()), 6);
            drop(guard);
            drop(arena);
        }
    }
    thread_local! {
        #[allow(clippy::missing_const_for_thread_local, reason = "it is const; on OpenBSD clippy looks into the macro")]
        static LAST: std::cell::RefCell<Last> = const { std::cell::RefCell::new(Last(None)) };
    }
    let Some(arena) = arena("a_thread_that_ends_publishes_and_drops", 16) else { return };
    for _ in 0..20 {
        let block = arena.publish(&asm::constant(5)).unwrap();
        let handle = arena.clone();
        thread::spawn(move || LAST.with(|last| last.borrow_mut().0 = Some((handle, block)))).join().unwrap();
    }
    check_empty(&arena);
}

/// A child is forked while heaps and pool are locked. What it may do it does without a lock.
#[cfg(unix)]
#[test]
fn a_child_waits_for_no_lock() {
    child::run("a_child_waits_for_no_lock", || {
        for mode in modes() {
            let arena = CodeArena::builder().capacity(1 << 20).mode(mode).build().unwrap();
            let (block, other) = (arena.publish(&asm::constant(5)).unwrap(), arena.publish(&asm::constant(6)).unwrap());
            let raw = other.into_raw();
            let held = arena.core().heaps.all();
            let status = forked(|| {
                assert_eq!((call(&block), block.tag()), (5, 0));
                assert_eq!(arena.lookup(block.as_ptr()).unwrap().len, block.len());
                // SAFETY: given up just now.
                let other = unsafe { arena.from_raw(raw) }.unwrap();
                assert!(matches!(arena.publish(&asm::constant(7)), Err(Error::Forked { .. })));
                drop(arena.pin());
                let (stats, map) = (arena.stats(), arena.map());
                assert_eq!((stats.live_blocks, map.pages.len()), (0, 0), "nothing but counters is known");
                drop(other);
                // SAFETY: a copy of what the parent has, in a process that ends without dropping
                // its own.
                drop(unsafe { std::ptr::read(&raw const block) });
                // SAFETY: as above.
                drop(unsafe { std::ptr::read(&raw const arena) });
            });
            assert_eq!(status, 0, "{mode:?}");
            drop(held);
            // SAFETY: the child took back its own copy.
            drop((block, unsafe { arena.from_raw(raw) }));
            check_empty(&arena);
        }
    });
}

/// Runs `body` in a forked child; its exit status.
#[cfg(unix)]
fn forked(body: impl FnOnce()) -> i32 {
    // SAFETY: this process has one thread that matters, and the child ends without returning.
    match unsafe { libc::fork() } {
        0 => {
            let ok = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_ok();
            // SAFETY: ends the child without what belongs to the parent.
            unsafe { libc::_exit(i32::from(!ok)) }
        }
        child => {
            let mut status = 0;
            // SAFETY: `status` is valid for the call to write to.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            status
        }
    }
}
