//! From placed granules to live blocks: what single functions and batches share.

use super::batch::{Batch, Home, Item, STAGED};
use super::block::CodeBlock;
use super::code::Code;
use super::core::{Core, bytes_of, run_of};
use super::lookup::Entry;
use super::open_run::OpenRun;
use crate::Error;
use crate::icache;
use crate::region::Region;
use crate::space::Run;
use crate::sync::Arc;
use crate::units::{GRANULE, align_granules};

impl Core {
    /// The items are live, and what their runs have left is free; or, if the tables for that cannot be had, nothing has
    /// changed.
    pub(super) fn settle(&self, items: &[Item], runs: &[OpenRun]) -> Result<Vec<Entry>, Error> {
        let mut entries: Vec<Entry> = Vec::with_capacity(items.len());
        let mut books = self.books();
        for item in items {
            match self.lookup.enter(item.run.start, item.len, item.tag) {
                Ok(entry) => entries.push(entry),
                Err(error) => {
                    entries.into_iter().for_each(|entry| self.lookup.remove(entry));
                    return Err(error);
                }
            }
        }
        for item in items {
            books.live.add(item.run, item.len);
        }
        for run in runs.iter().flat_map(OpenRun::rest) {
            self.give_back(&mut books, run);
        }
        for item in items.iter().filter(|item| item.home == Home::Run) {
            self.lookup.occupy(item.run);
            books.pages.touch(item.run);
        }
        Ok(entries)
    }

    /// Tells the observer of a block.
    pub(super) fn announce(&self, entry: Entry, name: Option<&str>) {
        if let Some(observer) = &self.observer {
            observer.published(&self.info(entry), name);
        }
    }

    /// Makes pages that hold nothing published executable again and gives them back, or keeps them until that works.
    pub(super) fn close(&self, open: &OpenRun) {
        // SAFETY: the pages belong to a batch that writes no more; nothing in them was published.
        if open.sealed || unsafe { self.region.seal(bytes_of(open.run)) }.is_ok() {
            self.release([open.run]);
        } else {
            self.strand(open.run);
        }
    }

    /// Publishes one function.
    pub(super) fn publish(self: &Arc<Self>, code: Code<'_>) -> Result<CodeBlock, Error> {
        let private = !self.region.is_dual();
        if private && (code.bytes.len() > STAGED || !self.region.fills_holes()) {
            let mut batch = Batch::new(Arc::clone(self));
            batch.push(code)?;
            return batch.publish()?.pop().ok_or(Error::ZeroSize);
        }
        self.region.check_own("publish")?;
        let (granules, align) = (self.granules(code.bytes.len())?, align_granules(code.align)?);
        let len = code.bytes.len() as u32;
        let entry = self.place(granules, align, |books, run| {
            let entry = self.lookup.enter(run.start, len, code.tag)?;
            books.live.add(run, len);
            books.pages.touch(run);
            Ok(entry)
        })?;
        let run = run_of(entry.start, len);
        if let Err(error) = self.fill(run, code.bytes) {
            let mut books = self.books();
            self.lookup.remove(entry);
            books.live.sub(run, len);
            self.give_back(&mut books, run);
            return Err(error);
        }
        let block = CodeBlock::new(Arc::clone(self), entry);
        self.announce(entry, code.name);
        Ok(block)
    }

    /// Writes a function to granules placed for it.
    fn fill(&self, run: Run, code: &[u8]) -> Result<(), Error> {
        let at = bytes_of(run);
        // SAFETY: granules placed for this call alone, not published yet.
        unsafe { self.region.write(at.start, code)? };
        if self.region.is_dual() {
            let mut traps = [0; GRANULE];
            icache::fill_with_traps(&mut traps);
            let padding = &traps[GRANULE - Region::padding(code.len())..];
            // SAFETY: the rest of the last of these granules.
            unsafe { self.region.write(at.start + code.len(), padding)? };
        }
        self.region.flush(at);
        self.region.sync_cores();
        Ok(())
    }
}
