//! The bookkeeping of the data area: which granules are free, which pages hold memory, and which
//! are writable.
//!
//! It is plain data, and never calls the system. Two heaps ([`DataKind`]) take spans from the two
//! ends of the area. If the area is nearly full, a kind takes whole pages in spans of the other.
//!
//! | part | content |
//! |---|---|
//! | `tables`, `pool`, `heaps` | free granules, owners of spans, pages that hold memory |
//! | `writable`, `read_only` | the protection of each page, as far as it is known |
//! | `waiting` | dropped blocks that wait for guards, the oldest epoch first |
//!
//! A page is in neither set at first, after a refused call, and when its memory was given back.
//! Nothing here takes a lock, because the caller holds the lock of the area. The caller changes the
//! two sets where it calls the system.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::ops::Range;

use super::{DataKind, Way};
use crate::Error;
use crate::space::Run;
use crate::space::bit_set::BitSet;
use crate::space::granules::{SPAN, span_of};
use crate::space::heap::{Heap, Tables};
use crate::space::pool::Pool;
use crate::units::GRANULE;

/// Figures of a data area.
#[derive(Clone, Copy, Default)]
pub(in crate::arena) struct Figures {
    /// Granules in use.
    pub(in crate::arena) taken: usize,
    /// Pages that hold memory.
    pub(in crate::arena) resident: usize,
    /// Blocks that were not dropped.
    pub(in crate::arena) blocks: usize,
    /// Granules of dropped blocks that wait for guards.
    pub(in crate::arena) waiting: usize,
}

/// A dropped block of data that waits until all guards are younger than its epoch.
pub(super) struct Waiting {
    pub(super) epoch: u64,
    pub(super) run: Run,
}

/// The state of the data area.
pub(super) struct Space {
    pub(super) tables: Tables,
    pool: Pool,
    /// The heaps, by [`DataKind`].
    heaps: [Heap; 2],
    /// Pages that are writable now.
    pub(super) writable: BitSet,
    /// Pages that are surely read-only now.
    pub(super) read_only: BitSet,
    /// The way by which constants get to their place, if it was found out.
    pub(super) way: Option<Way>,
    /// The number of blocks that were not dropped.
    pub(super) blocks: usize,
    /// Dropped blocks that wait for guards, in the order of their epochs.
    waiting: VecDeque<Waiting>,
    /// The number of their granules.
    granules_waiting: usize,
}

impl Space {
    pub(super) fn new(bytes: usize, page: usize) -> Result<Box<Self>, Error> {
        let tables = Tables::new(0..(bytes / GRANULE) as u32, (page / GRANULE) as u32)?;
        Ok(Box::new(Self {
            pool: Pool::new(&tables.granules)?,
            heaps: [Heap::new(1)?, Heap::new(2)?],
            writable: BitSet::empty(bytes / page)?,
            read_only: BitSet::empty(bytes / page)?,
            way: None,
            blocks: 0,
            waiting: VecDeque::new(),
            granules_waiting: 0,
            tables,
        }))
    }

    /// Takes granules, if possible some that were used before.
    pub(super) fn take(&mut self, kind: DataKind, len: u32, align: u32) -> Option<Run> {
        let Self { tables, pool, heaps, .. } = self;
        let (own, other) = match (kind, heaps) {
            (DataKind::Writable, [own, other]) | (DataKind::Constant, [other, own]) => (own, other),
        };
        if let Some(run) = own.alloc(tables, len, align) {
            return Some(run);
        }
        for resident in [true, false] {
            // The kinds take spans from opposite ends, so that pages of one kind lie together and
            // are one mapping.
            let spans = match kind {
                DataKind::Writable => pool.take_run(&tables.granules, len, align, resident),
                DataKind::Constant => pool.take_last_run(&tables.granules, len, align, resident),
            };
            if let Some(spans) = spans {
                return own.alloc_in(tables, spans, len, align);
            }
        }
        if let Some(run) = own.alloc_exactly(tables, len, align) {
            return Some(run);
        }
        // Data of the other kind shares no page with it.
        let page = tables.granules.page();
        other.alloc_exactly(tables, len.next_multiple_of(page), align.max(page))
    }

    /// Adds a dropped block to those that wait. Its epoch is not earlier than theirs.
    pub(super) fn wait(&mut self, block: Waiting) {
        self.granules_waiting += block.run.len() as usize;
        self.waiting.push_back(block);
    }

    /// Returns whether a block waits.
    pub(super) fn is_waited(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Returns the epoch of the block that waits longest.
    pub(super) fn next_waiting(&self) -> Option<u64> {
        self.waiting.front().map(|block| block.epoch)
    }

    /// Frees the block that waits longest.
    pub(super) fn free_waiting(&mut self) {
        if let Some(Waiting { run, .. }) = self.waiting.pop_front() {
            self.granules_waiting -= run.len() as usize;
            self.free(run);
        }
    }

    pub(super) fn free(&mut self, run: Run) {
        let owner = self.owner(run);
        let Self { tables, pool, heaps, .. } = self;
        let spans = heaps[owner].free(tables, run);
        if !spans.is_empty() {
            pool.put(&tables.granules, spans);
        }
    }

    /// Returns the number of the heap that owns the spans of a taken run.
    fn owner(&self, run: Run) -> usize {
        usize::from(self.tables.granules.owner_at(run.start) == Some(2))
    }

    /// Returns whether taken granules lie in spans of the heap for constants.
    pub(super) fn is_among_constants(&self, run: Run) -> bool {
        self.owner(run) == 1
    }

    pub(super) fn granules_in_page(&self) -> u32 {
        self.tables.granules.page()
    }

    /// Returns the numbers of the pages of a run.
    pub(super) fn pages(&self, run: Run) -> Range<usize> {
        let page = self.granules_in_page();
        (run.start / page) as usize..run.end.div_ceil(page) as usize
    }

    /// Returns the pages of a run, and the free pages behind them up to the end of the span, so
    /// that the next run there needs no call.
    pub(super) fn pages_ahead(&self, run: Run) -> Range<usize> {
        let page = self.granules_in_page();
        let mut pages = self.pages(run);
        let last = (span_of(run.end - 1) + 1) * SPAN;
        let mut at = pages.end as u32 * page;
        while at < last.min(self.tables.granules.len()) && self.tables.granules.is_free(at, at + page) {
            at += page;
            pages.end += 1;
        }
        pages
    }

    fn free_granules(&self) -> u32 {
        self.pool.granules() + self.heaps.iter().map(Heap::free_granules).sum::<u32>()
    }

    pub(super) fn figures(&self) -> Figures {
        let free = self.free_granules();
        let resident = self.pool.resident_pages() + self.heaps.iter().map(Heap::resident_pages).sum::<u32>();
        Figures {
            taken: (self.tables.granules.len() - free) as usize,
            resident: resident as usize,
            blocks: self.blocks,
            waiting: self.granules_waiting,
        }
    }

    pub(super) fn full(&mut self, asked: u32) -> Error {
        let free = self.free_granules();
        let Self { tables, pool, heaps, .. } = self;
        let largest = heaps.iter_mut().map(|heap| heap.largest(tables)).fold(pool.largest(&tables.granules), u32::max);
        let bytes = |granules: u32| granules as usize * GRANULE;
        let waiting = self.granules_waiting * GRANULE;
        Error::DataFull { asked: bytes(asked), free: bytes(free), largest_hole: bytes(largest), waiting }
    }

    /// Returns free runs of whole pages of which some hold memory. Each run has one owner.
    pub(super) fn empty_pages(&self) -> Vec<Run> {
        let (granules, page) = (&self.tables.granules, self.granules_in_page());
        let spans = (0..granules.spans()).map(|span| granules.span(span));
        let holes = spans.filter(|span| granules.count_resident(*span) > 0).flat_map(|span| granules.holes(span));
        let pages = holes.map(|hole| Run {
            start: hole.start.next_multiple_of(page),
            end: (hole.end / page * page).max(hole.start.next_multiple_of(page)),
        });
        pages.filter(|run| run.len() > 0 && granules.count_resident(*run) > 0).collect()
    }

    pub(super) fn touch(&mut self, run: Run) {
        let owner = self.owner(run);
        self.heaps[owner].touch(&self.tables, run);
    }

    /// Notes that free pages hold no memory any more. Returns how many of them did.
    pub(super) fn gone(&mut self, run: Run) -> u32 {
        let Self { tables, pool, heaps, .. } = self;
        match tables.granules.owner_at(run.start) {
            Some(owner @ 1..=2) => heaps[usize::from(owner) - 1].gone(tables, run),
            _ => {
                let spans = pool.take(&tables.granules, span_of(run.start)..span_of(run.end - 1) + 1);
                let gone = tables.granules.gone(run);
                pool.put(&tables.granules, spans);
                gone
            }
        }
    }
}
