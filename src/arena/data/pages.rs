//! Whole pages for data of one kind that belongs to one module of code.
//!
//! Cranelift's modules take data in this way. The data of a module lies in pages of its own, so
//! that the constants become read-only by one change of protection, and the memory of the module is
//! freed as a whole.
//!
//! ```text
//! reserve --> pages are open --> use_all: addresses may have been given out
//!                             `--> make_read_only (constants)
//! clear: frees everything;  leak: leaves what is in use;  drop: frees what is not in use
//! ```

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

/// The longest run of pages that is taken ahead, in bytes.
const LONGEST_RUN: usize = 64 << 10;

impl CodeArena {
    /// Makes an empty set of pages.
    pub(crate) fn data_pages(&self, kind: DataKind) -> DataPages {
        DataPages::new(&self.handle, kind)
    }
}

/// Data of one kind. Its drop frees the data.
pub(crate) struct DataPages {
    core: Arc<Handle>,
    kind: DataKind,
    /// Whole pages for constants, of which `sealed` ones are read-only. For writable data, runs of
    /// the size that was asked for.
    runs: Vec<OpenRun>,
    /// The number of runs of which a part may be in use.
    used: usize,
    /// The starts of runs that belong to one piece of data alone. If their rest became free,
    /// writable data could be placed in a page of constants and open it.
    alone: Vec<u32>,
}

impl DataPages {
    pub(in crate::arena) fn new(handle: &Arc<Handle>, kind: DataKind) -> Self {
        Self { core: Arc::clone(handle), kind, runs: Vec::new(), used: 0, alone: Vec::new() }
    }

    /// Reserves `len` zero bytes, writable. Constants are writable until
    /// [`DataPages::make_read_only`].
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
        // SAFETY: granules that this value owns, in pages that are writable.
        unsafe { at.write_bytes(0, bytes) };
        Ok(at)
    }

    fn open(&mut self, granules: u32, align: u32) -> Result<Run, Error> {
        let run = match self.kind {
            DataKind::Writable => self.core.take_data(self.kind, granules, align)?,
            DataKind::Constant => {
                let page = (self.core.memory.page_size() / GRANULE) as u32;
                // The unused rest of a run is lost as long as the module lives. So the first run of
                // the module is as short as possible, and so is the first after constants became
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

    /// Notes that everything that was reserved may be in use from now on.
    #[cfg(feature = "cranelift")]
    pub(crate) fn use_all(&mut self) {
        self.used = self.runs.len();
    }

    /// Makes all constants read-only. After an error some of them may be read-only.
    pub(crate) fn make_read_only(&mut self) -> Result<(), Error> {
        let core = Arc::clone(&self.core);
        if self.runs.iter().any(|open| !open.sealed) {
            core.memory.check_own("protect data")?;
        }
        self.runs.iter_mut().for_each(|open| open.closed = true);
        for open in self.runs.iter_mut().filter(|open| !open.sealed) {
            // SAFETY: whole pages that this value owns, which nobody writes to any more.
            unsafe { core.close_data(open.run)? };
            open.sealed = true;
        }
        Ok(())
    }

    /// Returns the granules that were reserved at an address. A piece that is alone in its pages
    /// has all of their granules.
    pub(in crate::arena) fn run_at(&self, at: NonNull<u8>, granules: u32) -> Run {
        let first = self.core.memory.data_start(0).addr().get();
        let run = Run::new(((at.addr().get() - first) / GRANULE) as u32, granules);
        let alone = self.runs.iter().filter(|open| self.alone.contains(&open.run.start));
        alone.map(|open| open.run).find(|all| all.start <= run.start && run.end <= all.end).unwrap_or(run)
    }

    /// Leaves the reserved granules to others, who own them from now on as [`DataPages::run_at`]
    /// says. Frees the rest.
    pub(in crate::arena) fn give_up_used(mut self) {
        let runs = std::mem::take(&mut self.runs);
        let shared = runs.iter().filter(|open| !self.alone.contains(&open.run.start));
        self.core.free_data(shared.flat_map(OpenRun::rest));
    }

    /// Leaves everything that may be in use allocated for ever, and the arena with it. Frees the
    /// rest.
    #[cfg(feature = "cranelift")]
    pub(crate) fn leak(&mut self) {
        let used = std::mem::take(&mut self.used);
        if used > 0 {
            std::mem::forget(Arc::clone(&self.core));
            self.runs.drain(..used);
        }
        self.clear();
    }

    /// Frees all of it.
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
