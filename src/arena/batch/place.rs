//! Where a function of a batch goes, and where its bytes are until then: in open pages, staged, or
//! in their place at once.

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
            // No room for whole pages, or the system is at its limit of mappings: holes may still
            // do.
            Err(error @ (Error::ArenaFull { .. } | Error::OperatingSystem { .. }))
                if self.core.memory.filled_holes() && !self.in_pages =>
            {
                let no_pages = matches!(error, Error::ArenaFull { .. });
                if self.core.memory.fills_holes() {
                    self.no_pages = no_pages;
                    return self.stage(granules, align);
                }
                // What refused to fill them may have passed. If not, pages are what is missing, and
                // room for them may be made.
                let placed = self.stage_tried(granules, align).map_err(|_| error)?;
                self.no_pages = no_pages;
                Ok(placed)
            }
            opened => Ok((opened?, Source::Run)),
        }
    }

    /// Granules of this batch's own, in pages that will hold memory.
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
        // SAFETY: granules placed for this batch alone, not published yet.
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
        // Its pages hold memory once it is written.
        let run = self.core.place(granules, align, |_, run| Ok(run))?;
        self.staging.resize(at + len, 0);
        Ok((run, Source::Staged(at as u32)))
    }

    /// As [`Batch::stage`], if a write to that place is not refused now. Where it was refused
    /// before, a batch would learn of it when it is published, and its addresses would be known by
    /// then.
    #[cold]
    fn stage_tried(&mut self, granules: u32, align: u32) -> Result<(Run, Source), Error> {
        let staged = self.staging.len();
        let (run, source) = self.stage(granules, align)?;
        // SAFETY: granules placed for this batch alone, not published yet.
        match unsafe { self.core.memory.write(bytes_of(run).start, &icache::TRAPS) } {
            Ok(()) => {
                // Its page holds memory from here on, whatever becomes of the batch.
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
        // Twice the last run: few flips for many functions, little opened in vain for few.
        let ahead = match self.runs.last() {
            Some(last) => 2 * last.run.len() as usize,
            // A little more than expected: it is opened for nothing, but a second run would be
            // dearer.
            None if !self.single => (self.expected + self.expected / 32).max(STAGED) / GRANULE,
            None => 0,
        };
        let ahead = (ahead.min(LONGEST_RUN / GRANULE) as u32).next_multiple_of(page);
        let huge = (MAX_ALIGN / GRANULE) as u32;
        // Which of the pages come to hold memory is known when the batch is published.
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
            // Earlier runs may have room left that was too small for what came then.
            Err(full) => {
                let rest = self.runs.iter_mut().rev().find_map(|open| open.take(granules, align));
                return rest.ok_or(full.of_asked(granules as usize * GRANULE));
            }
            Ok(placed) => placed,
        };
        let (mut run, resident, wide) = run;
        let fresh = !resident && self.runs.is_empty() && self.expected > 0;
        if fresh && wide && self.core.memory.wants_huge_pages() && bytes_of(run).len() < MAX_ALIGN {
            // On fresh memory a whole huge page, if one can be had; what this batch leaves of it
            // serves the next ones, and so does what lies before it: only where there is much room
            // is a huge page begun.
            if let Ok(whole) = self.core.place_pages(huge, huge, |_, run| Ok(run)) {
                self.core.release([std::mem::replace(&mut run, whole)]);
            }
        }
        let mut open = OpenRun::new(run);
        open.populated = self.core.memory.commits();
        // SAFETY: whole pages placed for this batch alone, so without live code.
        if let Err(error) = unsafe { self.core.memory.open(bytes_of(run)) } {
            // Some of the pages may be open.
            self.core.close(&open);
            return Err(error);
        }
        if fresh && !self.core.memory.bars() {
            // One call, where each page would take a fault of its own.
            open.populated |= self.core.memory.populate(bytes_of(run));
        }
        let taken = open.take(granules, 1);
        self.runs.push(open);
        taken.ok_or(Error::ZeroSize)
    }
}
