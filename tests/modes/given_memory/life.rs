//! Tests of given memory from the first block to the notification of its owner: traps, observers,
//! threads, children.
//!
//! - *Notification*: the owner's function is called once, after the last handle, batch and block. A
//!   failed build calls it as well.
//! - *Traps*: after `trim`, and with `poison` after each drop, no byte of dropped code is left.
//!   Live code and the bytes in its last page stay.
//! - *Observers*: the reservation has the start and the length after alignment.
//! - *Threads*: four of them publish, drop and trim, and the arena is empty afterwards.
//! - *Forked children*: the view is compared byte by byte, because parent and child share it. This
//!   is the only test with a child process.
//!
//! Most tests are made with both writers, the alias and the function. They print `NOT RUN` if code
//! that is written to a second view does not run, as under some emulators. `places.rs` has the odd
//! places and lengths.

use super::places::ODD;
use super::*;

/// The owner is notified once, after the last user of the memory.
#[test]
fn the_owner_is_told_once_when_nobody_is_left() {
    if !has_two_views("the_owner_is_told_once_when_nobody_is_left") {
        return;
    }
    let views = Arc::new(Views::new(1 << 20));
    let told = Arc::new(AtomicUsize::new(0));
    let memory = || {
        let (count, mut memory) = (Arc::clone(&told), views.part(5, 500_000, false));
        let inner = memory.release.take().unwrap();
        memory.release = Some(Box::new(move || {
            inner();
            count.fetch_add(1, Ordering::SeqCst);
        }));
        memory
    };
    let seen = || told.load(Ordering::SeqCst);
    let arena = build(memory()).unwrap();
    let (clone, batch) = (arena.clone(), arena.batch());
    let (block, raw) =
        (arena.publish(&asm::constant(1)).unwrap(), arena.publish(&asm::constant(2)).unwrap().into_raw());
    // SAFETY: the pointer came from `into_raw` of this arena, and is taken back once.
    let second = unsafe { arena.from_raw(raw) }.unwrap();
    drop(arena);
    drop(batch);
    drop(clone);
    assert_eq!((seen(), call(&block), call(&second)), (0, 1, 2));
    drop(block);
    assert_eq!((seen(), call(&second)), (0, 2));
    drop(second);
    assert_eq!(seen(), 1);
    // On another thread, with a batch as the last user.
    let batch_of = build(memory()).unwrap();
    std::thread::spawn(move || drop(batch_of.batch())).join().unwrap();
    assert_eq!(seen(), 2);
    // A failed build notifies the owner as well.
    assert!(build_with(CodeArena::builder().capacity(4096), memory()).is_err());
    let mut short = memory();
    short.executable = NonNull::slice_from_raw_parts(short.executable.cast(), 3);
    assert!(matches!(build(short), Err(Error::ZeroSize)));
    assert_eq!(seen(), 4);
    // Memory that was never given to an arena gives no notification.
    drop(memory());
    assert_eq!(seen(), 4);
    assert_eq!(Arc::strong_count(&views), 1);
}

/// After a trim nothing is left of dropped code, from the first byte to the last, and live code
/// stays.
#[test]
fn trimming_fills_with_traps() {
    if !has_two_views("trimming_fills_with_traps") {
        return;
    }
    let views = Arc::new(Views::new(2 << 20));
    for with_function in [false, true] {
        for (from, len) in ODD.into_iter().filter(|(from, len)| from + len <= 2 << 20 && *len > 16_384) {
            let arena = build(views.part(from, len, with_function)).unwrap();
            drop(arena.publish(&vec![0x77; arena.capacity()]).unwrap());
            assert!(arena.stats().resident_bytes + 2 * region::page::size() > arena.capacity());
            let kept = arena.publish(Code::new(&asm::padded(4, 5000)).align(4096)).unwrap();
            assert_eq!(arena.trim().unwrap(), 0);
            let (at, page) = (kept.as_ptr().addr() - views.executable.as_ptr().addr(), region::page::size());
            assert!(arena.stats().resident_bytes <= (2 * page).max(page + 5000));
            drop(arena.publish(&vec![0x77; 100]).unwrap());
            assert_eq!((arena.trim().unwrap(), call(&kept)), (0, 4));
            // Before the function and after it. Bytes that share its last page must not be changed.
            let first =
                (views.executable.as_ptr().addr() + from).next_multiple_of(16) - views.executable.as_ptr().addr();
            let (behind, end) = ((at + 5000).next_multiple_of(page), first + arena.capacity());
            let bytes = [views.bytes(first..at / page * page), views.bytes(behind.min(end)..end)].concat();
            match TRAP {
                Some(trap) => assert!(bytes.iter().all(|byte| *byte == trap), "{from} {len}"),
                None => assert!(!bytes.contains(&0x77), "{from} {len}"),
            }
            check_sums(&arena);
            drop(kept);
            assert_eq!((arena.trim().unwrap(), arena.stats().resident_bytes), (0, 0));
            check_cycles(&arena);
        }
    }
}

#[test]
fn dropped_code_is_poisoned_where_that_is_wanted() {
    if !has_two_views("dropped_code_is_poisoned_where_that_is_wanted") {
        return;
    }
    let views = Arc::new(Views::new(1 << 20));
    for with_function in [false, true] {
        let arena = build_with(CodeArena::builder().poison(true), views.part(9, 300_000, with_function)).unwrap();
        let block = arena.publish(&vec![0x77; 10_000]).unwrap();
        let at = block.as_ptr().addr() - views.executable.as_ptr().addr();
        assert_eq!(views.bytes(at..at + 10_000), vec![0x77; 10_000]);
        drop(block);
        check_empty(&arena);
        let bytes = views.bytes(at..at + 10_000);
        assert!(TRAP.map_or(!bytes.contains(&0x77), |trap| bytes.iter().all(|byte| *byte == trap)));
        check_works(&arena);
    }
}

#[test]
fn observers_hear_of_it() {
    if !has_two_views("observers_hear_of_it") {
        return;
    }
    #[derive(Default)]
    struct Heard(Mutex<Vec<(usize, usize, WxMode)>>);
    impl Observer for Heard {
        fn published(&self, functions: &[gaia_jit::Published<'_>]) {
            assert!(functions.iter().all(|function| !function.code().is_empty()));
        }
        fn retired(&self, _block: &BlockInfo) {}
        fn reserved(&self, space: &gaia_jit::Reservation) {
            self.0.lock().unwrap().push((space.start.addr(), space.len, space.mode));
        }
        fn released(&self, space: &gaia_jit::Reservation) {
            self.0.lock().unwrap().push((space.start.addr(), space.len, space.mode));
        }
    }
    let (views, heard) = (Arc::new(Views::new(1 << 20)), Arc::new(Heard::default()));
    let memory = views.part(17, 200_000, false);
    let arena = build_with(CodeArena::builder().observer(Arc::clone(&heard) as Arc<dyn Observer>), memory).unwrap();
    check_works(&arena);
    let space = (views.executable.as_ptr().addr() + 32, arena.capacity(), WxMode::Given);
    drop(arena);
    assert_eq!(*heard.0.lock().unwrap(), [space; 2]);
}

#[test]
fn many_threads_share_it() {
    if !has_two_views("many_threads_share_it") {
        return;
    }
    let views = Arc::new(Views::new(4 << 20));
    for with_function in [false, true] {
        let arena = build(views.part(70_001, 3_000_000, with_function)).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let arena = &arena;
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(thread);
                    let mut live = Vec::new();
                    for n in 0..common::often(5_000) as u32 {
                        if live.len() > 200 {
                            let (expected, block) = live.swap_remove(rng.usize(..live.len()));
                            assert_eq!(call(&block), expected);
                        }
                        live.push((n, arena.publish(&asm::padded(n, rng.usize(16..1_000))).unwrap()));
                        if n % 1_000 == 0 {
                            assert_eq!(arena.trim().unwrap(), 0);
                        }
                    }
                    assert!(live.iter().all(|(expected, block)| call(block) == *expected));
                });
            }
        });
        check_empty(&arena);
    }
}

/// A child runs inherited code, and writes nothing.
#[test]
fn a_forked_child_writes_nothing() {
    if !has_two_views("a_forked_child_writes_nothing") {
        return;
    }
    child::run("a_forked_child_writes_nothing", || {
        for with_function in [false, true] {
            let views = Arc::new(Views::new(1 << 20));
            let arena = build(views.part(1, 500_000, with_function)).unwrap();
            let block = arena.publish(&asm::constant(4)).unwrap();
            let mut batch = arena.batch();
            let slot = batch.push(&asm::constant(5)).unwrap();
            let before = views.bytes(0..views.len);
            // The memory belongs to the parent, where a dropped batch leaves traps.
            let mut open = Some(batch);
            assert!(fork(|| {
                let mut batch = open.take().unwrap();
                assert_eq!((call(&block), &block.as_bytes()[..]), (4, &asm::constant(4)[..]));
                assert!(matches!(arena.publish(&asm::constant(1)), Err(Error::Forked { .. })));
                // SAFETY: the call is refused.
                assert!(matches!(unsafe { block.patch(0, &[0]) }, Err(Error::Forked { .. })));
                assert!(matches!(arena.trim(), Err(Error::Forked { .. })));
                if !with_function {
                    assert!(batch.bytes_mut(slot).is_empty());
                }
                assert!(matches!(batch.publish(), Err(Error::Forked { .. })));
                drop((block, arena));
            }));
            assert!(views.bytes(0..views.len) == before);
        }
    });
}
