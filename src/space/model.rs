//! Heaps against a plain model, for the property tests and the fuzzer. The model is one vector of
//! bools for the granules and one for the pages.
//!
//! ```text
//! operation --> Heap: hints, index, cursor, bits --.
//!          `--> model: two vectors ----------------+--> check: the same granules are free, the same
//!                                                       pages hold memory, no large hole was missed
//! ```
//!
//! The model searches everything each time, so it is slow, and cannot forget a hole. Operations
//! are: allocate, free, give a span to another heap, trim.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "test code")]

use arbitrary::{Arbitrary, Result, Unstructured};

use super::granules::{FREE, SPAN, span_of};
use super::heap::{Heap, Tables};
use super::pool::Pool;
use super::{Run, two_mut};
use crate::tests::model::ops;

#[derive(Clone, Debug)]
pub struct Program {
    /// The number of granules at the start that are never allocated.
    before: u32,
    granules: u32,
    /// The granules of a page.
    page: u32,
    heaps: u16,
    ops: Vec<Op>,
}

#[derive(Clone, Debug)]
enum Op {
    Alloc {
        heap: usize,
        len: u32,
        align: u32,
        bump: bool,
    },
    Free {
        pick: usize,
    },
    FreeSome {
        keep: usize,
    },
    /// Gives a span to another heap.
    Give {
        span: u32,
        heap: usize,
    },
    /// Gives the memory of an empty page back.
    Trim {
        page: u32,
    },
}

impl<'a> Arbitrary<'a> for Program {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let granules = if u.arbitrary()? { u.int_in_range(1..=300)? } else { u.int_in_range(300..=40_000)? };
        let page = *u.choose(&[256, 1024, 4096])?;
        let before = if u.arbitrary()? { 0 } else { u.int_in_range(0..=granules - 1)? };
        Ok(Self { before, granules, page, heaps: u.int_in_range(1..=3)?, ops: ops(u)? })
    }
}

impl<'a> Arbitrary<'a> for Op {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let heap = u.int_in_range(0..=2)?;
        let (small, bump) = (u.int_in_range(1..=70)?, u.arbitrary()?);
        Ok(match u.int_in_range(0..=15)? {
            0..=5 => Self::Alloc { heap, len: small, align: 1, bump },
            6 => Self::Alloc { heap, len: small, align: 1 << u.int_in_range(0..=9)?, bump },
            7 => Self::Alloc { heap, len: u.int_in_range(70..=2_500)?, align: 1 << u.int_in_range(0..=9)?, bump },
            8 => Self::Alloc { heap, len: u.int_in_range(1..=9_000)?, align: 1 << u.int_in_range(0..=13)?, bump },
            9..=12 => Self::Free { pick: u.int_in_range(0..=255)? },
            13 => Self::FreeSome { keep: u.int_in_range(1..=4)? },
            14 => Self::Give { span: u.int_in_range(0..=9)?, heap },
            _ => Self::Trim { page: u.int_in_range(0..=700)? },
        })
    }
}

pub(super) struct Model {
    pub(super) tables: Tables,
    pub(super) pool: Pool,
    pub(super) heaps: Vec<Heap>,
    taken: Vec<bool>,
    resident: Vec<bool>,
    page: u32,
    pub(super) live: Vec<Run>,
}

impl Model {
    pub(super) fn new(granules: u32, page: u32, heaps: u16) -> Self {
        Self::within(0..granules.next_multiple_of(page), page, heaps)
    }

    pub(super) fn within(granules: std::ops::Range<u32>, page: u32, heaps: u16) -> Self {
        let len = granules.end;
        let tables = Tables::new(granules.clone(), page).unwrap();
        let mut taken = vec![false; len as usize];
        taken[..granules.start as usize].fill(true);
        Self {
            pool: Pool::new(&tables.granules).unwrap(),
            tables,
            heaps: (1..=heaps).map(|owner| Heap::new(owner).unwrap()).collect(),
            taken,
            resident: vec![false; len.div_ceil(page) as usize],
            page,
            live: Vec::new(),
        }
    }

    fn owner(&self, span: u32) -> u16 {
        self.tables.granules.owner_at(span * SPAN).unwrap()
    }

    fn pages(&self, run: Run) -> std::ops::Range<usize> {
        (run.start / self.page) as usize..run.end.div_ceil(self.page) as usize
    }

    fn took(&mut self, heap: usize, run: Run, len: u32, align: u32) {
        assert_eq!((run.len(), run.start % align), (len, 0));
        let bits = &mut self.taken[run.start as usize..run.end as usize];
        assert!(!bits.contains(&true), "overlap at {run:?}");
        bits.fill(true);
        let owner = self.heaps[heap].owner();
        assert!((span_of(run.start)..=span_of(run.end - 1)).all(|span| self.owner(span) == owner), "a foreign span");
        self.heaps[heap].touch(&self.tables, run);
        let pages = self.pages(run);
        self.resident[pages].fill(true);
        self.live.push(run);
    }

    /// Allocates as an arena does, without the other heaps.
    pub(super) fn alloc(&mut self, heap: usize, len: u32, align: u32, bump_first: bool) -> Option<Run> {
        let (tables, pool) = (&self.tables, &mut self.pool);
        let granules = &tables.granules;
        let own = &mut self.heaps[heap];
        let bumped = if bump_first { own.bump(tables, len, align) } else { None };
        let mut found = bumped.or_else(|| own.alloc(tables, len, align)).or_else(|| own.bump(tables, len, align));
        while found.is_none() && len <= SPAN / 2 && align == 1 {
            let next = own.cursor_end() / SPAN;
            let Some(spans) = pool.take_resident(granules, next).or_else(|| pool.take_any(granules, next)) else {
                break;
            };
            own.extend(tables, spans);
            found = own.bump(tables, len, align);
        }
        if found.is_none() {
            let spans =
                pool.take_run(granules, len, align, true).or_else(|| pool.take_run(granules, len, align, false));
            if let Some(spans) = spans {
                found = own.alloc_in(tables, spans, len, align);
                assert!(found.is_some(), "what was found fits");
            }
        }
        if let Some(run) = found {
            assert!(len >= 128 || span_of(run.start) == span_of(run.end - 1), "a small block across spans");
            self.took(heap, run, len, align);
        }
        found
    }

    pub(super) fn free(&mut self, pick: usize) {
        let run = self.live.swap_remove(pick);
        self.taken[run.start as usize..run.end as usize].fill(false);
        let owner = self.owner(span_of(run.start));
        let spans = self.heaps[usize::from(owner) - 1].free(&self.tables, run);
        if !spans.is_empty() {
            assert!(spans.clone().all(|span| {
                let run = self.tables.granules.span(span);
                !self.taken[run.start as usize..run.end as usize].contains(&true)
            }));
            self.pool.put(&self.tables.granules, spans);
        }
    }

    pub(super) fn give(&mut self, span: u32, to: usize) {
        if span >= self.tables.granules.spans() {
            return;
        }
        let from = usize::from(self.owner(span));
        if from == 0 || from - 1 == to || to >= self.heaps.len() {
            return;
        }
        let granules = &self.tables.granules;
        if granules.is_crossed(span) || span + 1 < granules.spans() && granules.is_crossed(span + 1) {
            return;
        }
        let (from, to) = two_mut(&mut self.heaps, from - 1, to).unwrap();
        from.give_span(&self.tables, span, to);
    }

    fn trim(&mut self, page: u32) {
        let Some(resident) = self.resident.get_mut(page as usize) else { return };
        let granules = &self.tables.granules;
        let run = Run { start: page * self.page, end: ((page + 1) * self.page).min(granules.len()) };
        let run = Run { start: run.start.max(granules.first()), ..run };
        if run.start >= run.end {
            return;
        }
        let owner = self.tables.granules.owner_at(run.start).unwrap();
        if owner == FREE || self.taken[run.start as usize..run.end as usize].contains(&true) {
            return;
        }
        let heap = &mut self.heaps[usize::from(owner) - 1];
        heap.take_at(&self.tables, run);
        assert_eq!(heap.gone(&self.tables, run), u32::from(*resident));
        *resident = false;
        let spans = heap.free(&self.tables, run);
        if !spans.is_empty() {
            self.pool.put(&self.tables.granules, spans);
        }
    }

    pub(super) fn check(&self) {
        let granules = &self.tables.granules;
        for (at, taken) in (0..).zip(&self.taken) {
            assert_eq!(granules.is_taken(at), *taken, "{at}");
        }
        for (page, resident) in (0..).zip(&self.resident) {
            assert_eq!(granules.all_resident(Run::new(page * self.page, self.page)), *resident, "page {page}");
        }
        let of = |owner: u16| (0..granules.spans()).filter(move |&span| self.owner(span) == owner);
        let free_in = |span: u32| {
            let within = granules.span(span);
            assert_eq!(granules.count_taken(span), within.len() - self.free_in(within));
            self.free_in(within)
        };
        for run in &self.live {
            assert!((span_of(run.start) + 1..=span_of(run.end - 1)).all(|span| granules.is_crossed(span)), "{run:?}");
        }
        let resident_in = |span: u32| granules.count_resident(granules.span(span));
        for heap in &self.heaps {
            assert_eq!(heap.free_granules(), of(heap.owner()).map(free_in).sum::<u32>());
            assert_eq!(heap.resident_pages(), of(heap.owner()).map(resident_in).sum::<u32>());
        }
        assert_eq!(self.pool.granules(), of(FREE).map(|span| granules.span(span).len()).sum::<u32>());
        assert_eq!(self.pool.resident_pages(), of(FREE).map(resident_in).sum::<u32>());
        let is_free = |span| self.owner(span) == FREE && granules.span(span).len() > 0;
        assert!((0..granules.spans()).all(|span| is_free(span) == self.pool.is_free(span)));
    }

    fn free_in(&self, within: Run) -> u32 {
        self.taken[within.start as usize..within.end as usize].iter().filter(|taken| !**taken).count() as u32
    }

    /// Returns the lengths of all holes of a heap.
    fn holes(&self, owner: u16) -> Vec<u32> {
        let (mut found, mut len) = (Vec::new(), 0);
        for (at, taken) in (0..).zip(&self.taken) {
            if !taken && self.owner(span_of(at)) == owner {
                len += 1;
            } else if len > 0 {
                found.push(std::mem::take(&mut len));
            }
        }
        if len > 0 {
            found.push(len);
        }
        found
    }

    /// Checks the largest hole of each heap, of the pool, and across owners.
    fn check_largest(&mut self) {
        for heap in 0..self.heaps.len() {
            let largest = self.holes(heap as u16 + 1).into_iter().max().unwrap_or(0);
            assert_eq!(self.heaps[heap].largest(&self.tables), largest);
        }
        let granules = &self.tables.granules;
        let all = granules.holes(Run { start: 0, end: granules.len() });
        let owner = |at: u32| granules.owner_at(at);
        let of_several =
            |hole: &Run| (span_of(hole.start)..span_of(hole.end - 1)).any(|s| owner(s * SPAN) != owner((s + 1) * SPAN));
        assert!(granules.holes_across_owners().eq(all.filter(of_several)));
        assert_eq!(self.pool.largest(granules), self.holes(FREE).into_iter().max().unwrap_or(0));
    }

    /// Takes all holes of each heap, the largest first, and checks that each is found.
    pub(super) fn fill(&mut self) {
        for heap in 0..self.heaps.len() {
            let mut holes = self.holes(heap as u16 + 1);
            holes.sort_unstable_by(|a, b| b.cmp(a));
            for hole in holes {
                let own = &mut self.heaps[heap];
                let found = own.alloc_exactly(&self.tables, hole, 1);
                self.took(heap, found.unwrap_or_else(|| panic!("a hole of {hole} is not found")), hole, 1);
            }
            assert_eq!((self.heaps[heap].free_granules(), self.holes(heap as u16 + 1).len()), (0, 0));
        }
    }
}

impl Program {
    pub fn run(&self) {
        let mut model = match self.before {
            0 => Model::new(self.granules, self.page, self.heaps),
            // Memory that others mapped, of any length.
            before => Model::within(before..self.granules, self.page, self.heaps),
        };
        for (index, op) in self.ops.iter().enumerate() {
            match *op {
                Op::Alloc { heap, len, align, bump } => {
                    model.alloc(heap % usize::from(self.heaps), len, align, bump);
                }
                Op::Free { pick } if !model.live.is_empty() => model.free(pick % model.live.len()),
                Op::Free { .. } => {}
                Op::FreeSome { keep } => {
                    (0..model.live.len()).rev().filter(|index| index % keep != 0).for_each(|index| model.free(index));
                }
                Op::Give { span, heap } => model.give(span, heap),
                Op::Trim { page } => model.trim(page),
            }
            // Each check looks at every granule.
            if index % 16 == 0 {
                model.check();
                model.check_largest();
            }
        }
        model.fill();
        model.check();
        while !model.live.is_empty() {
            model.free((model.live.len() - 1) / 2);
        }
        model.check();
        let kept = (0..model.tables.granules.spans()).filter(|&span| model.owner(span) != FREE).count();
        assert!(kept <= usize::from(self.heaps), "a heap keeps one free span at most: {kept}");
    }
}
