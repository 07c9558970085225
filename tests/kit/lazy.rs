//! Tests of an arena in a static.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use gaia_jit::{CodeArena, Error, LazyArena};

use super::common::{asm, call};

#[test]
fn one_arena_whoever_asks() {
    static BUILT: AtomicUsize = AtomicUsize::new(0);
    static ARENA: LazyArena = LazyArena::new(|| {
        BUILT.fetch_add(1, Ordering::Relaxed);
        CodeArena::builder().capacity(1 << 20)
    });
    assert_eq!((BUILT.load(Ordering::Relaxed), format!("{ARENA:?}")), (0, "LazyArena(None)".into()));
    let bases = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| ARENA.get().unwrap().base() as usize)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(bases.iter().all(|base| *base == bases[0]), "{bases:x?}");
    let built = BUILT.load(Ordering::Relaxed);
    assert!((1..=4).contains(&built));
    assert_eq!(call(&ARENA.get().unwrap().publish(&asm::constant(7)).unwrap()), 7);
    assert_eq!(BUILT.load(Ordering::Relaxed), built);
}

#[test]
fn a_failure_is_not_remembered() {
    static READY: AtomicBool = AtomicBool::new(false);
    static ARENA: LazyArena =
        LazyArena::new(|| CodeArena::builder().capacity(if READY.load(Ordering::Relaxed) { 1 << 20 } else { 0 }));
    assert!((0..3).all(|_| matches!(ARENA.get(), Err(Error::ZeroSize))));
    READY.store(true, Ordering::Relaxed);
    assert_eq!(ARENA.get().unwrap().capacity(), 1 << 20);
}

/// A child gets an arena of its own, and still runs inherited code.
#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_has_another() {
    use super::common::{child, fork::fork};
    static ARENA: LazyArena = LazyArena::new(|| CodeArena::builder().capacity(1 << 20));
    child::run("a_forked_child_has_another", || {
        let arena = ARENA.get().unwrap();
        let block = arena.publish(&asm::constant(7)).unwrap();
        assert!(fork(|| {
            assert!(arena.is_inherited() && format!("{ARENA:?}") == "LazyArena(None)");
            let own = ARENA.get().unwrap();
            assert!(!own.is_inherited() && own.base() != arena.base());
            assert_eq!(ARENA.get().unwrap().base(), own.base());
            assert_eq!((call(&own.publish(&asm::constant(3)).unwrap()), call(&block)), (3, 7));
            // The same for a child of the child.
            assert!(fork(|| assert_ne!(ARENA.get().unwrap().base(), own.base())));
        }));
        assert_eq!(ARENA.get().unwrap().base(), arena.base());
        assert!(!arena.is_inherited());
    });
}
