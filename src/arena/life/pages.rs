//! Whole pages that become executable, and stop being so: the pages that batches open, and with
//! poison the pages that hold no memory.
//!
//! With poison a page without memory is *barred* (not executable), if the memory supports that (see
//! `modes/bars.rs`). There are two ways to make it executable:
//!
//! ```text
//!                 place granules in it: fill with traps, unbar (heap locked)
//! barred page  ----------------------------------------------------------------> executable, resident
//!     |                                                                              ^
//!     `--- open: rw-, not executable --- seal: pages that were written to -----------'
//!                                   `--- seal: other pages are barred again
//! ```
//!
//! A thread that places granules in a barred page fills it with traps and makes it executable under
//! the heap's lock, so that nobody else places anything there before. A thread that opens pages
//! makes those of them executable that were written to, each full of code and traps, and bars the
//! others again.

use crate::Error;
use crate::arena::batch::open_run::OpenRun;
use crate::arena::core::{Core, bytes_of};
use crate::arena::heaps::State;
use crate::icache;
use crate::space::Run;
use crate::units::GRANULE;

impl Core {
    /// Makes sure that granules that were just placed lie in executable pages.
    #[inline]
    pub(super) fn unbar(&self, heap: &mut State, run: Run) -> Result<(), Error> {
        if !self.memory.bars() || self.heaps.granules().all_resident(run) {
            return Ok(());
        }
        for piece in self.barred(self.whole_pages(run)) {
            self.fill_barred(piece)?;
            heap.space.touch(&self.heaps.tables, piece);
        }
        Ok(())
    }

    /// Returns the first of whole pages that holds no memory.
    pub(super) fn first_barred(&self, pages: Run) -> Option<Run> {
        let first = self.barred(pages).into_iter().next();
        first.map(|barred| Run::new(barred.start, self.page()))
    }

    /// Fills barred pages with traps and makes them executable. They hold memory then.
    pub(super) fn fill_barred(&self, pages: Run) -> Result<(), Error> {
        // SAFETY: pages without memory contain no code. The caller owns them, or the heap is
        // locked.
        unsafe { self.memory.fill_with_traps(bytes_of(pages))? };
        // SAFETY: as above. They were filled.
        unsafe { self.memory.unbar(bytes_of(pages)) }
    }

    /// Unbars all free pages of a range as [`Core::fill_barred`] does, so that all of its pages are
    /// executable. Returns whether they are now. They are not if a batch has some of them open.
    pub(super) fn unbar_range(&self, range: Run) -> Result<bool, Error> {
        let granules = self.heaps.granules();
        // Locked, so that nobody places anything there meanwhile.
        let mut all = self.heaps.all();
        let pieces = self.barred(range);
        if pieces.iter().any(|piece| !granules.is_free(piece.start, piece.end)) {
            return Ok(false);
        }
        for piece in pieces {
            self.fill_barred(piece)?;
            all.touch(&self.heaps.tables, piece);
        }
        Ok(true)
    }

    /// Makes those pages executable again that hold memory. Returns whether that succeeded.
    pub(super) fn unbar_resident(&self, pages: Run) -> bool {
        self.pieces(pages, pages.start).into_iter().filter(|(_, resident)| *resident).all(|(piece, _)| {
            // SAFETY: taken pages that are full of traps and contain no block.
            unsafe { self.memory.unbar(bytes_of(piece)) }.is_ok()
        })
    }

    /// Returns the pages of a run.
    fn whole_pages(&self, run: Run) -> Run {
        let page = self.page();
        Run { start: run.start / page * page, end: run.end.next_multiple_of(page) }
    }

    /// Returns the parts of whole pages that hold no memory.
    fn barred(&self, pages: Run) -> Vec<Run> {
        let pieces = self.pieces(pages, pages.start).into_iter();
        pieces.filter(|(_, resident)| !resident).map(|(piece, _)| piece).collect()
    }

    /// Divides whole pages into parts that hold memory and parts that do not. Pages before
    /// `written` do.
    fn pieces(&self, pages: Run, written: u32) -> Vec<(Run, bool)> {
        let (granules, page) = (self.heaps.granules(), self.page());
        let mut pieces: Vec<(Run, bool)> = Vec::new();
        for at in (pages.start..pages.end).step_by(page as usize) {
            let resident = at < written || granules.all_resident(Run::new(at, page));
            match pieces.last_mut() {
                Some((last, like)) if *like == resident => last.end = at + page,
                _ => pieces.push((Run::new(at, page), resident)),
            }
        }
        pieces
    }

    /// Makes the pages of a run executable when it is published. It can be called again after an
    /// error.
    pub(in crate::arena) fn seal_run(&self, open: &mut OpenRun) -> Result<(), Error> {
        if open.lost {
            let why = "the system refused it before, and the code was lost: publish it anew";
            return Err(Error::unsupported("making code executable", why));
        }
        // After a refusal some of them may already be executable.
        if self.poison && !open.tried {
            self.fill_rest(open);
        }
        open.tried = true;
        // SAFETY: opened by the caller, who does not write any more.
        unsafe { self.seal(open.run, open.written()) }.inspect_err(|_| {
            // Other pages may have replaced them, without the code.
            open.lost = self.memory.filled_holes() && !self.memory.opens_pages();
        })?;
        open.sealed = true;
        Ok(())
    }

    /// Makes opened pages executable. Their first `written` bytes have to stay as they are. If
    /// pages are barred at all, those that hold no memory are barred.
    ///
    /// # Safety
    /// - The caller opened these whole pages and owns them. Nobody writes to them any more.
    pub(super) unsafe fn seal(&self, run: Run, written: usize) -> Result<(), Error> {
        if !self.memory.bars() {
            // SAFETY: passed on to the caller.
            return unsafe { self.memory.seal(bytes_of(run), written) };
        }
        for (piece, filled) in self.pieces(run, run.start + (written / GRANULE) as u32) {
            let bytes = bytes_of(piece);
            if filled {
                // SAFETY: passed on to the caller.
                unsafe { self.memory.seal(bytes.clone(), bytes.len())? };
            } else {
                // SAFETY: passed on to the caller. A page without memory has no content.
                unsafe { self.memory.bar_opened(bytes)? };
            }
        }
        Ok(())
    }

    /// Fills granules that no function took with traps, in pages that are about to become
    /// executable.
    fn fill_rest(&self, open: &OpenRun) {
        let end = self.whole_pages(open.resident()).end;
        let behind = Run { start: end, end: open.run.end };
        let unused = open.rest().map(|rest| Run { start: rest.start, end: rest.end.min(end) });
        // If dropped code is not overwritten, it may be in pages that are not used this time.
        let old = if self.memory.fills_holes() { Vec::new() } else { self.pieces(behind, end) };
        let old = old.into_iter().filter(|(_, resident)| *resident).map(|(piece, _)| piece);
        unused.chain(old).for_each(|run| self.fill_opened(run));
    }

    /// Fills granules of pages that the caller has open with traps, if there are any.
    pub(in crate::arena) fn fill_opened(&self, run: Run) {
        if run.start >= run.end {
            return;
        }
        let (at, bytes) = (self.memory.span(bytes_of(run)).start, bytes_of(run));
        // SAFETY: granules that the caller owns, in pages that are open, mapped and initialised.
        // The caller holds no reference to them.
        icache::fill_with_traps(unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), bytes.len()) });
        // After a failed flush another core may see other traps, or the old content.
        let _ = self.memory.flush(bytes);
    }

    /// Makes pages without published code executable again and frees them. If that fails, it keeps
    /// them until it succeeds. Written bytes are overwritten with traps if the pages are open or
    /// can be opened, because their addresses may be known.
    pub(in crate::arena) fn close(&self, open: &OpenRun) {
        let written = Run { start: open.run.start, end: open.run.start + (open.written() / GRANULE) as u32 };
        let mut sealed = open.sealed;
        if written.len() > 0 {
            let pages = self.whole_pages(written);
            let is_open = !open.tried || {
                sealed = false;
                // SAFETY: the pages belong to a batch that does not write any more. Nothing in them
                // was published.
                unsafe { self.memory.open(bytes_of(pages)) }.is_ok()
            };
            if is_open {
                self.fill_opened(pages);
            }
        }
        // Zeros may have replaced the content.
        let lost = open.lost && self.memory.bars();
        if lost {
            self.heaps.of(open.run.start).space.gone(&self.heaps.tables, open.run);
        }
        // SAFETY: as above.
        let sealed = sealed || unsafe { self.seal(open.run, if lost { 0 } else { open.written() }) }.is_ok();
        // Written pages hold memory, published or not, and a trim has to find them.
        if open.resident().len() > 0 && !lost {
            self.note_resident(open.resident());
        }
        if sealed {
            self.release([open.run]);
        } else {
            self.keep_stuck(open.run);
        }
    }

    /// Overwrites granules that were written and are not published, as far as the system allows it,
    /// because their addresses may be known.
    pub(in crate::arena) fn give_up(&self, runs: impl IntoIterator<Item = Run>) {
        let mut any = false;
        for run in runs {
            // SAFETY: placed for the caller alone, who publishes nothing there and does not write
            // any more.
            let _ = unsafe { self.memory.fill_with_traps(bytes_of(run)) };
            any = true;
        }
        if any {
            let _ = self.memory.sync_cores();
        }
    }
}
