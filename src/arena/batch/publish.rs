//! The end of a batch: everything becomes executable, or nothing is left of it.

use super::Batch;
use super::pieces::Piece;
use crate::Error;
use crate::arena::DataBlock;
use crate::arena::block::CodeBlock;
use crate::arena::core::bytes_of;
use crate::arena::lookup::Entry;
use crate::sync::Arc;

impl Batch {
    /// Makes all functions executable and returns their blocks, in the order of the slots.
    ///
    /// # Errors
    /// Whatever the error, nothing is published and everything is given back.
    ///
    /// - [`Error::OperatingSystem`] if the system refuses memory, to write, or to change
    ///   protections.
    /// - [`Error::Unsupported`] if the batch has data, which [`Batch::publish_with_data`] returns:
    ///   nobody would own it.
    /// - [`Error::Forked`] in a child.
    pub fn publish(self) -> Result<Vec<CodeBlock>, Error> {
        if !self.data.is_empty() {
            return Err(Error::unsupported("`publish`", "the batch has data, which `publish_with_data` returns"));
        }
        Ok(self.publish_with_data()?.0)
    }

    /// Makes all functions executable, and data that is to be read only so. Returns the blocks of
    /// both, in the order of their slots.
    ///
    /// The code does not keep the data: whoever keeps the one has to keep the other.
    ///
    /// # Errors
    /// As for [`Batch::publish`], but for data.
    pub fn publish_with_data(mut self) -> Result<(Vec<CodeBlock>, Vec<DataBlock>), Error> {
        let core = Arc::clone(&self.core);
        core.memory.check_own("publish")?;
        let (mut blocks, mut data) = (Vec::new(), Vec::new());
        blocks.try_reserve_exact(self.entries.len()).map_err(|_| Error::out_of_memory())?;
        data.try_reserve_exact(self.data.len()).map_err(|_| Error::out_of_memory())?;
        self.data.write(&core)?;
        if !self.entries.is_empty() {
            self.make_executable()?;
            core.enter_all(&self.entries, !self.staging.is_empty(), &self.runs)?;
        }
        // From here on nothing fails.
        self.data.take(&core, &mut data);
        let entries = std::mem::take(&mut self.entries);
        self.runs.clear();
        // Owned by blocks from here on, whatever an observer does.
        // SAFETY: entered and counted just now, for this call alone.
        let block = |entry: &Entry| unsafe { CodeBlock::new(&core, *entry) };
        blocks.extend(entries.iter().map(block));
        if !entries.is_empty() {
            let described = entries.iter().enumerate().map(|(slot, entry)| self.notes.describe(slot, *entry));
            // SAFETY: published, and returned or dropped behind this.
            unsafe { core.announce(described) };
        }
        Ok((blocks, data))
    }

    fn make_executable(&mut self) -> Result<(), Error> {
        for open in &mut self.runs {
            self.core.seal_run(open)?;
        }
        self.written = true;
        for piece in Piece::of(&self.entries, &self.sources) {
            let at = bytes_of(piece.run);
            if let Some(from) = piece.staged {
                // SAFETY: granules placed for this batch alone, not published yet.
                unsafe { self.core.memory.write(at.start, &self.staging[from..from + at.len()])? };
            }
            self.core.memory.flush(at)?;
        }
        self.core.memory.sync_cores()
    }
}
