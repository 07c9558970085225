//! Publishing: placed granules become live blocks. Single functions and batches share this.
//!
//! A single function is placed, counted and entered in the lookup under one lock of its heap. Then
//! it is written, flushed and synchronised without the lock, and the block is returned. If the
//! system refuses the write, the function is removed again, and is published in pages of its own if
//! the mode opens pages.
//!
//! ```text
//! publish --> place, enter --> fill: write, flush, synchronise --> CodeBlock --> observers
//!    |                            `-- refused --> take out, free --> in pages of its own, or the error
//!    `-- holes are not filled, or it is large --> a batch with one function, in pages of its own
//! ```

use crate::Error;
use crate::arena::batch::open_run::OpenRun;
use crate::arena::batch::{Batch, LONGEST_RUN, STAGED};
use crate::arena::block::CodeBlock;
use crate::arena::code::Code;
use crate::arena::core::{Core, bytes_of};
use crate::arena::events::described::Described;
use crate::arena::handle::Handle;
use crate::arena::lookup::Entry;
use crate::icache;
use crate::space::Run;
use crate::sync::{Arc, Ordering};
use crate::units::GRANULE;

/// The number of blocks that are entered while a heap is locked.
const ENTERED: usize = 64;

impl Core {
    /// Makes blocks live, and frees the rest of their runs. If there is no memory for the tables,
    /// nothing is changed. Pages of staged blocks are noted as resident here.
    pub(in crate::arena) fn enter_all(&self, entries: &[Entry], staged: bool, runs: &[OpenRun]) -> Result<(), Error> {
        let mut done = 0;
        while let Some(first) = entries.get(done) {
            let mut heap = self.heaps.of(first.start);
            let owner = self.heaps.granules().owner_at(first.start);
            let of_heap = |entry: &&Entry| self.heaps.granules().owner_at(entry.start) == owner;
            let count = entries[done..].iter().take(ENTERED).take_while(of_heap).count();
            let piece = &entries[done..done + count];
            if let Err(error) = self.lookup.enter(piece) {
                drop(heap);
                entries[..done].iter().for_each(|entry| self.leave(*entry));
                return Err(error);
            }
            for entry in piece {
                if staged {
                    heap.space.touch(&self.heaps.tables, entry.run());
                }
                heap.publish(entry.run(), entry.len);
            }
            done += count;
        }
        let granules: u32 = entries.iter().map(|entry| entry.run().len()).sum();
        self.note_batch(granules as usize * GRANULE);
        for open in runs {
            let mut heap = self.heaps.of(open.run.start);
            if open.populated || self.poison {
                // With poison the gaps are full of traps.
                heap.space.touch(&self.heaps.tables, open.resident());
            }
            for run in open.used() {
                heap.space.touch(&self.heaps.tables, run);
            }
            for run in open.rest() {
                self.free(&mut heap, run);
            }
        }
        Ok(())
    }

    /// Removes a block from the lookup that nobody got. Its space stays taken.
    fn leave(&self, entry: Entry) {
        let mut heap = self.heaps.of(entry.start);
        self.lookup.take_out(entry.run());
        heap.unpublish(entry.run(), entry.len);
    }

    /// Notes the size of a batch, for the next one.
    fn note_batch(&self, bytes: usize) {
        let bytes = bytes.min(LONGEST_RUN) as u64;
        let recent = self.recent.load(Ordering::Relaxed);
        self.recent.store(recent << 32 | bytes, Ordering::Relaxed);
    }

    /// Publishes one function.
    pub(in crate::arena) fn publish(handle: &Arc<Handle>, code: Code<'_>) -> Result<CodeBlock, Error> {
        let core: &Core = handle;
        let refused_before = !core.memory.fills_holes();
        let in_hole = !refused_before || core.memory.may_fill_hole();
        if core.memory.opens_pages() && (code.bytes.len() > STAGED || !in_hole) {
            match Self::publish_in_pages(handle, code) {
                // There is no run of whole pages, or the system is at its limit of mappings. Holes
                // may still be possible, even if they could not be filled the last time.
                Err(Error::ArenaFull { .. } | Error::OperatingSystem { .. }) if core.memory.filled_holes() => {}
                published => return published,
            }
        }
        core.memory.check_own("publish")?;
        let (granules, align) = (core.granules(code.bytes.len())?, core.align(code.align)?);
        let len = code.bytes.len() as u32;
        let placed = core.place(granules, align, |heap, run| {
            let entry = Entry::new(run.start, len, code.tag);
            core.lookup.enter_one(entry)?;
            core.prefault(heap, run);
            heap.space.touch(&core.heaps.tables, run);
            heap.publish(run, len);
            Ok(entry)
        });
        let entry = match placed {
            // Its page could not be filled with traps. The function takes pages of its own, as
            // below.
            Err(error @ Error::OperatingSystem { .. }) if core.memory.bars() && core.memory.opens_pages() => {
                return Self::publish_instead(handle, code, error, refused_before);
            }
            placed => placed?,
        };
        if let Err(error) = core.fill(entry.run(), code.bytes) {
            if core.poison {
                core.give_up([entry.run()]);
            }
            let mut heap = core.heaps.of(entry.start);
            core.lookup.take_out(entry.run());
            heap.unpublish(entry.run(), len);
            core.free(&mut heap, entry.run());
            drop(heap);
            return match error {
                // The system allowed the write when the arena was built, and there is another way.
                Error::OperatingSystem { .. } if core.memory.opens_pages() => {
                    Self::publish_instead(handle, code, error, refused_before)
                }
                error => Err(error),
            };
        }
        // SAFETY: entered and counted just now, for this call alone.
        let block = unsafe { CodeBlock::new(handle, entry) };
        let described = Described { entry, name: code.name, unwind: code.unwind };
        // SAFETY: published. The block is returned or dropped after this.
        unsafe { core.announce_one(described) };
        Ok(block)
    }

    /// Publishes a function in pages of its own, because the system refused a write to a hole.
    #[cold]
    fn publish_instead(
        handle: &Arc<Handle>,
        code: Code<'_>,
        refused: Error,
        refused_before: bool,
    ) -> Result<CodeBlock, Error> {
        // There may be space, but no whole pages. Then the refusal is the error. If the refusal was
        // known before, the lack of pages is the error, because the caller can make room for them.
        Self::publish_in_pages(handle, code).map_err(|other| match other {
            Error::ArenaFull { .. } if !refused_before => refused,
            other => other,
        })
    }

    /// Publishes one function in pages of its own.
    #[cold]
    fn publish_in_pages(handle: &Arc<Handle>, code: Code<'_>) -> Result<CodeBlock, Error> {
        let mut batch = Batch::in_pages(Arc::clone(handle));
        batch.push(code)?;
        batch.publish()?.pop().ok_or(Error::ZeroSize)
    }

    /// Writes a function to granules that were placed for it.
    fn fill(&self, run: Run, code: &[u8]) -> Result<(), Error> {
        let at = bytes_of(run);
        let padding = icache::padding_of(code.len());
        // SAFETY: the granules were placed for this call alone and are not published yet.
        unsafe { self.memory.fill(at.start, code, padding)? };
        self.memory.flush(at)?;
        self.memory.sync_cores()
    }
}
