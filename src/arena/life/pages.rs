//! Pages on their way to being executable and back: those that batches open, and with poison those
//! that hold no memory.
//!
//! With poison a page that holds no memory is *barred*, not executable, where the memory can do
//! that (see `modes/bars.rs`). Two ways lead from there. Whoever places granules in such a page
//! fills it with traps and makes it executable, under the heap's lock, so that nobody else places
//! anything there before. And whoever opens pages makes those of them executable that were written
//! to, each of them full of code and traps, and bars the others again.

use crate::Error;
use crate::arena::batch::open_run::OpenRun;
use crate::arena::core::{Core, bytes_of};
use crate::arena::heaps::State;
use crate::icache;
use crate::space::Run;
use crate::units::GRANULE;

impl Core {
    /// Sees to it that granules placed just now lie in executable pages.
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

    /// The first of whole pages that holds no memory.
    pub(super) fn first_barred(&self, pages: Run) -> Option<Run> {
        let first = self.barred(pages).into_iter().next();
        first.map(|barred| Run::new(barred.start, self.page()))
    }

    /// Fills barred pages with traps and makes them executable. They hold memory then.
    pub(super) fn fill_barred(&self, pages: Run) -> Result<(), Error> {
        // SAFETY: pages that hold no memory hold no code; they are the caller's, or the heap is
        // locked.
        unsafe { self.memory.fill_with_traps(bytes_of(pages))? };
        // SAFETY: as above, and they were filled.
        unsafe { self.memory.unbar(bytes_of(pages)) }
    }

    /// As [`Core::unbar`] for all free pages of a stretch, so that it is alike throughout. Returns
    /// whether it is now: not where a batch has pages open.
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

    /// Makes those pages executable again that hold memory; returns whether it could.
    pub(super) fn unbar_resident(&self, pages: Run) -> bool {
        self.pieces(pages, pages.start).into_iter().filter(|(_, resident)| *resident).all(|(piece, _)| {
            // SAFETY: taken pages that hold traps, and no block.
            unsafe { self.memory.unbar(bytes_of(piece)) }.is_ok()
        })
    }

    /// The pages that a run lies in.
    fn whole_pages(&self, run: Run) -> Run {
        let page = self.page();
        Run { start: run.start / page * page, end: run.end.next_multiple_of(page) }
    }

    /// Those of whole pages that hold no memory.
    fn barred(&self, pages: Run) -> Vec<Run> {
        let pieces = self.pieces(pages, pages.start).into_iter();
        pieces.filter(|(_, resident)| !resident).map(|(piece, _)| piece).collect()
    }

    /// Cuts whole pages where it changes whether they hold memory; those before `written` do.
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

    /// Makes the pages of a run executable as it is published. When this fails it can be tried
    /// again.
    pub(in crate::arena) fn seal_run(&self, open: &mut OpenRun) -> Result<(), Error> {
        if open.lost {
            let why = "the system refused it before, and what stood there is gone";
            return Err(Error::unsupported("making code executable", why));
        }
        // After a refusal some of them may be executable already.
        if self.poison && !open.tried {
            self.line(open);
        }
        open.tried = true;
        // SAFETY: opened by the caller, who writes no more.
        unsafe { self.seal(open.run, open.written()) }.inspect_err(|_| {
            // Other pages may have taken their place, without the code.
            open.lost = self.memory.filled_holes() && !self.memory.opens_pages();
        })?;
        open.sealed = true;
        Ok(())
    }

    /// Makes opened pages executable, of which the first `written` bytes are to stay as they are.
    /// Those that hold no memory are barred, if pages are.
    ///
    /// # Safety
    /// - The pages are the caller's, whole and opened, and nobody writes to them any more.
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
                // SAFETY: passed on to the caller; what holds no memory holds nothing.
                unsafe { self.memory.bar_opened(bytes)? };
            }
        }
        Ok(())
    }

    /// Fills with traps what no function took of pages that are about to become executable.
    fn line(&self, open: &OpenRun) {
        let end = self.whole_pages(open.resident()).end;
        let behind = Run { start: end, end: open.run.end };
        let unused = open.rest().map(|rest| Run { start: rest.start, end: rest.end.min(end) });
        // Where dropped code is not overwritten, it may be in pages that are not used this time.
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
        // SAFETY: granules of the caller's, in pages that are open, mapped and initialised; it
        // holds no reference to them.
        icache::fill_with_traps(unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), bytes.len()) });
        // Else other traps may be seen there, or what was there before.
        let _ = self.memory.flush(bytes);
    }

    /// Makes pages that hold nothing published executable again and gives them back, or keeps them
    /// until that works. What was written there is overwritten with traps, as its addresses may be
    /// known, if the pages are open or can be opened.
    pub(in crate::arena) fn close(&self, open: &OpenRun) {
        let written = Run { start: open.run.start, end: open.run.start + (open.written() / GRANULE) as u32 };
        let mut sealed = open.sealed;
        if written.len() > 0 {
            let pages = self.whole_pages(written);
            let is_open = !open.tried || {
                sealed = false;
                // SAFETY: the pages belong to a batch that writes no more; nothing in them was
                // published.
                unsafe { self.memory.open(bytes_of(pages)) }.is_ok()
            };
            if is_open {
                self.fill_opened(pages);
            }
        }
        // Zeros may have taken the place of what stood there.
        let lost = open.lost && self.memory.bars();
        if lost {
            self.heaps.of(open.run.start).space.gone(&self.heaps.tables, open.run);
        }
        // SAFETY: as above.
        let sealed = sealed || unsafe { self.seal(open.run, if lost { 0 } else { open.written() }) }.is_ok();
        // What was written holds memory, published or not: a trim has to find it.
        if open.resident().len() > 0 && !lost {
            self.note_resident(open.resident());
        }
        if sealed {
            self.release([open.run]);
        } else {
            self.keep_stuck(open.run);
        }
    }

    /// Overwrites what was written to granules and is not published, as far as the system lets:
    /// their addresses may be known.
    pub(in crate::arena) fn give_up(&self, runs: impl IntoIterator<Item = Run>) {
        let mut any = false;
        for run in runs {
            // SAFETY: placed for the caller alone, who publishes nothing there and writes no more.
            let _ = unsafe { self.memory.fill_with_traps(bytes_of(run)) };
            any = true;
        }
        if any {
            let _ = self.memory.sync_cores();
        }
    }
}
