//! Functions that somebody else writes, at the addresses where they will run. It is for linkers
//! that know one address only.
//!
//! As in a batch, whole empty pages are opened, written, and sealed once for all functions in them.
//! The rest of them is freed afterwards. Nothing is staged, and functions never share pages with
//! code that was live before.
//!
//! ```text
//! reserve --> open pages, the linker writes --> publish --> blocks (owned by the caller)
//!                                          `--> clear, drop: everything is freed
//!                                          `--> leak: published code stays for ever
//! ```

use std::ptr::NonNull;

use crate::Error;
use crate::arena::CodeArena;
use crate::arena::batch::LONGEST_RUN;
use crate::arena::batch::notes::Notes;
use crate::arena::batch::open_run::OpenRun;
use crate::arena::block::CodeBlock;
use crate::arena::core::bytes_of;
use crate::arena::handle::Handle;
use crate::arena::lookup::Entry;
use crate::icache;
use crate::space::Run;
use crate::sync::Arc;
use crate::units::GRANULE;

impl CodeArena {
    /// Returns an error if pages cannot be written at the address where they will run, and in a
    /// forked child.
    pub(crate) fn check_in_place(&self, what: &'static str) -> Result<(), Error> {
        self.core().memory.check_own(what)?;
        if self.core().memory.opened_pages() {
            return Ok(());
        }
        let why = "code is written where it will run, which only `Flip` can, unsealed";
        Err(Error::unsupported(what, why))
    }

    /// Returns whether code that is called through a pointer has to begin with a landing pad.
    pub(crate) fn has_landing_pads(&self) -> bool {
        self.core().memory.has_landing_pads()
    }

    /// Makes a set without functions. [`CodeArena::check_in_place`] has to have succeeded.
    pub(crate) fn in_place(&self) -> InPlace {
        InPlace { core: Arc::clone(self.handle()), entries: Vec::new(), runs: Vec::new() }
    }
}

/// Functions that are being written. Its drop frees everything.
pub(crate) struct InPlace {
    core: Arc<Handle>,
    entries: Vec<Entry>,
    runs: Vec<OpenRun>,
}

impl InPlace {
    /// Reserves space for a function of `len` bytes, filled with traps. It can be written to until
    /// [`InPlace::publish`].
    pub(crate) fn reserve(&mut self, len: usize, align: usize, tag: u64) -> Result<NonNull<u8>, Error> {
        let core = Arc::clone(&self.core);
        core.memory.check_own("publish")?;
        let (granules, align) = (core.granules(len)?, core.align(align)?);
        self.entries.try_reserve(1).map_err(|_| Error::out_of_memory())?;
        let run = match self.runs.last_mut().and_then(|open| open.take(granules, align)) {
            Some(run) => run,
            None => self.open(granules, align)?,
        };
        self.entries.push(Entry::new(run.start, len as u32, tag));
        // The address where it will run, even if there are other views.
        let (at, bytes) = (core.memory.span(bytes_of(run)).start, bytes_of(run).len());
        // SAFETY: granules that this value owns, in pages that it has open, mapped and initialised.
        icache::fill_with_traps(unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), bytes) });
        Ok(at)
    }

    fn open(&mut self, granules: u32, align: u32) -> Result<Run, Error> {
        let core = Arc::clone(&self.core);
        let page = (core.memory.page_size() / GRANULE) as u32;
        let least = granules.next_multiple_of(page);
        // Twice the last run, so that there are few protection changes. The first run is as short
        // as possible, because it then fits where a small module was before.
        let ahead = self.runs.last().filter(|last| !last.closed).map_or(0, |last| 2 * last.run.len());
        let ahead = ahead.min((LONGEST_RUN / GRANULE) as u32).next_multiple_of(page);
        let place = |len: u32| core.place_pages(len, align.max(page), |_, run| Ok(run));
        let placed = match place(least.max(ahead)) {
            Err(Error::ArenaFull { .. }) if ahead > least => place(least),
            placed => placed,
        };
        let run = placed.map_err(|error| error.of_asked(granules as usize * GRANULE))?;
        let mut open = OpenRun::new(run);
        open.populated = core.memory.commits();
        // SAFETY: whole pages placed for this value alone, so they contain no live code.
        if let Err(error) = unsafe { core.memory.open(bytes_of(run)) } {
            // Some of the pages may be open.
            core.close(&open);
            return Err(error);
        }
        let taken = open.take(granules, 1);
        self.runs.push(open);
        taken.ok_or(Error::ZeroSize)
    }

    /// Ends the open pages: functions that are reserved from here on lie in other pages.
    pub(crate) fn close(&mut self) {
        self.runs.iter_mut().for_each(|open| open.closed = true);
    }

    /// Returns the number of functions that were not published yet.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Makes all functions executable and adds their blocks to `blocks`, in the order in which they
    /// were reserved. Nobody may write to them any more. After an error they stay as they are, and
    /// it can be called again.
    pub(crate) fn publish(&mut self, notes: &Notes, blocks: &mut Vec<CodeBlock>) -> Result<(), Error> {
        let core = Arc::clone(&self.core);
        core.memory.check_own("publish")?;
        if self.entries.is_empty() {
            return Ok(());
        }
        self.close();
        for open in self.runs.iter_mut().filter(|open| !open.sealed) {
            core.seal_run(open)?;
        }
        self.runs.iter().flat_map(OpenRun::used).try_for_each(|run| core.memory.flush(bytes_of(run)))?;
        core.memory.sync_cores()?;
        blocks.try_reserve(self.entries.len()).map_err(|_| Error::out_of_memory())?;
        core.enter_all(&self.entries, false, &self.runs)?;
        // From here on nothing fails.
        let entries = std::mem::take(&mut self.entries);
        self.runs.clear();
        // From here on the caller owns them, even if an observer panics.
        // SAFETY: entered and counted just now, for this call alone.
        blocks.extend(entries.iter().map(|entry| unsafe { CodeBlock::new(&core, *entry) }));
        let described = entries.iter().enumerate().map(|(number, entry)| notes.describe(number, *entry));
        // SAFETY: published, and in `blocks`, which stays borrowed until this is done.
        unsafe { core.announce(described) };
        Ok(())
    }

    /// Frees the functions that were reserved since the last [`InPlace::publish`], and leaves the
    /// others in use for ever, with the arena. So functions that a call of it could not publish
    /// stay as they are.
    pub(crate) fn leak(&mut self) {
        let asked = self.runs.iter().any(|open| open.closed);
        self.runs.retain(|open| !open.closed);
        if asked {
            std::mem::forget(Arc::clone(&self.core));
        }
        self.clear();
    }

    /// Frees everything that was not published.
    pub(crate) fn clear(&mut self) {
        let core = Arc::clone(&self.core);
        self.entries.clear();
        for open in self.runs.drain(..) {
            if core.memory.is_own() {
                core.close(&open);
            }
        }
    }
}

impl Drop for InPlace {
    fn drop(&mut self) {
        self.clear();
    }
}
