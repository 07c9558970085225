//! Tests of what the model does not compare: locality, waste, and holes that are hard to find.
//!
//! The model knows which granules are free, but not which of them is the best choice. These tests
//! check exact places and amounts.
//!
//! | what | mistake that it finds |
//! |---|---|
//! | functions one after another | a gap between them, or a function across the end of a span |
//! | alignment, and blocks of the whole size | a gap that is lost, or a last granule that nobody gets |
//! | many holes of different sizes | a large hole is cut although a tighter one exists |
//! | random churn, and rounds of free and allocate | little payload in much memory, or new memory before freed memory |
//! | a span that changes owner | a hole of the other heap that is no longer in an index |
//! | memory that begins or ends inside a span | granules outside are handed out |

use super::Run;
use super::granules::SPAN;
use super::model::Model;

#[test]
fn functions_in_a_row_lie_in_a_row() {
    let mut model = Model::new(4 * SPAN, 256, 1);
    let mut end = 0;
    for len in (1..60).cycle().take(500) {
        let run = model.alloc(0, len, 1, true).unwrap();
        // None lies across the end of a span.
        let next = if end / SPAN == (end + len - 1) / SPAN { end } else { (end / SPAN + 1) * SPAN };
        assert_eq!(run.start, next);
        end = run.end;
    }
}

#[test]
fn an_alignment_does_not_waste_the_gap() {
    let mut model = Model::new(2 * SPAN, 256, 1);
    let small = model.alloc(0, 1, 1, true).unwrap();
    let aligned = model.alloc(0, 1, SPAN, true).unwrap();
    assert_eq!((small.start, aligned.start), (0, SPAN));
    let mut rest = [0; 2].map(|_| model.alloc(0, SPAN - 1, 1, true).unwrap().start);
    rest.sort_unstable();
    assert_eq!(rest, [1, SPAN + 1], "the gap serves the next");
}

#[test]
fn a_block_may_take_all_there_is() {
    let mut model = Model::new(5 * SPAN + 512, 256, 2);
    assert_eq!(model.alloc(1, 5 * SPAN + 512, 1, true), Some(Run::new(0, 5 * SPAN + 512)));
    assert_eq!(model.alloc(0, 1, 1, true), None);
    model.free(0);
    assert_eq!(model.alloc(0, 5 * SPAN, SPAN, true), Some(Run::new(0, 5 * SPAN)));
}

/// A model with these holes, and no others.
fn with_holes(holes: &[Run]) -> Model {
    let mut model = Model::new(16 * SPAN, 256, 1);
    model.alloc(0, 16 * SPAN, 1, true).unwrap();
    model.live.clear();
    for hole in holes {
        model.live.push(*hole);
        model.free(0);
    }
    model
}

#[test]
fn the_tightest_hole_is_taken() {
    let holes: Vec<Run> = (0..).zip([9, 6, 30, 5, 7, 5]).map(|(i, len)| Run::new(3 + i * 1000, len)).collect();
    let mut model = with_holes(&holes);
    for (len, from) in [(5, 5), (5, 3), (5, 1), (7, 4), (8, 0), (8, 2)] {
        assert_eq!(model.alloc(0, len, 1, false), Some(Run::new(holes[from].start, len)));
    }
}

#[test]
fn an_aligned_hole_of_just_the_size_is_taken() {
    let mut model = with_holes(&[Run::new(320, 10), Run::new(1000, 200), Run::new(3000, 10)]);
    assert_eq!(model.alloc(0, 10, 64, false), Some(Run::new(320, 10)));
    assert_eq!(model.alloc(0, 10, 64, false), Some(Run::new(1024, 10)));
}

/// As WebKit's test of its executable allocator does: holes of many sizes, each asked for less two
/// granules, in the order that leaves the least. Each request takes the tightest.
#[test]
fn each_hole_is_found_for_a_little_less() {
    let mut rng = fastrand::Rng::with_seed(3);
    let (mut holes, mut at) = (Vec::new(), 1);
    while at < 15 * SPAN {
        let len = rng.u32(3..34);
        holes.push(Run::new(at, len));
        at += len + rng.u32(1..3);
    }
    let mut model = with_holes(&holes);
    holes.sort_by_key(|hole| hole.len());
    for hole in holes {
        let run = model.alloc(0, hole.len() - 2, 1, false).unwrap();
        assert_eq!(run.len(), hole.len() - 2);
    }
}

#[test]
fn random_churn_wastes_little() {
    // 20,000 live functions of 8 to 1,031 bytes, each replaced ten times at random.
    let mut rng = fastrand::Rng::with_seed(7);
    let mut model = Model::new(1 << 20, 256, 1);
    let mut bytes = Vec::new();
    let mut payload = 0usize;
    for step in 0..220_000 {
        if step >= 20_000 {
            let pick = rng.usize(..model.live.len());
            payload -= bytes.swap_remove(pick);
            model.free(pick);
        }
        let len: usize = rng.usize(8..=1031);
        let sparse = model.heaps[0].is_sparse(&model.tables);
        model.alloc(0, len.div_ceil(16) as u32, 1, !sparse).unwrap();
        payload += len;
        bytes.push(len);
    }
    let resident = model.heaps[0].resident_pages() + model.pool.resident_pages();
    let ratio = payload as f64 / (f64::from(resident) * 4096.0);
    assert!(ratio > 0.92, "payload is {ratio:.3} of resident memory");
}

#[test]
fn what_is_freed_is_used_before_what_never_was() {
    let mut model = Model::new(64 * SPAN, 256, 1);
    let most = 20 * SPAN / 300;
    (0..most).for_each(|_| assert!(model.alloc(0, 300, 256, false).is_some()));
    let resident = model.heaps[0].resident_pages();
    for _ in 0..5 {
        (0..most as usize).rev().for_each(|pick| model.free(pick));
        (0..most).for_each(|_| assert!(model.alloc(0, 300, 256, false).is_some()));
        assert_eq!(model.heaps[0].resident_pages() + model.pool.resident_pages(), resident);
    }
}

/// The hole that grows over the edge of a span that changes owner is small on its far side, and a
/// large one begins in the same bin behind it.
#[test]
fn a_span_that_changes_owner_hides_no_hole_of_its_neighbour() {
    let mut model = Model::new(2 * SPAN, 256, 2);
    model.alloc(0, 1, 1, true).unwrap();
    for start in [SPAN, SPAN + 1] {
        assert_eq!(model.alloc(1, 1, 1, true), Some(Run::new(start, 1)));
    }
    model.free(1);
    model.give(0, 1);
    model.check();
    model.fill();
}

/// What lies before the first granule is never handed out, and what can be is, up to the last
/// granule.
#[test]
fn memory_may_begin_and_end_amid_a_span() {
    for (first, len) in [(1, 2), (100, 3000), (SPAN - 1, 3 * SPAN + 7), (2 * SPAN, 3 * SPAN), (5 * SPAN + 3, 9 * SPAN)]
    {
        let mut model = Model::within(first..len, 256, 2);
        assert_eq!((model.pool.granules(), model.pool.largest(&model.tables.granules)), (len - first, len - first));
        assert_eq!(model.alloc(1, len - first, 1, true), Some(Run { start: first, end: len }));
        assert_eq!(model.alloc(0, 1, 1, true), None);
        model.free(0);
        while model.alloc(0, 16, 1, true).is_some() {}
        while model.alloc(0, 1, 1, true).is_some() {}
        model.check();
        assert_eq!(model.live.iter().map(|run| run.len()).sum::<u32>(), len - first);
        while !model.live.is_empty() {
            model.free(model.live.len() / 2);
        }
        model.check();
    }
}
