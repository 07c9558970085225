//! Publishing a batch: all of its functions become executable, or all of its space is freed.
//!
//! The order is: write constants; seal runs, write staged bytes and flush; synchronise cores once;
//! enter the functions in the lookup; make the blocks; call the observers. Every step up to the
//! lookup can fail, and the drop of the batch then frees everything.

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
    /// ```
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let mut batch = arena.batch();
    /// let (first, second) = (batch.push(&[0xc3])?, batch.push(&[0xc3; 40])?);
    /// let blocks = batch.publish()?;
    /// assert_eq!((blocks[first.index()].len(), blocks[second.index()].len()), (1, 40));
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// After an error nothing is published, and all of the space is free again.
    ///
    /// - [`Error::OperatingSystem`] if the system refuses memory, a write or a change of
    ///   protection.
    /// - [`Error::Unsupported`] if the batch has data. Use [`Batch::publish_with_data`], which
    ///   returns the data too.
    /// - [`Error::Forked`] in a forked child.
    ///
    /// # Panics
    /// If an [`Observer`](crate::Observer) panics. The blocks are then dropped again.
    pub fn publish(self) -> Result<Vec<CodeBlock>, Error> {
        if !self.data.is_empty() {
            return Err(Error::unsupported(
                "`publish`",
                "the batch has data: call `publish_with_data`, which returns it",
            ));
        }
        Ok(self.publish_with_data()?.0)
    }

    /// Makes all functions executable and all constants read-only. Returns the blocks of both, in
    /// the order of their slots.
    ///
    /// Code does not keep the data that it uses. Keep the data for as long as the code can run.
    ///
    /// ```
    /// # use gaia_jit::DataAccess;
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let mut batch = arena.batch();
    /// batch.data(16, 8, DataAccess::ReadOnly, |_address, bytes| bytes.fill(7))?;
    /// batch.push(&[0xc3])?;
    /// let (blocks, data) = batch.publish_with_data()?;
    /// assert_eq!((blocks.len(), data.len()), (1, 1));
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Batch::publish`], except that data is no error.
    ///
    /// # Panics
    /// As for [`Batch::publish`].
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
        // From here on blocks own the functions, even if an observer panics.
        // SAFETY: entered and counted just now, for this call alone.
        let block = |entry: &Entry| unsafe { CodeBlock::new(&core, *entry) };
        blocks.extend(entries.iter().map(block));
        if !entries.is_empty() {
            let described = entries.iter().enumerate().map(|(slot, entry)| self.notes.describe(slot, *entry));
            // SAFETY: the functions are published. Their blocks are returned or dropped after this.
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
                // SAFETY: the granules were placed for this batch alone and are not published yet.
                unsafe { self.core.memory.write(at.start, &self.staging[from..from + at.len()])? };
            }
            self.core.memory.flush(at)?;
        }
        self.core.memory.sync_cores()
    }
}
