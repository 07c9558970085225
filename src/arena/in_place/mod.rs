//! Functions that somebody else writes, at the addresses where they will run: for linkers that know
//! one address only.
//!
//! As in a batch, whole empty pages are opened, written and sealed once for all functions in them;
//! what is left of them is free afterwards. Nothing is staged, and functions never share pages with
//! what was live before.

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
    /// `Err` where pages cannot be written to at the address where they will run, and in a forked
    /// child.
    pub(crate) fn check_in_place(&self, what: &'static str) -> Result<(), Error> {
        self.core().memory.check_own(what)?;
        if self.core().memory.opened_pages() {
            return Ok(());
        }
        let why = "code is written where it will run, which only `Flip` can, unsealed";
        Err(Error::unsupported(what, why))
    }

    /// Whether code that is called through a pointer has to begin with a landing pad.
    pub(crate) fn has_landing_pads(&self) -> bool {
        self.core().memory.has_landing_pads()
    }

    /// No functions yet. Only where [`CodeArena::check_in_place`].
    pub(crate) fn in_place(&self) -> InPlace {
        InPlace { core: Arc::clone(self.handle()), entries: Vec::new(), runs: Vec::new() }
    }
}

/// Functions that are being written. Dropped, it gives everything back.
pub(crate) struct InPlace {
    core: Arc<Handle>,
    entries: Vec<Entry>,
    runs: Vec<OpenRun>,
}

impl InPlace {
    /// Space for a function of `len` bytes, filled with traps. It can be written to until
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
        // Where it will run, whatever other views there are.
        let (at, bytes) = (core.memory.span(bytes_of(run)).start, bytes_of(run).len());
        // SAFETY: granules of this value's own in pages that it has open, mapped and initialised.
        icache::fill_with_traps(unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), bytes) });
        Ok(at)
    }

    fn open(&mut self, granules: u32, align: u32) -> Result<Run, Error> {
        let core = Arc::clone(&self.core);
        let page = (core.memory.page_size() / GRANULE) as u32;
        let least = granules.next_multiple_of(page);
        // Twice the last run, for few flips; the first as short as can be, as it then fits where a
        // small module was before.
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
        // SAFETY: whole pages placed for this value alone, so without live code.
        if let Err(error) = unsafe { core.memory.open(bytes_of(run)) } {
            // Some of the pages may be open.
            core.close(&open);
            return Err(error);
        }
        let taken = open.take(granules, 1);
        self.runs.push(open);
        taken.ok_or(Error::ZeroSize)
    }

    /// What is reserved from here on lies in other pages than what was reserved before.
    pub(crate) fn close(&mut self) {
        self.runs.iter_mut().for_each(|open| open.closed = true);
    }

    /// Functions that were not published yet.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Makes all functions executable and adds their blocks to `blocks`, in the order in which they
    /// were reserved; nobody may write to them any more. When this fails they stay what they are,
    /// and it can be tried again.
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
        // The caller's from here on, whatever an observer does.
        // SAFETY: entered and counted just now, for this call alone.
        blocks.extend(entries.iter().map(|entry| unsafe { CodeBlock::new(&core, *entry) }));
        let described = entries.iter().enumerate().map(|(number, entry)| notes.describe(number, *entry));
        // SAFETY: published, and in `blocks`, which stays borrowed until this is done.
        unsafe { core.announce(described) };
        Ok(())
    }

    /// Gives back what was reserved since [`InPlace::publish`] was last called, and leaves the rest
    /// in use for ever, and the arena with it. So what a call of it could not publish stays as it
    /// is.
    pub(crate) fn leak(&mut self) {
        let asked = self.runs.iter().any(|open| open.closed);
        self.runs.retain(|open| !open.closed);
        if asked {
            std::mem::forget(Arc::clone(&self.core));
        }
        self.clear();
    }

    /// Gives everything back that was not published.
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
