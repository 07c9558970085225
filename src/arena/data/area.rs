//! The data area, and its calls of the system.
//!
//! The lock of the area is held while the system is called, because data is placed rarely. Under it
//! only the lock of the guards' epochs is taken. Dropped data waits for guards in a list of this
//! area, because it is in no lookup.
//!
//! ```text
//! free --take--> taken --retire, no older guard--------------> free --trim, keep_free--> memory given back
//!                      `-retire, older guards--> waiting --reclaim--^
//! ```

use std::ops::Range;

use super::DataKind;
use super::space::{Figures, Space, Waiting};
use crate::Error;
use crate::arena::core::{Core, bytes_of};
use crate::space::Run;
use crate::sync::checked::{Mutex, MutexGuard};
use crate::units;

/// The number of runs that one call reclaims, unless it would fail otherwise or has to be exact.
const RECLAIMED: usize = 64;

/// The data area of an arena. Its lock is held while the system is called. Under it only the lock
/// of the guards' epochs is taken.
pub(in crate::arena) struct DataArea(Mutex<Option<Box<Space>>>);

impl DataArea {
    /// Makes an area of which nothing is in use.
    pub(in crate::arena) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Locks the area. A forked child must not call this, because the lock may be held for ever
    /// there.
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<Box<Space>>> {
        self.0.lock()
    }
}

impl Core {
    /// Locks the area's bookkeeping, and makes it if there is none.
    pub(super) fn data_space(&self) -> Result<MutexGuard<'_, Option<Box<Space>>>, Error> {
        let mut area = self.data.lock();
        if area.is_none() {
            *area = Some(Space::new(self.memory.data_len(), self.memory.page_size())?);
        }
        Ok(area)
    }

    /// Takes granules of the data area, in pages that are writable. They may have any content.
    pub(in crate::arena) fn take_data(&self, kind: DataKind, len: u32, align: u32) -> Result<Run, Error> {
        self.memory.check_own("reserve data")?;
        let mut area = self.data_space()?;
        let Some(space) = area.as_mut() else { return Err(Error::out_of_memory()) };
        let run = self.take_or_reclaim(space, kind, len, align)?;
        // Pages are not opened ahead if opened pages count as memory, used or not.
        let ahead = kind == DataKind::Writable && !self.memory.commits();
        let pages = if ahead { space.pages_ahead(run) } else { space.pages(run) };
        let mut at = pages.start;
        while let Some(closed) = space.writable.next_run(at..pages.end, false) {
            space.read_only.remove(closed.clone());
            // SAFETY: pages of the data area without anything that has to stay read-only. They are
            // free, or of this run, or shared with writable data.
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

    /// Takes granules. If there are none, reclaims everything that waits for no guard and tries
    /// again.
    pub(super) fn take_or_reclaim(
        &self,
        space: &mut Space,
        kind: DataKind,
        len: u32,
        align: u32,
    ) -> Result<Run, Error> {
        self.reclaim_data(space, RECLAIMED);
        if let Some(run) = space.take(kind, len, align) {
            return Ok(run);
        }
        self.reclaim_data(space, usize::MAX);
        space.take(kind, len, align).ok_or_else(|| space.full(len))
    }

    /// Returns the byte offsets of pages of the data area.
    pub(super) fn data_bytes(&self, pages: Range<usize>) -> Range<usize> {
        let page = self.memory.page_size();
        pages.start * page..pages.end * page
    }

    /// Makes whole pages of the data area read-only. After an error some of them may be read-only.
    ///
    /// # Safety
    /// - The caller owns all of the pages, and nobody writes to them any more.
    pub(super) unsafe fn close_data(&self, run: Run) -> Result<(), Error> {
        let mut area = self.data.lock();
        if let Some(space) = area.as_mut() {
            // Whatever the system answers, the pages are made writable, or read-only, before they
            // are used again.
            let pages = space.pages(run);
            space.writable.remove(pages);
        }
        // SAFETY: passed on to the caller.
        unsafe { self.memory.close_data(bytes_of(run)) }
    }

    /// Returns whether taken granules lie in a place for constants only.
    pub(super) fn is_among_constants(&self, run: Run) -> bool {
        self.data.lock().as_ref().is_some_and(|space| space.is_among_constants(run))
    }

    /// Frees granules of the data area.
    pub(in crate::arena) fn free_data(&self, runs: impl IntoIterator<Item = Run>) {
        let mut area = self.data.lock();
        let Some(space) = area.as_mut() else { return };
        runs.into_iter().for_each(|run| space.free(run));
        self.give_data_back(space);
    }

    /// Counts a block of data.
    pub(super) fn count_data(&self) {
        if let Some(space) = self.data.lock().as_mut() {
            space.blocks += 1;
        }
    }

    /// Frees the granules of a dropped block of data when no older guard is left.
    pub(super) fn retire_data(&self, run: Run) {
        let mut area = self.data.lock();
        let Some(space) = area.as_mut() else { return };
        space.blocks -= 1;
        // The lock was the read-modify-write between making the data unreachable and looking at the
        // guards.
        if self.guards.any() {
            let epoch = self.guards.next_epoch();
            space.wait(Waiting { epoch, run });
            // More than one, so that the number of waiting blocks stays in proportion to the drops.
            self.reclaim_data(space, 2);
        } else {
            space.free(run);
        }
        self.give_data_back(space);
    }

    /// Frees up to `most` runs that need not wait any more, the oldest first.
    fn reclaim_data(&self, space: &mut Space, most: usize) {
        if !space.is_waited() {
            return;
        }
        self.guards.catch_up();
        // Read after the lock was taken, so it counts for all runs that wait here (see the guards).
        let oldest = self.guards.oldest();
        for _ in 0..most {
            match space.next_waiting().filter(|epoch| oldest.is_none_or(|oldest| *epoch < oldest)) {
                Some(_) => space.free_waiting(),
                None => break,
            }
        }
    }

    /// Gives memory of free pages back, if there is more of it than the arena is to keep.
    fn give_data_back(&self, space: &mut Space) {
        if space.figures().resident as u64 <= self.least_kept {
            return;
        }
        let free = space.empty_pages().iter().map(|run| space.tables.granules.count_resident(*run)).sum::<u32>();
        if u64::from(free) > self.least_kept {
            let _ = self.trim_area(space);
        }
    }

    /// Gives the memory of free pages of the data area back to the system. Returns the number of
    /// bytes.
    pub(in crate::arena) fn trim_data(&self) -> Result<usize, Error> {
        let mut area = self.data.lock();
        area.as_mut().map_or(Ok(0), |space| {
            self.reclaim_data(space, usize::MAX);
            self.trim_area(space)
        })
    }

    fn trim_area(&self, space: &mut Space) -> Result<usize, Error> {
        if self.memory.is_given() {
            return Ok(0);
        }
        let mut pages = 0;
        for run in space.empty_pages() {
            // SAFETY: free pages of the data area, which nobody gets while its lock is held.
            unsafe { self.memory.decommit_data(bytes_of(run))? };
            // The protection after decommitting differs from system to system.
            let empty = space.pages(run);
            space.writable.remove(empty.clone());
            space.read_only.remove(empty);
            pages += space.gone(run) as usize;
        }
        Ok(pages * self.memory.page_size())
    }

    /// Returns the figures of the area. They are `None` if the lock may be held for ever: in a
    /// child that was forked while another thread held it.
    pub(in crate::arena) fn data_figures(&self) -> Option<Figures> {
        if !self.memory.is_own() {
            let area = self.data.0.try_lock()?;
            return Some(area.as_ref().map_or_else(Figures::default, |space| space.figures()));
        }
        let mut area = self.data.lock();
        let Some(space) = area.as_mut() else { return Some(Figures::default()) };
        self.reclaim_data(space, usize::MAX);
        Some(space.figures())
    }

    /// Checks a size against the size of the empty data area.
    pub(in crate::arena) fn data_granules(&self, bytes: usize) -> Result<u32, Error> {
        match self.memory.data_len() {
            // An area of no bytes is reported as full instead of as too small.
            0 if bytes > 0 => Err(Error::DataFull { asked: bytes, free: 0, largest_hole: 0, waiting: 0 }),
            most => units::granules(bytes, most),
        }
    }

    /// Checks an alignment of data, and returns it in granules.
    pub(in crate::arena) fn data_align(&self, align: usize) -> Result<u32, Error> {
        // The area begins at a multiple of this limit, and not of more.
        let limit = self.memory.data_alignment();
        units::align_granules(align, limit)
    }
}
