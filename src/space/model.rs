//! The allocator against a plain model, for the property tests and the fuzzer: a vector of bools with one for each
//! granule, and one with one for each page.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "test code")]

use arbitrary::{Arbitrary, Result, Unstructured};

use super::pages::Pages;
use super::*;
use crate::tests::model::ops;

#[derive(Clone, Debug)]
pub struct Program {
    granules: u32,
    /// Granules in a page.
    page: u32,
    ops: Vec<Op>,
}

#[derive(Clone, Debug)]
enum Op {
    Alloc {
        len: u32,
        align: u32,
    },
    AllocAt {
        start: u32,
        len: u32,
    },
    Free {
        pick: usize,
    },
    FreeSome {
        keep: usize,
    },
    /// Gives up the memory of the empty pages from here on.
    Trim {
        from: usize,
    },
}

impl<'a> Arbitrary<'a> for Program {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let granules = if u.arbitrary()? { u.int_in_range(1..=300)? } else { u.int_in_range(300..=9_000)? };
        Ok(Self { granules, page: *u.choose(&[4, 64, 256])?, ops: ops(u)? })
    }
}

impl<'a> Arbitrary<'a> for Op {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let short = |u: &mut Unstructured<'a>| u.int_in_range(1..=80);
        Ok(match u.int_in_range(0..=15)? {
            0..=5 => Self::Alloc { len: short(u)?, align: 1 << u.int_in_range(0..=2)? },
            6 => Self::Alloc { len: u.int_in_range(80..=2_500)?, align: 1 << u.int_in_range(0..=9)? },
            7 => Self::Alloc { len: short(u)?, align: 1 << u.int_in_range(0..=9)? },
            8 => Self::AllocAt { start: u.int_in_range(0..=10_000)?, len: u.int_in_range(0..=600)? },
            9..=13 => Self::Free { pick: u.int_in_range(0..=255)? },
            14 => Self::FreeSome { keep: u.int_in_range(1..=4)? },
            _ => Self::Trim { from: u.int_in_range(0..=255)? },
        })
    }
}

struct Model {
    space: Space,
    pages: Pages,
    page: u32,
    taken: Vec<bool>,
    resident: Vec<bool>,
    live: Vec<Run>,
}

/// Every maximal run of what is false, in order.
fn clear_runs(bits: &[bool]) -> Vec<Run> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < bits.len() {
        let rest = &bits[at..];
        let end = at + rest.iter().position(|bit| *bit != rest[0]).unwrap_or(rest.len());
        if !bits[at] {
            found.push(Run::from_bits(at, end));
        }
        at = end;
    }
    found
}

impl Program {
    pub fn run(&self) {
        let granules = self.granules.next_multiple_of(self.page);
        let mut model = Model {
            space: Space::new(granules).unwrap(),
            pages: Pages::new(granules, self.page).unwrap(),
            page: self.page,
            taken: vec![false; granules as usize],
            resident: vec![false; (granules / self.page) as usize],
            live: Vec::new(),
        };
        for (index, op) in self.ops.iter().enumerate() {
            model.apply(op);
            // Each check looks at every granule.
            if index % 4 == 0 {
                model.check();
            }
        }
        (0..model.live.len()).rev().for_each(|pick| model.free(pick));
        model.check();
        assert_eq!(model.space.largest_hole(), granules, "all comes back as one hole");
        model.apply(&Op::Trim { from: 0 });
        assert_eq!(model.pages.resident(), 0);
    }
}

impl Model {
    fn took(&mut self, run: Run) {
        let bits = &mut self.taken[run.start as usize..run.end as usize];
        assert!(!bits.contains(&true), "overlap");
        bits.fill(true);
        self.pages.touch(run);
        self.resident[self.pages.of(run)].fill(true);
        self.live.push(run);
    }

    fn free(&mut self, pick: usize) {
        let run = self.live.swap_remove(pick);
        self.taken[run.start as usize..run.end as usize].fill(false);
        let hole = self.space.free(run);
        let (start, end) = (hole.start as usize, hole.end as usize);
        assert!(hole.start <= run.start && run.end <= hole.end && !self.taken[start..end].contains(&true));
        let edge = |at: Option<usize>| at.and_then(|at| self.taken.get(at)).is_none_or(|taken| *taken);
        assert!(edge(start.checked_sub(1)) && edge(Some(end)), "not coalesced");
    }

    fn is_empty(&self, page: usize) -> bool {
        let start = page * self.page as usize;
        self.resident[page] && !self.taken[start..start + self.page as usize].contains(&true)
    }

    fn trim(&mut self, from: usize) {
        let count = self.resident.len();
        let mut from = from % count;
        while let Some(run) = self.pages.next_empty(&self.space, from) {
            let pages = self.pages.of(run);
            let first = (from..count).find(|&page| self.is_empty(page)).unwrap();
            let end = (first..count).find(|&page| !self.is_empty(page)).unwrap_or(count);
            assert_eq!(pages, first..end);
            assert!(self.space.alloc_at(run), "empty pages can be taken");
            assert_eq!(self.pages.gone(run), pages.len());
            self.space.free(run);
            self.resident[pages.clone()].fill(false);
            from = pages.end;
        }
        assert!((from..count).all(|page| !self.is_empty(page)), "an empty page was missed");
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Alloc { len, align } => match self.space.alloc(len, align) {
                Some(run) => {
                    assert_eq!((run.len(), run.start % align), (len, 0));
                    self.took(run);
                }
                None => {
                    assert!(clear_runs(&self.taken).iter().all(|h| h.fit(len, align).is_none()), "refused what fits");
                }
            },
            Op::AllocAt { start, len } => {
                let run = Run::new(start, len);
                let bits = self.taken.get(start as usize..run.end as usize);
                let fits = len > 0 && bits.is_some_and(|bits| !bits.contains(&true));
                assert_eq!(self.space.alloc_at(run), fits);
                if fits {
                    self.took(run);
                }
            }
            Op::Free { pick } if !self.live.is_empty() => self.free(pick % self.live.len()),
            Op::FreeSome { keep } => {
                (0..self.live.len()).rev().filter(|index| index % keep != 0).for_each(|index| self.free(index));
            }
            Op::Trim { from } => self.trim(from),
            Op::Free { .. } => {}
        }
    }

    /// The index agrees with the bits: each bin is filed under the largest hole that begins in it.
    fn check(&self) {
        let (space, granules) = (&self.space, self.taken.len() as u32);
        let holes = clear_runs(&self.taken);
        assert_eq!(space.granules(), granules);
        assert_eq!(space.free_granules() as usize, self.taken.iter().filter(|taken| !**taken).count());
        assert_eq!(space.largest_hole(), holes.iter().map(|h| h.len()).max().unwrap_or(0));
        let mut largest = vec![0; self.taken.len().div_ceil(BIN)];
        for hole in &holes {
            let bin = &mut largest[bin_of(hole.start)];
            *bin = hole.len().max(*bin);
        }
        for (bin, largest) in largest.into_iter().enumerate() {
            let filed = if largest == 0 { 0 } else { class_of(largest) };
            assert_eq!(space.bins.class(bin), filed, "bin {bin}");
            assert!(filed == 0 || space.bins.of_class(filed).any(|other| other == bin));
        }
        let ends = space.taken_runs().flat_map(|run| [run.start, run.end]);
        let edges: Vec<u32> = std::iter::once(0).chain(ends).chain([granules]).collect();
        let between = edges.chunks_exact(2).map(|edges| Run { start: edges[0], end: edges[1] });
        assert!(between.filter(|run| run.len() > 0).eq(holes));
        assert_eq!(self.pages.resident(), self.resident.iter().filter(|resident| **resident).count());
        assert!((0..self.resident.len()).all(|page| self.pages.is_resident(page) == self.resident[page]));
    }
}
