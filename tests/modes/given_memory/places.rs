//! Tests of where given memory may begin and end, and of the places in it.

use super::*;

/// Starts and lengths of any kind.
pub(super) const ODD: [(usize, usize); 11] = [
    (0, 1 << 20),
    (0, 64 << 10),
    (1, (300 << 10) + 5),
    (7, (1 << 20) - 100),
    (4096 + 48, (256 << 10) + 1),
    (4095, 200_000),
    (65536 - 16, (64 << 10) + 33),
    (65536 - 17, 128 << 10),
    (200_001, 3 << 20),
    (16, 16_384),
    ((1 << 20) + 13, 9_999),
];

#[test]
fn any_start_and_any_length_will_do() {
    if !has_two_views("any_start_and_any_length_will_do") {
        return;
    }
    let views = Arc::new(Views::new(4 << 20));
    for with_function in [false, true] {
        for (from, len) in ODD {
            let arena = build(views.part(from, len, with_function)).unwrap();
            let start = views.executable.as_ptr().addr() + from;
            let usable = (start + len) / 16 * 16 - start.next_multiple_of(16);
            assert_eq!(arena.capacity(), usable, "{from} {len}");
            let address = |at: usize| std::ptr::without_provenance(at);
            assert!(!arena.contains(address(start.next_multiple_of(16) - 1)));
            assert!(arena.contains(address(start.next_multiple_of(16))));
            assert!(arena.contains(address(start.next_multiple_of(16) + usable - 1)));
            assert!(!arena.contains(address(start.next_multiple_of(16) + usable)));
            assert!(arena.lookup(address(start - 1)).is_none());
            check_empty(&arena);
            assert_eq!(arena.stats().resident_bytes, 0);
            check_works(&arena);
            if len <= 1 << 20 {
                check_cycles(&arena);
            }
        }
    }
    assert_eq!(Arc::strong_count(&views), 1, "each was released");
}

#[test]
fn bytes_beside_the_memory_stay_as_they_are() {
    if !has_two_views("bytes_beside_the_memory_stay_as_they_are") {
        return;
    }
    let views = Arc::new(Views::new(1 << 20));
    // SAFETY: it is the whole view, which no arena has yet.
    unsafe { views.alias.as_ptr().write_bytes(0x5a, views.len) };
    let (from, len) = (100_003, 400_000);
    for with_function in [false, true] {
        let arena = build_with(CodeArena::builder().poison(true), views.part(from, len, with_function)).unwrap();
        check_cycles(&arena);
        arena.trim().unwrap();
    }
    assert!(views.bytes(0..from).iter().chain(&views.bytes(from + len..views.len)).all(|byte| *byte == 0x5a));
}

#[test]
fn alignments_are_those_of_addresses() {
    if !has_two_views("alignments_are_those_of_addresses") {
        return;
    }
    let views = Arc::new(Views::new(12 << 20));
    for (from, len) in
        [(0, 8 << 20), (1, 8 << 20), (4096 + 48, 8 << 20), (65_536 + 7, 8 << 20), ((2 << 20) + 1, 5 << 20)]
    {
        let arena = build(views.part(from, len, from % 2 == 1)).unwrap();
        let mut blocks = Vec::new();
        let mut batch = arena.batch();
        // The largest first, because a smaller one may take the only place for a larger one.
        for align in (0..=21).rev().map(|shift| 1 << shift) {
            let slot = batch.push(Code::new(&asm::constant(3)).align(align)).unwrap();
            let block = arena.publish(Code::new(&asm::padded(4, 50)).align(align)).unwrap();
            assert_eq!((batch.address(slot).addr() % align, block.as_ptr().addr() % align), (0, 0));
            blocks.push(block);
        }
        let published = batch.publish().unwrap();
        assert!(blocks.iter().all(|block| call(block) == 4) && published.iter().all(|block| call(block) == 3));
        drop((blocks, published));
        check_empty(&arena);
    }
}
