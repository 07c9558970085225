//! Tests of the small calls: the place of an arena, weak references, functions that are written in
//! place, typed pointers.
//!
//! - *Place*: `base`, `contains` and `reaches` at the first byte, at the last, and 2 GiB away.
//! - *`WeakArena`*: an observer that stores one does not keep its arena alive.
//! - *`publish_with`*: the closure gets aligned traps and may use less than it reserved. The rest
//!   is free at once.
//! - *Failures in the closure*: after an error, a wrong length or a panic the figures are as
//!   before.
//! - *`Typed`*: a pointer is called on two threads, and under a guard after the drop of its block.
//!
//! One closure publishes another function in the same arena. It exists to catch a lock that is held
//! during the closure, because the test would hang. Another check is about `trim`, which has to
//! find pages that hold only traps. Nothing is required of the system.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use gaia_jit::{CodeArena, Error, Observer, Published, Reserve, Typed, WeakArena, WxMode};

use super::common::{asm, call, fills_holes, modes, small};

#[test]
fn an_arena_says_where_it_lies_and_what_it_reaches() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let first = arena.publish(&asm::constant(1)).unwrap();
        assert!(arena.contains(arena.base()) && !arena.contains(arena.base().wrapping_sub(1)));
        assert!((first.as_ptr() as usize) >= arena.base() as usize);
        let end = arena.base().wrapping_add(arena.capacity());
        assert!([arena.base(), end.wrapping_sub(1), end].into_iter().all(|address| arena.reaches(address)));
        if cfg!(target_pointer_width = "64") {
            let far = [end.wrapping_add(2 << 30), arena.base().wrapping_sub(2 << 30)];
            assert!(!far.into_iter().any(|address| arena.reaches(address)), "{mode:?}");
        }
        assert!(!arena.is_inherited());
    }
}

/// All addresses of an arena are in reach of each other, for every size.
#[test]
fn the_largest_arena_reaches_itself() {
    let arena = CodeArena::builder().capacity(super::common::LARGE).build().unwrap();
    let last = arena.base().wrapping_add(arena.capacity() - 4);
    assert!(arena.reaches(arena.base()) && arena.reaches(last));
}

#[test]
fn a_weak_arena_keeps_nothing() {
    /// An observer that publishes a function for each event of another function.
    struct Echo(Mutex<Option<WeakArena>>);
    impl Observer for Echo {
        fn published(&self, functions: &[Published<'_>]) {
            let weak = self.0.lock().unwrap().clone();
            let arena = weak.and_then(|weak| weak.upgrade());
            if functions[0].name == Some("first") {
                drop(arena.unwrap().publish(&asm::constant(2)).unwrap());
            }
        }
    }
    let echo = Arc::new(Echo(Mutex::new(None)));
    let arena = small(WxMode::Flip).observer(echo.clone()).build().unwrap();
    let weak = arena.downgrade();
    *echo.0.lock().unwrap() = Some(weak.clone());
    let block = arena.publish(gaia_jit::Code::new(&asm::constant(1)).name("first")).unwrap();
    assert_eq!(arena.stats().live_blocks, 1);
    let batch = arena.batch();
    drop(arena);
    assert_eq!(weak.upgrade().map(|arena| arena.stats().live_blocks), Some(1), "a batch is a handle");
    drop(batch);
    assert!(weak.upgrade().is_none(), "a block is none");
    assert_eq!(call(&block), 1);
    // The observer is dropped with the arena.
    drop(block);
    assert_eq!(Arc::strong_count(&echo), 1);
}

/// The reserved bytes are aligned and begin as traps. The block is as long as the function became.
#[test]
fn code_is_written_at_its_address() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let target = arena.publish(&asm::constant(7)).unwrap();
        let before = arena.stats();
        for (len, used) in [(asm::tail_len(), 0), (1_000, 0), (100_000, 0), (100_000, 70_000)] {
            let used = asm::tail_len().max(used);
            let reserve = Reserve::new(len).align(256).tag(5).name("jump");
            let block = arena.publish_with(reserve, |address, bytes| {
                assert_eq!((address as usize % 256, bytes.len()), (0, len));
                if cfg!(target_arch = "x86_64") {
                    assert!(bytes.iter().all(|byte| *byte == 0xcc));
                }
                let code = asm::tail_call(address, target.as_ptr());
                bytes[..code.len()].copy_from_slice(&code);
                // Bytes after the end belong to nobody.
                bytes[used..].fill(0);
                Ok(used)
            });
            let block = block.unwrap();
            assert_eq!((block.len(), block.tag(), call(&block)), (used, 5, 7), "{mode:?} {len}");
            let hit = arena.lookup(block.as_ptr().wrapping_add(used - 1)).unwrap();
            assert_eq!((hit.start, hit.len, hit.tag), (block.as_ptr(), used, 5));
            let stats = arena.stats();
            assert_eq!(stats.live_bytes, before.live_bytes + used);
            assert_eq!(stats.free_bytes, before.free_bytes - used.next_multiple_of(16), "{mode:?} {len}");
            assert_eq!((stats.batch_bytes, stats.live_blocks), (0, 2));
            // If traps were written in opened pages, these hold memory, which a trim has to find.
            assert!(mode != WxMode::Flip || len < 100_000 || stats.resident_bytes >= len, "{stats}");
            // The space after the function is used, and the function is unchanged.
            let next: Vec<_> = (0..40).map(|n| arena.publish(&asm::padded(n, 900)).unwrap()).collect();
            assert!((0..).zip(&next).all(|(n, block)| call(block) == n) && call(&block) == 7);
        }
        assert_eq!(arena.stats().free_bytes, before.free_bytes);
        drop(target);
        let _ = arena.trim().unwrap();
        let trimmed = arena.stats();
        assert!(trimmed.resident_bytes == 0 || trimmed.decommits == 0, "{mode:?}: {trimmed}");
    }
}

#[test]
fn what_is_not_published_comes_back() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let block = arena.publish(&asm::constant(7)).unwrap();
        let before = arena.stats();
        let unchanged = |what: &str| {
            let now = arena.stats();
            assert_eq!(
                (now.live_blocks, now.free_bytes, now.batch_bytes),
                (1, before.free_bytes, 0),
                "{mode:?}: {what}"
            );
        };
        let with = |len: usize, says: Result<usize, Error>| arena.publish_with(Reserve::new(len), |_, _| says);
        assert!(matches!(with(64, Err(Error::ZeroSize)), Err(Error::ZeroSize)));
        assert!(matches!(with(0, Ok(1)), Err(Error::ZeroSize)));
        assert!(matches!(with(64, Ok(0)), Err(Error::ZeroSize)));
        assert!(matches!(with(64, Ok(65)), Err(Error::PastCapacity { len: 65, capacity: 64, .. })));
        assert!(matches!(with(64, Ok(usize::MAX)), Err(Error::PastCapacity { .. })));
        assert!(matches!(with(2 << 20, Ok(1)), Err(Error::TooLarge { .. })));
        let unaligned = arena.publish_with(Reserve::new(8).align(3), |_, _| Ok(1));
        assert!(matches!(unaligned, Err(Error::BadAlignment { .. })));
        unchanged("errors");
        let panicked =
            catch_unwind(AssertUnwindSafe(|| arena.publish_with(Reserve::new(500), |_, _| panic!("as meant"))));
        assert!(panicked.is_err());
        unchanged("a panic");
        // No lock is held, so the arena can be used, up to its last granule.
        let nested = arena.publish_with(Reserve::new(500), |_, bytes| {
            let inner = arena.publish(&asm::constant(3))?;
            assert_eq!(call(&inner), 3);
            let code = asm::constant(4);
            bytes[..code.len()].copy_from_slice(&code);
            Ok(code.len())
        });
        assert_eq!(call(&nested.unwrap()), 4);
        unchanged("a publication inside");
        assert_eq!((call(&block), fills_holes(mode)), (7, before.fills_holes));
    }
}

#[test]
fn typed_pointers_are_called() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let (add, seven) = (arena.publish(&asm::add()).unwrap(), arena.publish(&asm::constant(7)).unwrap());
        // SAFETY: this is what the code does.
        let add: Typed<'_, extern "C" fn(u32, u32) -> u32> = unsafe { add.typed() };
        // SAFETY: as above.
        let unwinding: Typed<'_, extern "C-unwind" fn() -> u32> = unsafe { seven.typed() };
        assert_eq!((add.call(40, 2), unwinding.call()), (42, 7));
        // SAFETY: `seven` lives.
        assert_eq!(unsafe { unwinding.get() }(), 7);
        assert!(format!("{add:?}").contains("fn(u32, u32) -> u32"));
        // It may be sent to another thread.
        std::thread::scope(|scope| assert_eq!(scope.spawn(|| add.call(1, 2)).join().unwrap(), 3));
    }
}

#[test]
fn under_a_guard_a_typed_pointer_outlives_its_block() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let block = arena.publish(&asm::constant(7)).unwrap();
        let guard = arena.pin();
        // SAFETY: the block is dropped after the guard was taken.
        let seven = unsafe { guard.typed::<extern "C" fn() -> u32>(block.as_ptr()) };
        drop(block);
        let others: Vec<_> = (0..50).map(|n| arena.publish(&asm::constant(n)).unwrap()).collect();
        assert_eq!((seven.call(), others.len()), (7, 50));
    }
}
