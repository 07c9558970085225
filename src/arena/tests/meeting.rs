//! Threads that meet: which heap each goes to, and what those do that have no heap to themselves.

use std::thread;

use super::{SPAN_BYTES, arena, check_empty, owner, publish, span};
use crate::CodeBlock;
use crate::arena::heaps::last;
use crate::tests::common::{asm, call};

/// What it takes there is spans of its own, so no page has two owners.
#[test]
fn a_thread_goes_where_nobody_else_is() {
    let Some(arena) = arena("a_thread_goes_where_nobody_else_is", 16) else { return };
    let first = arena.publish(&asm::constant(1)).unwrap();
    let other = {
        let _held = arena.core().heaps.lock(0);
        // On this thread, which would wait for ever if it did not know that it meets another again
        // and again.
        assert!((0..100).any(|_| last::miss()));
        arena.publish(&asm::constant(2)).unwrap()
    };
    arena.go_to_heap(0);
    assert_eq!((owner(&arena, span(&arena, &first)), owner(&arena, span(&arena, &other))), (1, 2));
    assert!(SPAN_BYTES % arena.map().page_size == 0);
    assert_eq!((call(&first), call(&other)), (1, 2));
    drop((first, other));
    check_empty(&arena);
}

/// A block that another thread drops is free in the heap that it came from, and the next one there
/// takes its place.
#[test]
fn what_others_drop_comes_back_to_its_heap() {
    let Some(arena) = arena("what_others_drop_comes_back_to_its_heap", 16) else { return };
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

/// More threads than there can be heaps share them.
#[test]
fn more_threads_than_heaps() {
    for spans in [1, 16] {
        let Some(arena) = arena("more_threads_than_heaps", spans) else { return };
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
