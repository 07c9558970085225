//! Finding space for a function of a batch, and a place for its bytes until the batch is published.
//!
//! ```text
//! space left in the open run? ---------- yes --> Run
//! the mode stores to a second view? ---- yes --> View
//! the kernel can write, few bytes? ----- yes --> Staged
//! else open another run ---- possible ---------> Run
//!                       `--- impossible -------> Staged, if holes can be filled; else the error
//! ```
//!
//! A run is as long as the last two batches let expect, and each further run is twice as long as
//! the one before, up to [`LONGEST_RUN`].

use super::pieces::Source;
use super::{Batch, LONGEST_RUN, STAGED, open_run::OpenRun};
use crate::Error;
use crate::arena::core::bytes_of;
use crate::icache;
use crate::modes::WayIn;
use crate::space::Run;
use crate::units::{GRANULE, MAX_ALIGN};

impl Batch {
    pub(super) fn find(&mut self, granules: u32, align: u32) -> Result<(Run, Source), Error> {
        if let Some(run) = self.runs.last_mut().and_then(|open| open.take(granules, align)) {
            return Ok((run, Source::Run));
        }
        let memory = &self.core.memory;
        if memory.rules().way_in == WayIn::Stores {
            let run = self.place(granules, align)?;
            self.core.memory.back(bytes_of(run)).inspect_err(|_| self.core.release([run]))?;
            return Ok((run, Source::View));
        }
        let staged = self.staging.len() + granules as usize * GRANULE;
        let few = self.no_pages || self.expected.max(staged) <= STAGED;
        if !memory.opens_pages() || !self.in_pages && few && memory.fills_holes() {
            return self.stage(granules, align);
        }
        if !self.in_pages && few && memory.may_fill_hole() {
            if let Ok(placed) = self.stage_tried(granules, align) {
                return Ok(placed);
            }
        }
        match self.open(granules, align) {
            // There is no run of whole pages, or the system is at its limit of mappings. Holes may
            // still be possible.
            Err(error @ (Error::ArenaFull { .. } | Error::OperatingSystem { .. }))
                if self.core.memory.filled_holes() && !self.in_pages =>
            {
                let no_pages = matches!(error, Error::ArenaFull { .. });
                if self.core.memory.fills_holes() {
                    self.no_pages = no_pages;
                    return self.stage(granules, align);
                }
                // The reason why holes could not be filled may have passed. If not, the arena lacks
                // whole pages, and the caller can make room for them.
                let placed = self.stage_tried(granules, align).map_err(|_| error)?;
                self.no_pages = no_pages;
                Ok(placed)
            }
            opened => Ok((opened?, Source::Run)),
        }
    }

    /// Takes granules for this batch, in pages that will hold memory.
    fn place(&self, granules: u32, align: u32) -> Result<Run, Error> {
        self.core.place(granules, align, |heap, run| {
            heap.space.touch(&self.core.heaps.tables, run);
            Ok(run)
        })
    }

    /// Writes code to its place at once.
    pub(super) fn write(&mut self, granules: u32, align: u32, code: &[u8]) -> Result<(Run, Source), Error> {
        let run = self.place(granules, align)?;
        let padding = icache::padding_of(code.len());
        // SAFETY: the granules were placed for this batch alone and are not published yet.
        match unsafe { self.core.memory.fill(bytes_of(run).start, code, padding) } {
            Ok(()) => Ok((run, Source::Written)),
            Err(error) => {
                self.core.release([run]);
                Err(error)
            }
        }
    }

    fn stage(&mut self, granules: u32, align: u32) -> Result<(Run, Source), Error> {
        let (at, len) = (self.staging.len(), granules as usize * GRANULE);
        self.staging.try_reserve(len).map_err(|_| Error::out_of_memory())?;
        // Its pages hold memory only after the staged bytes are written.
        let run = self.core.place(granules, align, |_, run| Ok(run))?;
        self.staging.resize(at + len, 0);
        Ok((run, Source::Staged(at as u32)))
    }

    /// Stages a function as [`Batch::stage`] does, if a write to its place succeeds now. Otherwise
    /// a batch that is refused would find out when it is published, after its addresses were given
    /// out.
    #[cold]
    fn stage_tried(&mut self, granules: u32, align: u32) -> Result<(Run, Source), Error> {
        let staged = self.staging.len();
        let (run, source) = self.stage(granules, align)?;
        // SAFETY: the granules were placed for this batch alone and are not published yet.
        match unsafe { self.core.memory.write(bytes_of(run).start, &icache::TRAPS) } {
            Ok(()) => {
                // From here on its page holds memory, whether or not the batch is published.
                self.core.note_resident(Run::new(run.start, 1));
                Ok((run, source))
            }
            Err(refused) => {
                self.staging.truncate(staged);
                self.core.release([run]);
                Err(refused)
            }
        }
    }

    /// Opens another run and takes granules from it.
    fn open(&mut self, granules: u32, align: u32) -> Result<Run, Error> {
        let page = (self.core.memory.page_size() / GRANULE) as u32;
        let least = granules.next_multiple_of(page);
        // Twice the last run: few protection changes for many functions, and few unused pages for
        // few functions.
        let ahead = match self.runs.last() {
            Some(last) => 2 * last.run.len() as usize,
            // A little more than expected, because a few unused pages cost less than a second run.
            None if !self.single => (self.expected + self.expected / 32).max(STAGED) / GRANULE,
            None => 0,
        };
        let ahead = (ahead.min(LONGEST_RUN / GRANULE) as u32).next_multiple_of(page);
        let huge = (MAX_ALIGN / GRANULE) as u32;
        // The pages that hold memory are noted when the batch is published.
        let place = |len: u32| {
            self.core.place_pages(len, align.max(page), |_, run| {
                let granules = self.core.heaps.granules();
                let resident = granules.all_resident(Run::new(run.start, page));
                Ok((run, resident, granules.is_free(run.end, run.end + 2 * huge)))
            })
        };
        let placed = match place(least.max(ahead)) {
            Err(Error::ArenaFull { .. }) if ahead > least => place(least),
            placed => placed,
        };
        let run = match placed {
            // Earlier runs may have space that was too small for the functions that came after it.
            Err(full) => {
                let rest = self.runs.iter_mut().rev().find_map(|open| open.take(granules, align));
                return rest.ok_or(full.of_asked(granules as usize * GRANULE));
            }
            Ok(placed) => placed,
        };
        let (mut run, resident, wide) = run;
        let fresh = !resident && self.runs.is_empty() && self.expected > 0;
        if fresh && wide && self.core.memory.wants_huge_pages() && bytes_of(run).len() < MAX_ALIGN {
            // On fresh memory the batch takes a whole huge page, if there is one. The next batches
            // use the rest of it, and the space before it. A huge page is begun only where there is
            // much free space.
            if let Ok(whole) = self.core.place_pages(huge, huge, |_, run| Ok(run)) {
                self.core.release([std::mem::replace(&mut run, whole)]);
            }
        }
        let mut open = OpenRun::new(run);
        open.populated = self.core.memory.commits();
        // SAFETY: whole pages placed for this batch alone, so they contain no live code.
        if let Err(error) = unsafe { self.core.memory.open(bytes_of(run)) } {
            // Some of the pages may be open.
            self.core.close(&open);
            return Err(error);
        }
        if fresh && !self.core.memory.bars() {
            // One call instead of a page fault for each page.
            open.populated |= self.core.memory.populate(bytes_of(run));
        }
        let taken = open.take(granules, 1);
        self.runs.push(open);
        taken.ok_or(Error::ZeroSize)
    }
}
