//! What the model does not say: locality, no waste, and holes that are hard to find.

use super::pages::Pages;
use super::*;

#[test]
fn functions_in_a_row_lie_in_a_row() {
    let mut space = Space::new(1 << 16).unwrap();
    let mut end = 0;
    for len in (1..60).cycle().take(500) {
        let run = space.alloc(len, 1).unwrap();
        assert_eq!(run.start, end);
        end = run.end;
    }
}

#[test]
fn an_alignment_does_not_waste_the_gap() {
    let mut space = Space::new(3 << 17).unwrap();
    let small = space.alloc(1, 1).unwrap();
    let aligned = space.alloc(1, 1 << 17).unwrap();
    assert_eq!((small.start, aligned.start), (0, 1 << 17));
    assert_eq!(space.alloc((1 << 17) - 1, 1).unwrap(), Run { start: 1, end: 1 << 17 }, "the gap serves the next");
}

/// A space with these holes, and no others.
fn with_holes(holes: &[Run]) -> Space {
    let mut space = Space::new(1 << 16).unwrap();
    assert!(space.alloc_at(Run::new(0, 1 << 16)));
    holes.iter().for_each(|hole| assert_eq!(space.free(*hole), *hole));
    space
}

#[test]
fn the_tightest_hole_is_taken() {
    // In one bin, and in several; and of those that are as tight, the first in the bin.
    for apart in [40, 1000] {
        let holes: Vec<Run> = (0..).zip([9, 6, 30, 5, 7, 5]).map(|(i, len)| Run::new(3 + i * apart, len)).collect();
        let mut space = with_holes(&holes);
        let mut take = |len| space.alloc(len, 1);
        let fives = if apart == 40 { [3, 5] } else { [5, 3] };
        for (len, from) in [(5, fives[0]), (5, fives[1]), (5, 1), (7, 4), (8, 0), (8, 2)] {
            assert_eq!(take(len), Some(Run::new(holes[from].start, len)), "{apart}");
        }
    }
}

#[test]
fn an_aligned_hole_of_just_the_size_is_taken() {
    let mut space = with_holes(&[Run::new(1000, 200), Run::new(5 * 64, 10), Run::new(3000, 10)]);
    assert_eq!(space.alloc(10, 64), Some(Run::new(5 * 64, 10)));
    assert_eq!(space.alloc(10, 64), Some(Run::new(1024, 10)));
}

#[test]
fn what_is_kept_apart_goes_to_the_last_hole_with_room() {
    let mut space = Space::new(64 * 1024 - 40).unwrap();
    let end = 64 * 1024 - 40;
    assert_eq!(space.alloc_last(100, 1), Some(Run { start: end - 100, end }));
    assert_eq!(space.alloc_last(256, 256).map(|run| run.start), Some((end - 100 - 256) & !255));
    // The gap that the alignment left serves the next.
    assert_eq!(space.alloc_last(20, 1), Some(Run { start: end - 120, end: end - 100 }));
    while space.alloc_last(64, 1).is_some() {}
    while space.alloc_last(1, 1).is_some() {}
    assert_eq!((space.free_granules(), space.largest_hole()), (0, 0));
    space.free(Run::new(7 * 256, 10));
    space.free(Run::new(90, 30));
    assert_eq!(space.alloc_last(11, 1), Some(Run { start: 109, end: 120 }));
    assert_eq!((space.free_granules(), space.largest_hole()), (29, 19));
    assert_eq!(space.alloc(19, 1), Some(Run::new(90, 19)), "the books know what is left of a hole");
    assert_eq!(space.alloc_last(11, 1), None);
}

#[test]
fn the_only_fitting_hole_is_found() {
    // Sixteen-aligned room for 300 granules, behind many holes that are long enough but not aligned.
    let mut space = Space::new(64 * 1024).unwrap();
    while space.alloc(1, 1).is_some() {}
    for i in 0..100 {
        space.free(Run::new(i * 512 + 1, 303));
    }
    assert!(space.alloc(304, 1).is_none());
    assert!(space.alloc(300, 256).is_none());
    space.free(Run::new(60 * 1024, 300));
    assert_eq!(space.alloc(300, 256), Some(Run::new(60 * 1024, 300)));
}

#[test]
fn random_churn_wastes_little() {
    // 20,000 live functions of 8 to 1,031 bytes, each replaced ten times at random.
    let mut rng = fastrand::Rng::with_seed(7);
    let (granules, page) = (1 << 20, 256);
    let mut space = Space::new(granules).unwrap();
    let mut pages = Pages::new(granules, page).unwrap();
    let mut live = Vec::new();
    let mut payload = 0usize;
    for step in 0..220_000 {
        if step >= 20_000 {
            let (run, bytes) = live.swap_remove(rng.usize(..live.len()));
            payload -= bytes;
            space.free(run);
        }
        let bytes = rng.usize(8..=1031);
        let run = space.alloc(bytes.div_ceil(16) as u32, 1).unwrap();
        pages.touch(run);
        payload += bytes;
        live.push((run, bytes));
    }
    let ratio = payload as f64 / (pages.resident() as f64 * 4096.0);
    assert!(ratio > 0.85, "payload is {ratio:.3} of resident memory");
}

#[test]
fn a_trim_reaches_as_far_as_a_huge_page() {
    let (page, huge) = (64, 1024);
    let next = |live: &[Run], touched: &[Run], from| {
        let (mut space, mut pages) = (Space::new(4096).unwrap(), Pages::new(4096, page).unwrap());
        assert!(live.iter().all(|run| space.alloc_at(*run)));
        touched.iter().for_each(|run| pages.touch(*run));
        pages.next_to_trim(&space, from, huge).map(|run| (run.start, run.end))
    };
    let (one, across) = (Run::new(1300, 1), Run { start: 1950, end: 2100 });
    assert_eq!(next(&[], &[one], 0), Some((1024, 2048)));
    assert_eq!(next(&[], &[across], 0), Some((1024, 3072)));
    assert_eq!(next(&[], &[one, across], 21), Some((1024, 3072)), "the first was seen to");
    assert_eq!(next(&[], &[one], 21), None);
    // As far as there is no live code, in whole pages.
    let around = [Run::new(1025, 1), Run::new(1950, 1)];
    assert_eq!(next(&around, &[one], 0), Some((1088, 1920)));
    assert_eq!(next(&[Run::new(1250, 30), Run::new(1344, 1)], &[one], 0), Some((1280, 1344)));
    // Nothing of a page with live code.
    assert_eq!(next(&[Run::new(1343, 1)], &[one], 0), None);
}

#[test]
fn pages_hold_memory_from_touch_to_trim() {
    let mut pages = Pages::new(64 * 10, 64).unwrap();
    pages.touch(Run::new(70, 64));
    pages.touch(Run::new(129, 1));
    assert_eq!((pages.granules(), pages.resident(), pages.count_resident(0..10)), (64, 2, 2));
    assert_eq!((pages.count_resident(2..10), pages.count_resident(3..10)), (1, 0));
    assert_eq!([1..3, 2..4, 0..2].map(|range| pages.all_resident(range)), [true, false, false]);
    assert_eq!((pages.gone(Run::new(64, 192)), pages.resident()), (2, 0));
}
