//! The allocator against a plain model: a vector of bytes, one for each granule.

use super::pages::Pages;
use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Alloc { len: u32, align: u32 },
    AllocAt { start: u32, len: u32 },
    Free { pick: usize },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (prop_oneof![4 => 1..80u32, 1 => 80..1500u32], 0..4u32).prop_map(|(len, a)| Op::Alloc { len, align: if a == 3 { 64 } else { 1 << a } }),
        1 => (0..6000u32, 1..600u32).prop_map(|(start, len)| Op::AllocAt { start, len }),
        5 => any::<usize>().prop_map(|pick| Op::Free { pick }),
    ]
}

/// Every hole of the model, in order.
fn holes(taken: &[bool]) -> Vec<Run> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < taken.len() {
        let end = (at..taken.len()).find(|&i| taken[i] != taken[at]).unwrap_or(taken.len());
        if !taken[at] {
            found.push(Run::from_bits(at, end));
        }
        at = end;
    }
    found
}

/// The index agrees with the bits: each bin is filed under the largest hole that begins in it.
fn check(space: &Space, taken: &[bool]) {
    let holes = holes(taken);
    assert_eq!(space.free_granules() as usize, taken.iter().filter(|t| !**t).count());
    assert_eq!(space.largest_hole(), holes.iter().map(|h| h.len()).max().unwrap_or(0));
    for bin in 0..taken.len().div_ceil(BIN) {
        let largest = holes.iter().filter(|h| bin_of(h.start) == bin).map(|h| h.len()).max();
        assert_eq!(space.bins.class(bin), largest.map_or(0, class_of), "bin {bin}");
        let filed = space.bins.class(bin);
        assert!(filed == 0 || space.bins.of_class(filed).any(|b| b == bin));
    }
}

fn run_ops(granules: u32, ops: Vec<Op>) {
    let mut space = Space::new(granules).unwrap();
    let mut taken = vec![false; granules as usize];
    let mut live: Vec<Run> = Vec::new();
    for op in ops {
        match op {
            Op::Alloc { len, align } => match space.alloc(len, align) {
                Some(run) => {
                    assert_eq!((run.len(), run.start % align), (len, 0));
                    assert!(!taken[run.start as usize..run.end as usize].contains(&true), "overlap");
                    taken[run.start as usize..run.end as usize].fill(true);
                    live.push(run);
                }
                None => assert!(holes(&taken).iter().all(|h| h.fit(len, align).is_none()), "refused what fits"),
            },
            Op::AllocAt { start, len } => {
                let run = Run::new(start, len);
                let fits = run.end <= granules && !taken[start as usize..run.end as usize].contains(&true);
                assert_eq!(space.alloc_at(run), fits);
                if fits {
                    taken[start as usize..run.end as usize].fill(true);
                    live.push(run);
                }
            }
            Op::Free { pick } if !live.is_empty() => {
                let run = live.swap_remove(pick % live.len());
                taken[run.start as usize..run.end as usize].fill(false);
                let hole = space.free(run);
                assert!(holes(&taken).contains(&hole), "not coalesced");
            }
            Op::Free { .. } => {}
        }
        check(&space, &taken);
    }
    for run in live {
        space.free(run);
    }
    assert_eq!(space.largest_hole(), granules, "all comes back as one hole");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_model(granules in prop_oneof![1..300u32, 300..6000u32], ops in prop::collection::vec(op(), 1..250)) {
        run_ops(granules, ops);
    }
}

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
