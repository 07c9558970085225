//! Data of modules that has to lie near their code: whole pages taken out of the arena's space for as long as the module
//! lives.
//!
//! Such a page is readable and writable, or readable alone, and never executable. Before it becomes free space for code
//! again what stood in it is wiped, so that bytes a program wrote as data are never executable, not as leftovers either.

use std::ptr::NonNull;

use crate::Error;
use crate::arena::CodeArena;
use crate::arena::batch::open_run::OpenRun;
use crate::arena::core::{Core, bytes_of};
use crate::arena::handle::Handle;
use crate::space::Run;
use crate::sync::Arc;
use crate::units::{GRANULE, align_granules};

/// The longest run of pages that is opened ahead.
const LONGEST_RUN: usize = 64 << 10;

impl CodeArena {
    /// No data yet. Only where [`CodeArena::check_in_place`].
    pub(crate) fn data_pages(&self) -> DataPages {
        DataPages { core: Arc::clone(self.handle()), runs: Vec::new() }
    }
}

/// Pages with data of one kind. Dropped, it gives them back.
pub(crate) struct DataPages {
    core: Arc<Handle>,
    /// `sealed` are those that are read-only.
    runs: Vec<OpenRun>,
}

impl DataPages {
    /// `len` zero bytes, writable.
    pub(crate) fn reserve(&mut self, len: usize, align: usize) -> Result<NonNull<u8>, Error> {
        let core = Arc::clone(&self.core);
        core.memory.check_own("reserve data")?;
        let (granules, align) = (core.granules(len)?, align_granules(align)?);
        let run = match self.runs.last_mut().and_then(|open| open.take(granules, align)) {
            Some(run) => run,
            None => self.open(granules, align)?,
        };
        let (at, bytes) = (core.memory.writable(bytes_of(run).start), bytes_of(run).len());
        // SAFETY: granules of this value's own in pages that it has open.
        unsafe { at.write_bytes(0, bytes) };
        Ok(at)
    }

    fn open(&mut self, granules: u32, align: u32) -> Result<Run, Error> {
        let core = Arc::clone(&self.core);
        let page = (core.memory.page_size() / GRANULE) as u32;
        // What is not used of a run is lost for as long as the module lives, so the first is as short as can be.
        let ahead = self.runs.last().map_or(0, |last| 2 * last.run.len());
        let least = granules.next_multiple_of(page);
        let align = align.max(page);
        let place = |len: u32| {
            core.place(len, align, |heap, run| {
                heap.data += i64::from(run.len());
                heap.space.touch(&core.heaps.tables, run);
                Ok(run)
            })
        };
        let placed = match place(least.max(ahead.min((LONGEST_RUN / GRANULE) as u32).next_multiple_of(page))) {
            Err(Error::ArenaFull { .. }) if ahead > least => place(least),
            placed => placed,
        };
        let run = placed.map_err(|error| error.of_asked(granules as usize * GRANULE))?;
        let mut open = OpenRun::new(run);
        // SAFETY: whole pages placed for this value alone, so without live code.
        if let Err(error) = unsafe { core.memory.open(bytes_of(run)) } {
            core.heaps.of(run.start).data -= i64::from(run.len());
            // Some of the pages may be open. No data was written.
            core.close(&open);
            return Err(error);
        }
        let taken = open.take(granules, 1);
        self.runs.push(open);
        taken.ok_or(Error::ZeroSize)
    }

    /// Makes all of it read-only. When this fails, some may be.
    pub(crate) fn make_read_only(&mut self) -> Result<(), Error> {
        let core = Arc::clone(&self.core);
        if self.runs.iter().any(|open| !open.sealed) {
            core.memory.check_own("protect data")?;
        }
        self.runs.iter_mut().for_each(|open| open.closed = true);
        for open in self.runs.iter_mut().filter(|open| !open.sealed) {
            // SAFETY: opened by this value, and written to no more.
            unsafe { core.memory.make_read_only(bytes_of(open.run))? };
            open.sealed = true;
        }
        Ok(())
    }

    /// Leaves all pages in use for ever, and the arena with them.
    pub(crate) fn leak(&mut self) {
        if !self.runs.is_empty() {
            std::mem::forget(Arc::clone(&self.core));
            self.runs.clear();
        }
    }

    /// Gives all pages back.
    pub(crate) fn clear(&mut self) {
        let core = Arc::clone(&self.core);
        for open in self.runs.drain(..) {
            if !core.memory.is_own() {
                continue;
            }
            core.recover(open.run);
        }
    }
}

impl Core {
    /// Makes pages with data free space for code: wipes them first, only then makes them executable.
    fn recover(&self, run: Run) {
        let bytes = bytes_of(run);
        // SAFETY: the pages are out of the free space, and whoever used their data does no more.
        let Ok(given_back) = (unsafe { self.memory.wipe(bytes.clone()) }) else {
            // Lost to the arena, as what stands in them may not become executable.
            return;
        };
        // Where pages have to be committed those without memory cannot be sealed, and are opened before they are used.
        // SAFETY: as above; wiped.
        let sealed = given_back && self.memory.commits() || unsafe { self.memory.seal(bytes) }.is_ok();
        let mut heap = self.heaps.of(run.start);
        heap.data -= i64::from(run.len());
        if given_back {
            heap.space.gone(&self.heaps.tables, run);
        }
        if sealed {
            self.free(&mut heap, run);
        } else {
            heap.stuck.push(run);
        }
    }
}

impl Drop for DataPages {
    fn drop(&mut self) {
        self.clear();
    }
}
