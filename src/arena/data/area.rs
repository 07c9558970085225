//! Which granules of the data area are free, and which of its pages are writable.

use std::ops::Range;

use super::Kind;
use crate::Error;
use crate::arena::core::{Core, bytes_of};
use crate::space::Run;
use crate::space::bit_set::BitSet;
use crate::space::granules::{SPAN, span_of};
use crate::space::heap::{Heap, Tables};
use crate::space::pool::Pool;
use crate::sync::checked::Mutex;
use crate::units::{self, GRANULE};

/// The data area of an arena. Its lock is taken last, and held while the system is called.
pub(in crate::arena) struct DataArea(Mutex<Option<Box<Space>>>);

impl DataArea {
    /// Nothing is in use.
    pub(in crate::arena) fn new() -> Self {
        Self(Mutex::new(None))
    }
}

struct Space {
    tables: Tables,
    pool: Pool,
    /// By [`Kind`].
    heaps: [Heap; 2],
    /// Pages that are writable now.
    writable: BitSet,
}

/// Figures of a data area.
#[derive(Clone, Copy, Default)]
pub(in crate::arena) struct Figures {
    /// Granules in use.
    pub(in crate::arena) taken: usize,
    /// Pages that hold memory.
    pub(in crate::arena) resident: usize,
}

impl Space {
    fn new(bytes: usize, page: usize) -> Result<Box<Self>, Error> {
        let tables = Tables::new(0..(bytes / GRANULE) as u32, (page / GRANULE) as u32)?;
        Ok(Box::new(Self {
            pool: Pool::new(&tables.granules)?,
            heaps: [Heap::new(1)?, Heap::new(2)?],
            writable: BitSet::empty(bytes / page)?,
            tables,
        }))
    }

    /// Takes granules: first such as were used before.
    fn take(&mut self, kind: Kind, len: u32, align: u32) -> Option<Run> {
        let Self { tables, pool, heaps, .. } = self;
        let (own, other) = match (kind, heaps) {
            (Kind::Writable, [own, other]) | (Kind::Constant, [other, own]) => (own, other),
        };
        if let Some(run) = own.alloc(tables, len, align) {
            return Some(run);
        }
        for resident in [true, false] {
            if let Some(spans) = pool.take_run(&tables.granules, len, align, resident) {
                return own.alloc_in(tables, spans, len, align);
            }
        }
        own.alloc_exactly(tables, len, align).or_else(|| other.alloc_exactly(tables, len, align))
    }

    fn free(&mut self, run: Run) {
        let Self { tables, pool, heaps, .. } = self;
        let owner = usize::from(tables.granules.owner_at(run.start) == Some(2));
        let spans = heaps[owner].free(tables, run);
        if !spans.is_empty() {
            pool.put(&tables.granules, spans);
        }
    }

    fn granules_in_page(&self) -> u32 {
        self.tables.granules.page()
    }

    /// The pages that a run lies in, by number, and for data that stays writable free ones behind them as far as the span reaches, so
    /// that the next ones need no call.
    fn pages(&self, kind: Kind, run: Run) -> Range<usize> {
        let page = self.granules_in_page();
        let mut end = run.end.next_multiple_of(page);
        let last = ((span_of(run.end - 1) + 1) * SPAN).min(self.tables.granules.len());
        while kind == Kind::Writable && end < last && self.tables.granules.is_free(end, end + page) {
            end += page;
        }
        (run.start / page) as usize..(end / page) as usize
    }

    fn figures(&self) -> Figures {
        let free = self.pool.granules() + self.heaps.iter().map(Heap::free_granules).sum::<u32>();
        let resident = self.pool.resident_pages() + self.heaps.iter().map(Heap::resident_pages).sum::<u32>();
        Figures { taken: (self.tables.granules.len() - free) as usize, resident: resident as usize }
    }

    fn full(&mut self, asked: u32) -> Error {
        let free = self.pool.granules() + self.heaps.iter().map(Heap::free_granules).sum::<u32>();
        let Self { tables, pool, heaps, .. } = self;
        let largest = heaps.iter_mut().map(|heap| heap.largest(tables)).fold(pool.largest(&tables.granules), u32::max);
        let bytes = |granules: u32| granules as usize * GRANULE;
        Error::DataFull { asked: bytes(asked), free: bytes(free), largest_hole: bytes(largest) }
    }

    /// Free runs of whole pages of which some hold memory, each with one owner.
    fn empty_pages(&self) -> Vec<Run> {
        let (granules, page) = (&self.tables.granules, self.granules_in_page());
        let spans = (0..granules.spans()).map(|span| granules.span(span));
        let holes = spans.filter(|span| granules.count_resident(*span) > 0).flat_map(|span| granules.holes(span));
        let pages = holes.map(|hole| Run {
            start: hole.start.next_multiple_of(page),
            end: (hole.end / page * page).max(hole.start.next_multiple_of(page)),
        });
        pages.filter(|run| run.len() > 0 && granules.count_resident(*run) > 0).collect()
    }
}

impl Core {
    /// Takes granules of the data area, in pages that are writable. What stands there is whatever it is.
    pub(super) fn take_data(&self, kind: Kind, len: u32, align: u32) -> Result<Run, Error> {
        self.memory.check_own("reserve data")?;
        let mut area = self.data.0.lock();
        let bytes = self.memory.data_len();
        if area.is_none() {
            *area = Some(Space::new(bytes, self.memory.page_size())?);
        }
        let Some(space) = area.as_mut() else { return Err(Error::out_of_memory()) };
        let Some(run) = space.take(kind, len, align) else { return Err(space.full(len)) };
        let pages = space.pages(kind, run);
        let mut at = pages.start;
        while let Some(closed) = space.writable.next_run(at..pages.end, false) {
            // SAFETY: pages of the data area that hold nothing that is to stay read-only: they are free, or this run's, or
            // shared with data that is writable.
            if let Err(refused) = unsafe { self.memory.open_data(self.data_bytes(closed.clone())) } {
                space.free(run);
                return Err(refused);
            }
            at = closed.end;
            space.writable.insert(closed);
        }
        space.touch(run);
        Ok(run)
    }

    /// Bytes of pages of the data area.
    fn data_bytes(&self, pages: Range<usize>) -> Range<usize> {
        let page = self.memory.page_size();
        pages.start * page..pages.end * page
    }

    /// Makes whole pages of the data area read-only. When this fails, some of them may be.
    ///
    /// # Safety
    /// - The pages are the caller's, all of them, and nobody writes to them any more.
    pub(super) unsafe fn close_data(&self, run: Run) -> Result<(), Error> {
        let mut area = self.data.0.lock();
        let page = (self.memory.page_size() / GRANULE) as u32;
        if let Some(space) = area.as_mut() {
            // Whatever the system says, they are made writable before they are used again.
            space.writable.remove((run.start / page) as usize..(run.end / page) as usize);
        }
        // SAFETY: passed on to the caller.
        unsafe { self.memory.close_data(bytes_of(run)) }
    }

    /// Makes granules of the data area free.
    pub(super) fn free_data(&self, runs: impl IntoIterator<Item = Run>) {
        let mut area = self.data.0.lock();
        let Some(space) = area.as_mut() else { return };
        runs.into_iter().for_each(|run| space.free(run));
        let free = space.empty_pages().iter().map(|run| space.tables.granules.count_resident(*run)).sum::<u32>();
        if u64::from(free) > self.least_kept {
            let _ = self.trim_area(space);
        }
    }

    /// Gives the memory of free pages of the data area back to the system; returns the bytes.
    pub(in crate::arena) fn trim_data(&self) -> Result<usize, Error> {
        let mut area = self.data.0.lock();
        area.as_mut().map_or(Ok(0), |space| self.trim_area(space))
    }

    fn trim_area(&self, space: &mut Space) -> Result<usize, Error> {
        if self.memory.is_given() {
            return Ok(0);
        }
        let (mut pages, page) = (0, space.granules_in_page());
        for run in space.empty_pages() {
            // SAFETY: free pages of the data area, which nobody gets while its lock is held.
            unsafe { self.memory.decommit_data(bytes_of(run))? };
            // What decommitting leaves them as differs from system to system.
            space.writable.remove((run.start / page) as usize..(run.end / page) as usize);
            pages += space.gone(run) as usize;
        }
        Ok(pages * self.memory.page_size())
    }

    /// `None` where the lock may be held for ever: in a child forked while another thread held it.
    pub(in crate::arena) fn data_figures(&self) -> Option<Figures> {
        let area = if self.memory.is_own() { self.data.0.lock() } else { self.data.0.try_lock()? };
        Some(area.as_ref().map_or_else(Figures::default, |space| space.figures()))
    }

    /// Checks a size against what the data area could hold empty.
    pub(super) fn data_granules(&self, bytes: usize) -> Result<u32, Error> {
        match self.memory.data_len() {
            // Full is what it is, rather than too small.
            0 if bytes > 0 => Err(Error::DataFull { asked: bytes, free: 0, largest_hole: 0 }),
            most => units::granules(bytes, most),
        }
    }
}

impl Space {
    fn touch(&mut self, run: Run) {
        let Self { tables, heaps, .. } = self;
        heaps[usize::from(tables.granules.owner_at(run.start) == Some(2))].touch(tables, run);
    }

    /// Notes that free pages hold no memory any more; returns how many did.
    fn gone(&mut self, run: Run) -> u32 {
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
