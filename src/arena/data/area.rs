//! The data area, and what it asks of the system.

use std::ops::Range;

use super::DataKind;
use super::space::{Figures, Space};
use crate::Error;
use crate::arena::core::{Core, bytes_of};
use crate::space::Run;
use crate::sync::checked::Mutex;
use crate::units;

/// The data area of an arena. Its lock is taken last, and held while the system is called.
pub(in crate::arena) struct DataArea(Mutex<Option<Box<Space>>>);

impl DataArea {
    /// Nothing is in use.
    pub(in crate::arena) fn new() -> Self {
        Self(Mutex::new(None))
    }
}

impl Core {
    /// Takes granules of the data area, in pages that are writable. What stands there is whatever it is.
    pub(super) fn take_data(&self, kind: DataKind, len: u32, align: u32) -> Result<Run, Error> {
        self.memory.check_own("reserve data")?;
        let mut area = self.data.0.lock();
        let bytes = self.memory.data_len();
        if area.is_none() {
            *area = Some(Space::new(bytes, self.memory.page_size())?);
        }
        let Some(space) = area.as_mut() else { return Err(Error::out_of_memory()) };
        let Some(run) = space.take(kind, len, align) else { return Err(space.full(len)) };
        // Where opened pages count as memory, used or not, none are opened ahead.
        let ahead = kind == DataKind::Writable && !self.memory.commits();
        let pages = if ahead { space.pages_ahead(run) } else { space.pages(run) };
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
        if let Some(space) = area.as_mut() {
            // Whatever the system says, they are made writable before they are used again.
            let pages = space.pages(run);
            space.writable.remove(pages);
        }
        // SAFETY: passed on to the caller.
        unsafe { self.memory.close_data(bytes_of(run)) }
    }

    /// Makes granules of the data area free.
    pub(super) fn free_data(&self, runs: impl IntoIterator<Item = Run>) {
        let mut area = self.data.0.lock();
        let Some(space) = area.as_mut() else { return };
        runs.into_iter().for_each(|run| space.free(run));
        if space.figures().resident as u64 <= self.least_kept {
            return;
        }
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
        let mut pages = 0;
        for run in space.empty_pages() {
            // SAFETY: free pages of the data area, which nobody gets while its lock is held.
            unsafe { self.memory.decommit_data(bytes_of(run))? };
            // What decommitting leaves them as differs from system to system.
            space.writable.remove(space.pages(run));
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
