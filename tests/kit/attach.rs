//! Tests of observers that are attached late, and of lists of live blocks.
//!
//! - *Catching up*: the new observer first gets the reservation, then every live function with its
//!   tag, name and unwind information. After that it gets events like any other.
//! - *Notes*: an arena without `keep_notes` refuses the call.
//! - *Races*: two threads publish and drop during `attach`. At the end the observer's list is equal
//!   to that of the arena.
//! - *`blocks`*: each live block is listed once, in the order of addresses, in bins with many small
//!   blocks and across spans.
//! - *Forked children*: `attach` is refused, and the list can still be read. A child process is
//!   necessary, because other tests have threads (Linux).
//!
//! The races exist to catch a function that is reported twice or never, because it was published
//! between the list and the registration. `common::publish_after_guards` keeps the threads from
//! failing in a full arena.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use gaia_jit::{BlockInfo, Code, CodeArena, CodeBlock, Error, Observer, Published, Reservation, UnwindInfo, WxMode};

use super::common::{StopOnDrop, asm, modes, often, publish_after_guards, small};

/// Length, tag and name.
type Told = (usize, u64, Option<String>);

/// An observer that stores its events, as a debugger does.
#[derive(Default)]
struct Listener {
    spaces: Mutex<Vec<Reservation>>,
    live: Mutex<BTreeMap<usize, Told>>,
    frames: Mutex<usize>,
}

impl Observer for Listener {
    fn reserved(&self, space: &Reservation) {
        self.spaces.lock().unwrap().push(*space);
    }

    fn published(&self, functions: &[Published<'_>]) {
        assert_eq!(self.spaces.lock().unwrap().len(), 1, "told of the arena first");
        for function in functions {
            assert_eq!(function.code().len(), function.block.len);
            let told = (function.block.len, function.block.tag, function.name.map(String::from));
            self.live.lock().unwrap().insert(function.block.start as usize, told);
            *self.frames.lock().unwrap() += usize::from(function.unwind.is_some());
        }
    }

    fn retired(&self, block: &BlockInfo) {
        self.live.lock().unwrap().remove(&(block.start as usize));
    }
}

fn live(arena: &CodeArena) -> Vec<(usize, usize, u64)> {
    arena.blocks().map(|block| (block.start as usize, block.len, block.tag)).collect()
}

fn told(listener: &Listener) -> Vec<(usize, usize, u64)> {
    listener.live.lock().unwrap().iter().map(|(start, (len, tag, _))| (*start, *len, *tag)).collect()
}

#[test]
fn a_late_observer_hears_of_what_lives() {
    for mode in modes() {
        let arena = small(mode).keep_notes(true).build().unwrap();
        let mut batch = arena.batch();
        for n in 0..300 {
            let slot = batch.push(Code::new(&asm::constant(n)).tag(n.into()).name("in a batch")).unwrap();
            batch.set_unwind(slot, UnwindInfo::EhFrame(&[1, 2, 3]));
        }
        let mut blocks = batch.publish().unwrap();
        blocks.push(arena.publish(Code::new(&asm::constant(1)).tag(1_000).name("alone")).unwrap());
        blocks.push(arena.publish(&asm::constant(1)).unwrap());
        drop(blocks.drain(10..200));
        let mut short = arena.publish(Code::new(&asm::padded(1, 900)).name("short")).unwrap();
        short.shrink(200).unwrap();
        let (first, second) = (Arc::new(Listener::default()), Arc::new(Listener::default()));
        arena.attach(first.clone()).unwrap();
        assert_eq!((told(&first).len(), told(&first)), (113, live(&arena)));
        assert_eq!(*first.frames.lock().unwrap(), 110);
        let name = |block: &CodeBlock| first.live.lock().unwrap()[&(block.as_ptr() as usize)].2.clone();
        assert_eq!(name(&blocks[0]).as_deref(), Some("in a batch"));
        assert_eq!(name(&blocks[110]).as_deref(), Some("alone"));
        assert_eq!((name(&blocks[111]), name(&short).as_deref()), (None, Some("short")));
        // From now on it is like any other observer.
        assert!(matches!(short.shrink(100), Err(Error::Unsupported { .. })));
        blocks.push(arena.publish(Code::new(&asm::constant(1)).name("late")).unwrap());
        assert_eq!(name(&blocks[112]).as_deref(), Some("late"));
        drop(blocks.drain(50..100));
        arena.attach(second.clone()).unwrap();
        assert_eq!((told(&first), told(&second)), (live(&arena), live(&arena)));
        drop((blocks, short));
        assert!(told(&first).is_empty() && told(&second).is_empty() && live(&arena).is_empty(), "{mode:?}");
        drop(arena);
        assert_eq!(Arc::strong_count(&first), 1);
    }
}

#[test]
fn notes_have_to_be_kept() {
    let arena = small(WxMode::Flip).build().unwrap();
    let refused = arena.attach(Arc::new(Listener::default()));
    assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
}

/// Threads publish and drop while an observer is attached. In the end it knows exactly the live
/// blocks.
#[test]
fn an_observer_that_comes_amid_all_misses_nothing() {
    for mode in modes() {
        for round in 0..often(40) {
            let arena = small(mode).keep_notes(true).build().unwrap();
            let listener = Arc::new(Listener::default());
            let (stop, seed) = (AtomicBool::new(false), round as u64);
            let kept: Vec<CodeBlock> = std::thread::scope(|scope| {
                let ended = StopOnDrop(&stop);
                let threads: Vec<_> = (0..2)
                    .map(|thread| {
                        let (arena, stop) = (&arena, &stop);
                        scope.spawn(move || {
                            let mut rng = fastrand::Rng::with_seed(seed * 2 + thread);
                            let mut blocks: Vec<CodeBlock> = Vec::new();
                            while !stop.load(Ordering::Relaxed) {
                                if blocks.len() < 30 {
                                    let len = rng.usize(20..400);
                                    let code = asm::padded(1, len);
                                    let code = Code::new(&code).tag(rng.u64(1..));
                                    blocks.push(publish_after_guards(arena, code));
                                } else {
                                    blocks.swap_remove(rng.usize(..blocks.len()));
                                }
                            }
                            blocks
                        })
                    })
                    .collect();
                while arena.blocks().count() < 20 {
                    std::thread::yield_now();
                }
                arena.attach(listener.clone()).unwrap();
                std::thread::yield_now();
                drop(ended);
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(told(&listener), live(&arena), "{mode:?} {round}");
            drop(kept);
            assert!(told(&listener).is_empty());
        }
    }
}

/// Small blocks in crowded bins, and large ones across spans: each is listed once, in order.
#[test]
fn the_list_of_blocks_is_complete() {
    for mode in modes() {
        let arena = small(mode).capacity(4 << 20).build().unwrap();
        let mut rng = fastrand::Rng::with_seed(3);
        let mut blocks: Vec<CodeBlock> = Vec::new();
        for round in 0..6 {
            let mut batch = arena.batch();
            for _ in 0..400 {
                let len = if rng.u8(..) < 4 { rng.usize(60_000..200_000) } else { rng.usize(1..80) };
                if batch.push(Code::new(&vec![0; len]).tag(rng.u64(..))).is_err() {
                    break;
                }
            }
            blocks.extend(batch.publish().unwrap());
            (0..blocks.len() / 2).for_each(|_| drop(blocks.swap_remove(rng.usize(..blocks.len()))));
            let mut expected: Vec<_> =
                blocks.iter().map(|block| (block.as_ptr() as usize, block.len(), block.tag())).collect();
            expected.sort_unstable();
            assert_eq!(live(&arena), expected, "{mode:?} {round}");
        }
        drop(blocks);
        assert_eq!(arena.blocks().count(), 0);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_attaches_nothing() {
    use super::common::{child, fork::fork};
    child::run("a_forked_child_attaches_nothing", || {
        for mode in modes() {
            let arena = small(mode).keep_notes(true).build().unwrap();
            let mut blocks: Vec<_> = (0..20).map(|n| arena.publish(&asm::constant(n)).unwrap()).collect();
            let listed = live(&arena);
            assert!(fork(|| {
                assert!(matches!(arena.attach(Arc::new(Listener::default())), Err(Error::Forked { .. })));
                assert_eq!(live(&arena), listed);
                blocks.clear();
            }));
            let listener = Arc::new(Listener::default());
            arena.attach(listener.clone()).unwrap();
            assert_eq!((told(&listener), blocks.len()), (listed, 20));
        }
    });
}
