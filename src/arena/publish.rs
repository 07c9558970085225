//! From placed granules to live blocks: what single functions and batches share.

use super::announce::Described;
use super::batch::{Batch, LONGEST_RUN, STAGED};
use super::block::{CodeBlock, Lease};
use super::code::Code;
use super::core::{Core, bytes_of};
use super::lookup::Entry;
use super::open_run::OpenRun;
use super::tally::Tally;
use crate::Error;
use crate::icache;
use crate::space::Run;
use crate::sync::{Arc, Ordering};
use crate::units::{GRANULE, align_granules};

/// Granules of a stretch: 16 KiB.
const STRETCH: u32 = 1024;

impl Core {
    /// The blocks are live, and what their runs have left is free; or, if the tables for that cannot be had, nothing has
    /// changed.
    pub(super) fn settle(&self, entries: &mut [Entry], runs: &[OpenRun]) -> Result<(), Error> {
        self.lookup.enter_all(entries)?;
        let mut live = Tally::default();
        entries.iter().for_each(|entry| live.publish(entry.run(), entry.len));
        self.note_batch(live.granules() * GRANULE);
        let mut books = self.books();
        books.live.merge(live);
        for open in runs {
            if open.populated {
                books.pages.touch(open.run);
            }
            for run in open.used() {
                self.lookup.occupy_all(run);
                books.pages.touch(run);
            }
            open.rest().for_each(|run| self.give_back(&mut books, run));
        }
        Ok(())
    }

    /// Remembers how large a batch was, for the next one.
    fn note_batch(&self, bytes: usize) {
        let bytes = bytes.min(LONGEST_RUN) as u64;
        let recent = self.recent.load(Ordering::Relaxed);
        self.recent.store(recent << 32 | bytes, Ordering::Relaxed);
    }

    /// Makes pages that hold nothing published executable again and gives them back, or keeps them until that works.
    pub(super) fn close(&self, open: &OpenRun) {
        // SAFETY: the pages belong to a batch that writes no more; nothing in them was published.
        let sealed = open.sealed || unsafe { self.memory.seal(bytes_of(open.run)) }.is_ok();
        // What was written holds memory, published or not: a trim has to find it.
        if open.resident().len() > 0 {
            self.note_resident(open.resident());
        }
        if sealed {
            self.release([open.run]);
        } else {
            self.strand(open.run);
        }
    }

    /// Publishes one function, whose block belongs to `lease`.
    pub(super) fn publish(lease: &Arc<Lease>, code: Code<'_>) -> Result<CodeBlock, Error> {
        let core = lease.core();
        if core.memory.rules().opens_pages && (code.bytes.len() > STAGED || !core.memory.rules().fills_holes) {
            let mut batch = Batch::single(Arc::clone(lease));
            batch.push(code)?;
            return batch.publish()?.pop().ok_or(Error::ZeroSize);
        }
        core.memory.check_own("publish")?;
        let (granules, align) = (core.granules(code.bytes.len())?, align_granules(code.align)?);
        let len = code.bytes.len() as u32;
        let run = core.place_block(granules, align, len)?;
        // All that locks the bus goes before the bytes, so that nothing has to wait until they have left for memory.
        let entered = core.lookup.enter(run.start, len, code.tag).and_then(|entry| {
            let block = Arc::clone(lease);
            core.fill(run, code.bytes).map(|()| CodeBlock::new(block, entry)).inspect_err(|_| core.lookup.remove(entry))
        });
        match entered {
            Ok(block) => {
                let described = Described { entry: block.entry(), name: code.name, unwind: code.unwind };
                // SAFETY: published, and returned or dropped behind this.
                unsafe { core.announce_one(described) };
                Ok(block)
            }
            Err(error) => {
                let mut books = core.books();
                books.live.unpublish(run, len);
                core.give_back(&mut books, run);
                Err(error)
            }
        }
    }

    /// Space for a block of `len` bytes, counted as live.
    fn place_block(&self, granules: u32, align: u32, len: u32) -> Result<Run, Error> {
        let shelves = self.shelves.as_ref().filter(|_| align == 1);
        if let Some(run) = shelves.and_then(|shelves| shelves.take(granules, len, |rest| self.stretch(rest, granules)))
        {
            return Ok(run);
        }
        self.place(granules, align, |books, run| {
            books.live.publish(run, len);
            books.pages.touch(run);
            run
        })
    }

    /// A new stretch for a shelf, of `least` granules or more; what is left of the last one is free again.
    ///
    /// As long as little of the resident memory is free, a stretch is cut where there is most room. Otherwise the space
    /// asked for is taken from the tightest hole, so that holes fill up again and little memory is ever needed.
    fn stretch(&self, rest: Run, least: u32) -> Option<Run> {
        let mut books = self.books();
        if rest.len() > 0 {
            self.give_back(&mut books, rest);
        }
        let resident = books.pages.resident() as u32 * books.pages.granules();
        let taken = books.space.granules() - books.space.free_granules();
        let sparse = resident.saturating_sub(taken) > resident / 16;
        let wide = if sparse { None } else { books.space.alloc(STRETCH, 1) };
        let run = wide.or_else(|| books.space.alloc(least, 1))?;
        self.lookup.occupy_all(run);
        books.pages.touch(run);
        Some(run)
    }

    /// Writes a function to granules placed for it.
    fn fill(&self, run: Run, code: &[u8]) -> Result<(), Error> {
        let at = bytes_of(run);
        // SAFETY: granules placed for this call alone, not published yet.
        unsafe { self.memory.write(at.start, code)? };
        // Elsewhere another write costs more than it is worth.
        if self.memory.rules().writes_cheaply {
            let padding = &icache::TRAPS[(code.len() - 1) % GRANULE + 1..];
            // SAFETY: the rest of the last of these granules.
            unsafe { self.memory.write(at.start + code.len(), padding)? };
        }
        self.memory.flush(at);
        self.memory.sync_cores()
    }
}
