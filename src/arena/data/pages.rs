//! Data of one kind that belongs to one module of code.

use std::ptr::NonNull;

use super::DataKind;
use crate::Error;
use crate::arena::CodeArena;
use crate::arena::batch::open_run::OpenRun;
use crate::arena::core::bytes_of;
use crate::arena::handle::Handle;
use crate::space::Run;
use crate::sync::Arc;
use crate::units::GRANULE;

/// The longest run of pages that is taken ahead.
const LONGEST_RUN: usize = 64 << 10;

impl CodeArena {
    /// No data yet.
    pub(crate) fn data_pages(&self, kind: DataKind) -> DataPages {
        DataPages::new(&self.handle, kind)
    }
}

/// Data of one kind. Dropped, it gives it back.
pub(crate) struct DataPages {
    core: Arc<Handle>,
    kind: DataKind,
    /// Whole pages for constants, of which `sealed` are read-only; just what was asked for else.
    runs: Vec<OpenRun>,
    /// How many of them have a part that may be in use.
    used: usize,
    /// Where those begin of which one piece takes all: where writable data is placed, what was left
    /// of a page of constants, or came free in it, would be opened for such data.
    alone: Vec<u32>,
}

impl DataPages {
    pub(in crate::arena) fn new(handle: &Arc<Handle>, kind: DataKind) -> Self {
        Self { core: Arc::clone(handle), kind, runs: Vec::new(), used: 0, alone: Vec::new() }
    }

    /// `len` zero bytes, writable; constants until [`DataPages::make_read_only`].
    pub(crate) fn reserve(&mut self, len: usize, align: usize) -> Result<NonNull<u8>, Error> {
        let core = Arc::clone(&self.core);
        let granules = core.data_granules(len)?;
        let align = core.data_align(align)?;
        self.runs.try_reserve(1).map_err(|_| Error::out_of_memory())?;
        let shared = self.runs.last_mut().filter(|open| !self.alone.contains(&open.run.start));
        let run = match shared.and_then(|open| open.take(granules, align)) {
            Some(run) => run,
            None => self.open(granules, align)?,
        };
        let (at, bytes) = (core.memory.data_start(bytes_of(run).start), bytes_of(run).len());
        // SAFETY: granules of this value's own in pages that are writable.
        unsafe { at.write_bytes(0, bytes) };
        Ok(at)
    }

    fn open(&mut self, granules: u32, align: u32) -> Result<Run, Error> {
        let run = match self.kind {
            DataKind::Writable => self.core.take_data(self.kind, granules, align)?,
            DataKind::Constant => {
                let page = (self.core.memory.page_size() / GRANULE) as u32;
                // What is not used of a run is lost for as long as the module lives, so the first
                // is as short as can be: of the module, and after each time that constants became
                // read-only.
                let last = self.runs.last().filter(|last| !last.closed);
                let ahead = last.map_or(0, |last| 2 * last.run.len()).min((LONGEST_RUN / GRANULE) as u32);
                let least = granules.next_multiple_of(page);
                let take = |len: u32| self.core.take_data(self.kind, len, align.max(page));
                match take(least.max(ahead.next_multiple_of(page))) {
                    Err(Error::DataFull { .. }) if ahead > least => take(least)?,
                    taken => taken?,
                }
            }
        };
        if self.kind == DataKind::Constant && !self.core.is_among_constants(run) {
            self.alone.push(run.start);
        }
        let mut open = OpenRun::new(run);
        let taken = open.take(granules, 1);
        self.runs.push(open);
        taken.ok_or(Error::ZeroSize)
    }

    /// What was reserved before may be in use from here on.
    #[cfg(feature = "cranelift")]
    pub(crate) fn use_all(&mut self) {
        self.used = self.runs.len();
    }

    /// Makes all constants read-only. When this fails, some may be.
    pub(crate) fn make_read_only(&mut self) -> Result<(), Error> {
        let core = Arc::clone(&self.core);
        if self.runs.iter().any(|open| !open.sealed) {
            core.memory.check_own("protect data")?;
        }
        self.runs.iter_mut().for_each(|open| open.closed = true);
        for open in self.runs.iter_mut().filter(|open| !open.sealed) {
            // SAFETY: whole pages of this value's, written to no more.
            unsafe { core.close_data(open.run)? };
            open.sealed = true;
        }
        Ok(())
    }

    /// The granules of what was reserved at an address: of a piece that is alone in its pages, all
    /// of them.
    pub(in crate::arena) fn run_at(&self, at: NonNull<u8>, granules: u32) -> Run {
        let first = self.core.memory.data_start(0).addr().get();
        let run = Run::new(((at.addr().get() - first) / GRANULE) as u32, granules);
        let alone = self.runs.iter().filter(|open| self.alone.contains(&open.run.start));
        alone.map(|open| open.run).find(|all| all.start <= run.start && run.end <= all.end).unwrap_or(run)
    }

    /// Leaves what was reserved to others, who own it from now on as [`DataPages::run_at`] says,
    /// and gives the rest back.
    pub(in crate::arena) fn give_up_used(mut self) {
        let runs = std::mem::take(&mut self.runs);
        let shared = runs.iter().filter(|open| !self.alone.contains(&open.run.start));
        self.core.free_data(shared.flat_map(OpenRun::rest));
    }

    /// Leaves what may be in use so for ever, and the arena with it, and gives the rest back.
    #[cfg(feature = "cranelift")]
    pub(crate) fn leak(&mut self) {
        let used = std::mem::take(&mut self.used);
        if used > 0 {
            std::mem::forget(Arc::clone(&self.core));
            self.runs.drain(..used);
        }
        self.clear();
    }

    /// Gives all of it back.
    pub(crate) fn clear(&mut self) {
        self.used = 0;
        let runs = std::mem::take(&mut self.runs);
        if !runs.is_empty() && self.core.memory.is_own() {
            self.core.free_data(runs.iter().map(|open| open.run));
        }
    }
}

impl Drop for DataPages {
    fn drop(&mut self) {
        self.clear();
    }
}
