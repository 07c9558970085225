//! Several heaps in one arena: who takes from which, who frees into which, and what happens at the borders.

mod random;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::heaps::last;
use crate::space::granules::SPAN;
#[cfg(unix)]
use crate::tests::common::child;
use crate::tests::common::{asm, call, call_at, fills_holes, modes, not_run};
use crate::tests::faulty::Faulty;
use crate::units::GRANULE;
use crate::{CodeArena, CodeBlock, Error, Observer, Reservation, WxMode};

const SPAN_BYTES: usize = SPAN as usize * GRANULE;

/// Whether there is a mode that fills holes; says so if there is none.
fn has_mode(test: &str) -> bool {
    let found = modes().any(fills_holes);
    if !found {
        not_run(test, "no mode fills holes here");
    }
    found
}

/// An arena in a mode that fills holes.
fn arena(spans: usize) -> CodeArena {
    let mode = modes().find(|mode| fills_holes(*mode)).expect("a mode that fills holes");
    CodeArena::builder().capacity(spans * SPAN_BYTES).mode(mode).build().unwrap()
}

/// Publishes through a heap.
fn publish(arena: &CodeArena, heap: usize, len: usize) -> Result<CodeBlock, Error> {
    arena.go_to_heap(heap);
    let block = arena.publish(&asm::padded(heap as u32 + 1, len)[..]);
    arena.go_to_heap(0);
    block
}

fn offset(arena: &CodeArena, block: &CodeBlock) -> usize {
    block.as_ptr().addr() - arena.core().memory.address(0).addr()
}

fn span(arena: &CodeArena, block: &CodeBlock) -> usize {
    offset(arena, block) / SPAN_BYTES
}

fn owner(arena: &CodeArena, span: usize) -> u16 {
    arena.core().heaps.granules().owner_at(span as u32 * SPAN).unwrap()
}

fn check_empty(arena: &CodeArena) {
    let stats = arena.stats();
    assert_eq!((stats.live_blocks, stats.pending_blocks, stats.batch_bytes), (0, 0, 0), "{stats}");
    assert_eq!((stats.free_bytes, stats.largest_hole), (arena.capacity(), arena.capacity()), "{stats}");
}

/// What it takes there is spans of its own, so no page has two owners.
#[test]
fn a_thread_goes_where_nobody_else_is() {
    if !has_mode("a_thread_goes_where_nobody_else_is") {
        return;
    }
    let arena = arena(16);
    let first = arena.publish(&asm::constant(1)).unwrap();
    let other = {
        let _held = arena.core().heaps.lock(0);
        // On this thread, which would wait for ever if it did not know that it meets another again and again.
        assert!((0..last::MISSES).fold(false, |_, _| last::count_miss(0)));
        arena.publish(&asm::constant(2)).unwrap()
    };
    arena.go_to_heap(0);
    assert_eq!((owner(&arena, span(&arena, &first)), owner(&arena, span(&arena, &other))), (1, 2));
    assert!(SPAN_BYTES % arena.map().page_size == 0);
    assert_eq!((call(&first), call(&other)), (1, 2));
    drop((first, other));
    check_empty(&arena);
}

/// A block that another thread drops is free in the heap that it came from, and the next one there takes its place.
#[test]
fn what_others_drop_comes_back_to_its_heap() {
    if !has_mode("what_others_drop_comes_back_to_its_heap") {
        return;
    }
    let arena = arena(16);
    let mut blocks: Vec<_> = (0..300).map(|_| publish(&arena, 1, 200).unwrap()).collect();
    for _ in 0..20 {
        let dropped = blocks.split_off(100);
        let mut places: Vec<_> = dropped.iter().map(CodeBlock::as_ptr).collect();
        thread::scope(|scope| scope.spawn(|| drop(dropped)).join().unwrap());
        blocks.extend((0..200).map(|_| publish(&arena, 1, 200).unwrap()));
        let mut again: Vec<_> = blocks[100..].iter().map(CodeBlock::as_ptr).collect();
        places.sort_unstable();
        again.sort_unstable();
        assert_eq!(places, again);
    }
    drop(blocks);
    check_empty(&arena);
}

/// A thread that needs space takes it where others left more than a little, before it takes memory that was never used.
#[test]
fn what_other_heaps_have_free_is_used_before_new_memory() {
    if !has_mode("what_other_heaps_have_free_is_used_before_new_memory") {
        return;
    }
    let arena = arena(64);
    let mut blocks: Vec<_> = (0..2000).map(|_| publish(&arena, 1, 500).unwrap()).collect();
    // Every second one goes, so that no span comes free.
    let mut keep = false;
    blocks.retain(|_| {
        keep = !keep;
        keep
    });
    let resident = arena.stats().resident_bytes;
    blocks.extend((0..850).map(|_| publish(&arena, 2, 500).unwrap()));
    assert_eq!(arena.stats().resident_bytes, resident);
    drop(blocks);
    check_empty(&arena);
}

/// An arena whose spans belong to two heaps in turn, each span full of two blocks of these bytes.
fn in_turn(spans: usize, sizes: [usize; 2]) -> (CodeArena, Vec<CodeBlock>) {
    let arena = arena(spans);
    let mut blocks = Vec::new();
    for n in 0..spans {
        for size in sizes {
            blocks.push(publish(&arena, n % 2, size).unwrap());
        }
    }
    blocks.sort_by_key(CodeBlock::as_ptr);
    assert!(blocks.chunks(2).enumerate().all(|(n, pair)| pair.iter().all(|block| span(&arena, block) == n)));
    assert!((1..spans).all(|n| owner(&arena, n) != owner(&arena, n - 1)));
    assert_eq!(arena.stats().free_bytes, 0);
    (arena, blocks)
}

/// Two halves of a hole that belong to different heaps are one hole before the arena is called full; what waits for a guard
/// in the span that changes owner is not lost, and what lives there is dropped where it belongs now.
#[test]
fn a_hole_across_two_heaps_is_found() {
    if !has_mode("a_hole_across_two_heaps_is_found") {
        return;
    }
    let (arena, mut blocks) = in_turn(16, [SPAN_BYTES / 2; 2]);
    // The second half of span 6 and the first of span 7, which is another heap's.
    drop(blocks.remove(13));
    assert_eq!(span(&arena, &blocks[13]), 7);
    drop(blocks.remove(13));
    let guard = arena.pin();
    // Waits, in each of the spans on either side and in those behind.
    let waiting: Vec<_> = [12, 12, 12, 12].map(|at| blocks.remove(at)).into();
    assert_eq!(waiting.iter().map(|block| span(&arena, block)).collect::<Vec<_>>(), [6, 7, 8, 8]);
    drop(waiting);
    let (free, waiting) = (SPAN_BYTES, 4 * SPAN_BYTES / 2);
    match arena.publish(&[0; 2 * SPAN_BYTES][..]) {
        Err(Error::ArenaFull { asked, free: said, largest_hole, waiting: wait }) => {
            assert_eq!((asked, said, largest_hole, wait), (2 * SPAN_BYTES, free, free, waiting));
        }
        other => panic!("{other:?}"),
    }
    let across = arena.publish(&asm::padded(77, SPAN_BYTES)[..]).unwrap();
    assert_eq!((span(&arena, &across), offset(&arena, &across) % SPAN_BYTES), (6, SPAN_BYTES / 2));
    assert_eq!(owner(&arena, 6), owner(&arena, 7));
    assert_eq!(call(&across), 77);
    let hit = arena.lookup(across.as_ptr().wrapping_add(SPAN_BYTES - 1)).unwrap();
    assert_eq!((hit.start, hit.len), (across.as_ptr(), SPAN_BYTES));
    drop(guard);
    assert_eq!(arena.stats().pending_blocks, 0);
    match arena.publish(&[0; 4 * SPAN_BYTES][..]) {
        Err(Error::ArenaFull { waiting, .. }) => assert_eq!(waiting, 0, "what waited came free in another heap"),
        other => panic!("{other:?}"),
    }
    for block in &blocks {
        assert!(matches!(call(block), 1 | 2));
        assert_eq!(arena.lookup(block.as_ptr()).unwrap().len, SPAN_BYTES / 2);
    }
    drop((across, blocks));
    check_empty(&arena);
}

/// A span that changes owner takes along the spans that its blocks reach into, and what waits in them.
#[test]
fn blocks_across_the_ends_of_a_span_go_along() {
    if !has_mode("blocks_across_the_ends_of_a_span_go_along") {
        return;
    }
    let arena = arena(16);
    let quarter = SPAN_BYTES / 4;
    // Heap 0 has span 0; heap 1 has three and a half quarters of each of spans 1 to 3 in blocks that straddle, and the rest is full.
    let first = publish(&arena, 0, SPAN_BYTES).unwrap();
    let chain: Vec<_> = (0..4).map(|_| publish(&arena, 1, 3 * quarter).unwrap()).collect();
    let rest: Vec<_> = std::iter::from_fn(|| publish(&arena, 0, quarter).ok()).collect();
    let spans: Vec<usize> = chain.iter().map(|block| span(&arena, block)).collect();
    assert_eq!((arena.stats().free_bytes, &spans[..]), (0, &[1, 1, 2, 3][..]), "{:?}", arena.stats());
    let guard = arena.pin();
    let mut chain = chain.into_iter();
    let (a, b, c, d) = (chain.next().unwrap(), chain.next().unwrap(), chain.next().unwrap(), chain.next());
    drop(c);
    drop(guard);
    let guard = arena.pin();
    drop(b);
    // Span 0 and the first of the chain are free, of two heaps; the guard is older than the drop of the second.
    drop((first, a));
    drop(guard);
    let large = arena.publish(&asm::padded(9, SPAN_BYTES + 3 * quarter)[..]).unwrap();
    assert_eq!(offset(&arena, &large), 0);
    assert_eq!(call(&large), 9);
    drop((large, d, rest));
    check_empty(&arena);
}

/// A publication that finds space only across two heaps, while a free span next to them is being given back to the system.
#[test]
fn a_span_in_flight_belongs_to_nobody() {
    if !fills_holes(WxMode::Flip) {
        return not_run("a_span_in_flight_belongs_to_nobody", "Flip fills no holes here");
    }
    let system = Faulty::leaked();
    let arena = CodeArena::builder().capacity(16 * SPAN_BYTES).keep_free(0).os(system).build().unwrap();
    let granules = |n: usize| asm::padded(n as u32, n * GRANULE);
    let put = |heap: usize, n: usize| {
        arena.go_to_heap(heap);
        arena.publish(&granules(n)[..]).unwrap()
    };
    let mut rest = vec![put(0, 2048), put(0, 1048)];
    let left = put(0, 1000);
    let right = put(1, 1000);
    rest.extend([put(1, 2048), put(1, 1048)]);
    let free = put(1, 4096);
    rest.extend((3..16).map(|_| put(1, 4096)));
    assert_eq!((owner(&arena, 0), owner(&arena, 1), span(&arena, &free)), (1, 2, 2));
    drop((left, right));
    let (send, receive) = std::sync::mpsc::channel();
    let other = arena.clone();
    system.in_decommit(move || {
        let code = asm::padded(7, 1500 * GRANULE);
        send.send(thread::spawn(move || other.publish(&code[..]).unwrap()).join().unwrap()).unwrap();
    });
    drop(free);
    let across = receive.recv().unwrap();
    assert_eq!((offset(&arena, &across) / GRANULE, call(&across)), (3096, 7));
    random::check_figures(&arena);
    drop((across, rest));
    check_empty(&arena);
}

/// How many arenas were released.
#[derive(Default)]
struct Released(AtomicUsize);

impl Observer for Released {
    fn released(&self, _: &Reservation) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The last blocks go on several threads at one time, and memory back to the system, once no handle is left.
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

/// An age of guards ends, and the next call that places code does so in another heap than the one where a block waits: a guard
/// that is taken after that call does not hold the block back.
#[test]
fn a_call_in_another_heap_makes_guards_younger() {
    if !has_mode("a_call_in_another_heap_makes_guards_younger") {
        return;
    }
    let arena = arena(16);
    let blocks: Vec<_> = (0..17).map(|_| publish(&arena, 0, 16).unwrap()).collect();
    let mut guards = Vec::new();
    for block in blocks {
        guards.push(arena.pin());
        drop(block);
    }
    drop(guards.remove(6));
    let placed = publish(&arena, 1, 16).unwrap();
    let young = arena.pin();
    guards.clear();
    assert_eq!(arena.stats().pending_blocks, 0);
    drop((young, placed));
    check_empty(&arena);
}

/// While pages that could not be sealed are being sealed again by one thread, another does not hear that the arena is full.
#[test]
fn what_is_sealed_again_is_waited_for() {
    if !fills_holes(WxMode::Flip) {
        return not_run("what_is_sealed_again_is_waited_for", "Flip fills no holes here");
    }
    for _ in 0..200 {
        let system = Faulty::leaked();
        let arena = CodeArena::builder().capacity(4 * SPAN_BYTES).os(system).build().unwrap();
        let fill = arena.publish(&[0xc3; SPAN_BYTES][..]).unwrap();
        let mut batch = arena.batch();
        batch.push(&[0xc3; 3 * SPAN_BYTES][..]).unwrap();
        system.refuse(&["seal"]);
        drop(batch);
        system.heal();
        let barrier = std::sync::Barrier::new(2);
        let publish = || {
            barrier.wait();
            arena.publish(&asm::constant(1)).unwrap()
        };
        let blocks = thread::scope(|scope| [scope.spawn(publish), scope.spawn(publish)].map(|thread| thread.join()));
        assert!(blocks.iter().all(|block| call(block.as_ref().unwrap()) == 1));
        drop((fill, blocks));
        check_empty(&arena);
    }
}

/// A drop has looked at the guards and waits to overwrite what it may. What is dropped meanwhile under a guard stays as it is.
#[test]
fn a_guard_that_is_taken_while_a_drop_waits_counts() {
    if !has_mode("a_guard_that_is_taken_while_a_drop_waits_counts") {
        return;
    }
    let mode = modes().find(|mode| fills_holes(*mode)).unwrap();
    let arena = CodeArena::builder().capacity(SPAN_BYTES).mode(mode).poison(true).build().unwrap();
    let (first, second) = (arena.publish(&asm::constant(1)).unwrap(), arena.publish(&asm::constant(2)).unwrap());
    let address = second.as_ptr();
    let core: &super::Core = arena.core();
    let wait_for = |waiting: usize| {
        while core.heaps.lock(0).pending.len() < waiting {
            thread::yield_now();
        }
    };
    let system = core.system.lock();
    let guard = thread::scope(|scope| {
        scope.spawn(|| drop(first));
        wait_for(1);
        let guard = arena.pin();
        scope.spawn(|| drop(second));
        wait_for(2);
        drop(system);
        guard
    });
    assert_eq!((arena.stats().pending_blocks, call_at(address)), (1, 2));
    drop(guard);
    check_empty(&arena);
}

/// Where the system takes nothing back, it is not asked at every drop.
#[test]
fn a_refusal_is_not_repeated_at_every_drop() {
    if !fills_holes(WxMode::Flip) {
        return not_run("a_refusal_is_not_repeated_at_every_drop", "Flip fills no holes here");
    }
    let system = Faulty::leaked();
    let arena = CodeArena::builder().capacity(8 << 20).keep_free(0).os(system).build().unwrap();
    let (blocks, kept): (Vec<_>, Vec<_>) =
        (0..100).map(|n| (n, publish(&arena, 0, 60_000).unwrap())).partition(|(n, _)| *n > 0);
    system.refuse(&["decommit"]);
    drop(blocks);
    system.take_log();
    (0..100).for_each(|_| drop(arena.publish(&asm::constant(1)).unwrap()));
    assert!(system.take_log().iter().filter(|call| **call == "decommit").count() <= 1);
    system.heal();
    drop(kept);
    arena.trim().unwrap();
    check_empty(&arena);
}

/// More threads than there can be heaps share them.
#[test]
fn more_threads_than_heaps() {
    if !has_mode("more_threads_than_heaps") {
        return;
    }
    for spans in [1, 16] {
        let arena = arena(spans);
        thread::scope(|scope| {
            for n in 0..8 {
                let arena = &arena;
                scope.spawn(move || {
                    for round in 0..200 {
                        let blocks: Vec<_> =
                            (0..5).map(|_| arena.publish(&asm::padded(n, 16 + round)).unwrap()).collect();
                        assert!(blocks.iter().all(|block| call(block) == n));
                    }
                });
            }
        });
        check_empty(&arena);
    }
}

/// Where a thread's own variables are gone already, or are going.
#[test]
fn a_thread_that_ends_publishes_and_drops() {
    if !has_mode("a_thread_that_ends_publishes_and_drops") {
        return;
    }
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
    let arena = arena(16);
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
    child::run("arena::tests::a_child_waits_for_no_lock", || {
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
                // SAFETY: a copy of what the parent has, in a process that ends without dropping its own.
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
