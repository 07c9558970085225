//! What one heap has and another needs: spans that change owner, and holes that two heaps have
//! together.
//!
//! | what | mistake that it finds |
//! |---|---|
//! | space of other heaps, and holes across two heaps | new memory is used, or the arena reports that it is full, although there is space |
//! | spans that change owner | live or waiting blocks stay with the old owner |
//! | small blocks at the end of a span | a block lies across two spans without need, so that neither can change owner alone |
//! | work of two threads at once | a search misses space in flight, or blocks that become due in a heap it has passed |
//! | notes at the end of a span | a heap changes the state of a span that it does not own |
//! | spans and holes of no use | a heap keeps free spans, or spans go from heap to heap without end |
//!
//! Each test ends with `check_empty`: all space must be one hole again. A test that needs filled
//! holes is reported as not run where no mode fills them.

use std::thread;

use super::{SPAN_BYTES, arena, builder, check_empty, offset, owner, publish, random, span};
use crate::space::granules::SPAN;
use crate::tests::common::{asm, call, fills_holes, not_run, often};
use crate::tests::faulty::Faulty;
use crate::units::GRANULE;
use crate::{CodeArena, CodeBlock, Error, WxMode};

/// A thread that needs space takes it where others left more than a little, before it takes memory
/// that was never used.
#[test]
fn what_other_heaps_have_free_is_used_before_new_memory() {
    let Some(arena) = arena("what_other_heaps_have_free_is_used_before_new_memory", 64) else { return };
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

/// Small blocks are placed in a sparse span of another heap, which changes owner with what lives
/// and what waits there.
#[test]
fn a_sparse_span_changes_owner() {
    let Some(arena) = arena("a_sparse_span_changes_owner", 16) else { return };
    let mut blocks: Vec<_> = (0..2 * SPAN_BYTES / 512).map(|_| publish(&arena, 0, 512).unwrap()).collect();
    // The cursor's.
    let last = publish(&arena, 0, 512).unwrap();
    let guard = arena.pin();
    let waiting = blocks.split_off(blocks.len() - 1);
    drop(waiting);
    blocks.truncate(blocks.len() * 3 / 4);
    let resident = arena.stats().resident_bytes;
    assert!((0..=2).all(|span| owner(&arena, span) == 1));
    drop(guard);
    let guard = arena.pin();
    drop(blocks.pop());
    let others: Vec<_> = (0..20).map(|_| publish(&arena, 1, 512).unwrap()).collect();
    assert_eq!((owner(&arena, 1), span(&arena, &others[0]), arena.stats().resident_bytes), (2, 1, resident));
    assert_eq!(arena.stats().pending_blocks, 1);
    random::check_figures(&arena);
    drop(guard);
    assert_eq!(arena.stats().pending_blocks, 0);
    assert!(blocks.iter().all(|block| call(block) == 1) && others.iter().all(|block| call(block) == 2));
    assert!(blocks.iter().all(|block| arena.lookup(block.as_ptr()).unwrap().len == block.len()));
    drop((blocks, others, last));
    check_empty(&arena);
}

/// Nothing small lies across the end of a span while there is space elsewhere; where there is none,
/// it does.
#[test]
fn small_blocks_lie_in_one_span() {
    let Some(arena) = arena("small_blocks_lie_in_one_span", 2) else { return };
    let (len, in_span) = (37 * GRANULE, SPAN as usize / 37);
    let mut blocks: Vec<_> = (0..2 * in_span).map(|_| publish(&arena, 0, len).unwrap()).collect();
    let spans: Vec<_> = blocks.iter().map(|block| (offset(&arena, block) + len - 1) / SPAN_BYTES).collect();
    assert!(
        blocks
            .iter()
            .zip(spans)
            .enumerate()
            .all(|(n, (block, end))| (span(&arena, block), end) == (n / in_span, n / in_span))
    );
    // A hole with the end of the first span within.
    drop(blocks.remove(in_span));
    let across = publish(&arena, 0, len + GRANULE).unwrap();
    assert_eq!((span(&arena, &across), offset(&arena, &across)), (0, in_span * len));
    drop((across, blocks));
    check_empty(&arena);
}

/// An arena whose spans belong to two heaps in turn, each span full of two blocks of these bytes.
fn in_turn(test: &str, spans: usize, sizes: [usize; 2]) -> Option<(CodeArena, Vec<CodeBlock>)> {
    let arena = arena(test, spans)?;
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
    Some((arena, blocks))
}

/// Two halves of a hole that belong to different heaps are one hole before the arena is called
/// full; what waits for a guard in the span that changes owner is not lost, and what lives there is
/// dropped where it belongs now.
#[test]
fn a_hole_across_two_heaps_is_found() {
    let Some((arena, mut blocks)) = in_turn("a_hole_across_two_heaps_is_found", 16, [SPAN_BYTES / 2; 2]) else {
        return;
    };
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

/// A span that changes owner takes along the spans that its blocks reach into, and what waits in
/// them.
#[test]
fn blocks_across_the_ends_of_a_span_go_along() {
    let Some(arena) = arena("blocks_across_the_ends_of_a_span_go_along", 16) else { return };
    let quarter = SPAN_BYTES / 4;
    // Heap 0 has span 0; heap 1 has three and a half quarters of each of spans 1 to 3 in blocks
    // that straddle, and the rest is full.
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
    // Span 0 and the first of the chain are free, of two heaps; the guard is older than the drop of
    // the second.
    drop((first, a));
    drop(guard);
    let large = arena.publish(&asm::padded(9, SPAN_BYTES + 3 * quarter)[..]).unwrap();
    assert_eq!(offset(&arena, &large), 0);
    assert_eq!(call(&large), 9);
    drop((large, d, rest));
    check_empty(&arena);
}

/// A publication that finds space only across two heaps, while a free span next to them is being
/// given back to the system.
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

/// What one heap notes of a span when it frees there changes nothing of the next one, which is
/// another heap's or comes and goes.
#[test]
fn freeing_at_the_end_of_a_span_leaves_the_next_alone() {
    let Some(arena) = arena("freeing_at_the_end_of_a_span_leaves_the_next_alone", 32) else { return };
    publish(&arena, 1, 16).unwrap();
    let fill = publish(&arena, 0, SPAN_BYTES - GRANULE).unwrap();
    let rounds = often(100_000);
    let churn = |heap: usize| {
        for _ in 0..rounds {
            arena.go_to_heap(heap);
            let block = arena.publish(&asm::constant(7)[..]).unwrap();
            assert!(matches!(owner(&arena, span(&arena, &block)), 1 | 2), "{block:?}");
        }
        arena.go_to_heap(0);
    };
    // One in the last granule of span 0, one in span 1, which comes and goes.
    thread::scope(|scope| {
        scope.spawn(|| churn(0));
        scope.spawn(|| churn(1));
    });
    drop(fill);
    check_empty(&arena);
}

/// Blocks that wait and are due go to a heap that a thread has looked through already, which then
/// finds no space.
#[test]
fn what_is_due_is_found_wherever_it_went() {
    let Some(arena) = arena("what_is_due_is_found_wherever_it_went", 16) else { return };
    let large = publish(&arena, 1, 100 * GRANULE).unwrap();
    let rest = publish(&arena, 1, SPAN_BYTES - 100 * GRANULE).unwrap();
    let fill: Vec<_> = (1..16).map(|_| publish(&arena, 0, SPAN_BYTES).unwrap()).collect();
    assert_eq!((arena.stats().free_bytes, owner(&arena, 0)), (0, 2));
    let guard = arena.pin();
    drop(large);
    drop(guard);
    let heaps = &arena.core().heaps;
    let block = thread::scope(|scope| {
        let mut from = heaps.lock(1);
        let publisher = scope.spawn(|| arena.publish(&asm::padded(5, 90 * GRANULE)[..]));
        // Until it waits for that heap, or a while longer.
        (0..1_000).for_each(|_| thread::yield_now());
        heaps.give_span(&mut from, 0, &mut heaps.lock(0));
        drop(from);
        publisher.join().unwrap().unwrap()
    });
    assert_eq!(call(&block), 5);
    drop((block, rest, fill));
    check_empty(&arena);
}

/// A heap does not give away the last span in which it has something, as the free ones that it has
/// beside would stay with it.
#[test]
fn no_heap_keeps_free_spans_alone() {
    let Some(arena) = arena("no_heap_keeps_free_spans_alone", 64) else { return };
    let first = publish(&arena, 0, SPAN_BYTES).unwrap();
    let mut blocks: Vec<_> = (0..SPAN_BYTES / 512).map(|_| publish(&arena, 1, 512).unwrap()).collect();
    // In a span of its own, at the cursor, which what comes free at the other end of the span
    // before does not join.
    drop(publish(&arena, 1, 512).unwrap());
    drop(blocks.drain(..SPAN_BYTES / 1024));
    let spans: Vec<_> = (0..3).map(|span| owner(&arena, span)).collect();
    assert_eq!(spans, [1, 2, 2]);
    let taken = publish(&arena, 0, 512).unwrap();
    drop((first, blocks, taken));
    assert!((1..64).all(|span| owner(&arena, span) != 2));
    check_empty(&arena);
}

/// Holes across the ends of spans, of which neither side is large enough, are not among those that
/// a search takes for sure to fit.
#[test]
fn holes_that_do_not_fit_are_passed_over() {
    let spans = 256;
    let Some(arena) = arena("holes_that_do_not_fit_are_passed_over", spans + 64) else { return };
    let in_span = SPAN as usize / 75;
    let blocks: Vec<_> = (0..spans * in_span).map(|_| publish(&arena, 0, 75 * GRANULE).unwrap()).collect();
    let kept = |n: usize| !matches!(n % in_span, 0 | 20) && n % in_span != in_span - 1;
    let kept: Vec<_> = blocks.into_iter().enumerate().filter(|(n, _)| kept(*n)).map(|(_, block)| block).collect();
    let more: Vec<_> = (0..300).map(|_| publish(&arena, 0, 124 * GRANULE).unwrap()).collect();
    assert!(more.iter().all(|block| offset(&arena, block) % SPAN_BYTES + block.len() <= SPAN_BYTES));
    drop((kept, more));
    check_empty(&arena);
}

/// Spans whose holes are too small for what two heaps publish do not go to and fro between them,
/// whatever the size of pages.
#[test]
fn spans_of_no_use_stay_where_they_are() {
    const NAME: &str = "spans_of_no_use_stay_where_they_are";
    for page in [4 << 10, 16 << 10, 64 << 10] {
        let Some(builder) = builder(NAME, 256) else { return };
        let arena = builder.os(Faulty::leaked_with_pages(page)).build().unwrap();
        let mut kept = Vec::new();
        for heap in [0, 1] {
            let blocks = (0..20 * SPAN as usize / 2).map(|_| publish(&arena, heap, 2 * GRANULE).unwrap());
            kept.extend(blocks.collect::<Vec<_>>().into_iter().step_by(2));
        }
        let more: Vec<_> = (0..2_000).map(|n| publish(&arena, n % 2, 10 * GRANULE).unwrap()).collect();
        let given = arena.core().heaps.given();
        assert!((1..100).contains(&given), "{given} spans were given, pages of {page}");
        drop((kept, more));
        check_empty(&arena);
    }
}
