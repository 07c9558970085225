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
