//! Data that is published together with functions.

use std::ptr::NonNull;

use super::Batch;
use crate::Error;
use crate::arena::core::Core;
use crate::arena::data::block::zeros;
use crate::arena::data::{DataKind, DataPages, Way};
use crate::arena::handle::Handle;
use crate::arena::{DataAccess, DataBlock};
use crate::space::Run;
use crate::sync::Arc;

/// Data in a batch, and in the list of data that [`Batch::publish_with_data`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DataSlot {
    batch: u64,
    index: usize,
}

impl DataSlot {
    /// Its place in the order of the data, from 0.
    pub fn index(self) -> usize {
        self.index
    }
}

/// The data of a batch. Dropped, it gives everything back.
#[derive(Default)]
pub(super) struct PlacedData {
    placed: Vec<Placed>,
    /// Whole pages for constants, where they are not written by the kernel. They own the granules
    /// of such constants.
    pages: Option<DataPages>,
    /// Granules of those pages that are nobody's, because whoever was to fill them panicked.
    lost: Vec<Run>,
}

/// Space for data, and where its bytes are until they are published.
enum Space {
    InPlace(DataBlock),
    Shared(DataBlock, Vec<u8>),
    Pages(NonNull<u8>, Run, Vec<u8>),
}

struct Placed {
    at: NonNull<u8>,
    run: Run,
    len: usize,
    state: State,
}

enum State {
    /// In its place.
    Written(DataBlock),
    /// To be written by the kernel.
    Shared(DataBlock, Vec<u8>),
    /// To be stored to open pages.
    Staged(Vec<u8>),
    /// Stored, and owned by the pages.
    Stored,
}

// SAFETY: the address is that of granules which this value owns.
unsafe impl Send for Placed {}
// SAFETY: as above; they are written to through `&mut` alone.
unsafe impl Sync for Placed {}

impl PlacedData {
    pub(super) fn is_empty(&self) -> bool {
        self.placed.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.placed.len()
    }

    /// Writes what is read only to its place, and makes the pages read-only.
    pub(super) fn write(&mut self, core: &Core) -> Result<(), Error> {
        for placed in &mut self.placed {
            match &placed.state {
                State::Written(_) | State::Stored => {}
                State::Shared(block, bytes) => {
                    // SAFETY: taken by this batch, whose code nobody runs yet.
                    unsafe { core.write_shared(block.run(), bytes)? };
                }
                State::Staged(bytes) => {
                    // SAFETY: reserved for as many bytes, in pages that are writable.
                    unsafe { Core::store(placed.at, bytes) };
                    placed.state = State::Stored;
                }
            }
        }
        self.pages.as_mut().map_or(Ok(()), DataPages::make_read_only)
    }

    /// Hands everything over to blocks. It was written.
    pub(super) fn take(&mut self, core: &Arc<Handle>, blocks: &mut Vec<DataBlock>) {
        if let Some(pages) = self.pages.take() {
            pages.give_up_used();
            core.free_data(self.lost.drain(..));
        }
        blocks.extend(self.placed.drain(..).map(|placed| match placed.state {
            State::Written(block) | State::Shared(block, _) => block,
            State::Staged(_) | State::Stored => DataBlock::new(core, placed.run, placed.len, DataAccess::ReadOnly),
        }));
    }
}

impl Batch {
    /// Places data that is published together with the functions, as
    /// [`CodeArena::data`](crate::CodeArena::data) does by itself. [`Batch::publish_with_data`]
    /// returns it; if that fails or the batch is dropped, nothing is left of it.
    ///
    /// ```
    /// # #[cfg(target_arch = "x86_64")] {
    /// use gaia_jit::{CodeArena, DataAccess, Reloc, Target};
    ///
    /// let arena = CodeArena::builder().capacity(1 << 20).build()?;
    /// let mut batch = arena.batch();
    /// let table = batch.data(8, 8, DataAccess::ReadOnly, |_, bytes| {
    ///     bytes.copy_from_slice(&7_u64.to_le_bytes());
    /// })?;
    /// let load = batch.push(&[0x48, 0x8b, 0x05, 0, 0, 0, 0, 0xc3])?; // mov rax, [rip + 0]; ret
    /// batch.link(load, 3, Reloc::X86Pc32, Target::DataSlot(table), -4)?;
    /// let (code, data) = batch.publish_with_data()?;
    /// // SAFETY: the code takes nothing and returns a number; `data` lives.
    /// let seven = unsafe { code[load.index()].typed::<extern "C" fn() -> u64>() };
    /// assert_eq!((seven.call(), data[table.index()].len()), (7, 8));
    /// # }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`CodeArena::data`](crate::CodeArena::data); the batch is then as it was before.
    pub fn data(
        &mut self,
        len: usize,
        align: usize,
        access: DataAccess,
        fill: impl FnOnce(*const u8, &mut [u8]),
    ) -> Result<DataSlot, Error> {
        let space = loop {
            match self.data_space(len, align, access) {
                Err(full) => self.make_room(full)?,
                Ok(space) => break space,
            }
        };
        let placed = match space {
            Space::InPlace(block) => {
                block.fill_in_place(fill);
                Placed { at: block.start(), run: block.run(), len, state: State::Written(block) }
            }
            Space::Shared(block, mut bytes) => {
                fill(block.as_ptr(), &mut bytes[..len]);
                Placed { at: block.start(), run: block.run(), len, state: State::Shared(block, bytes) }
            }
            Space::Pages(at, run, mut bytes) => {
                // It may panic.
                self.data.lost.push(run);
                fill(at.as_ptr(), &mut bytes[..len]);
                self.data.lost.pop();
                Placed { at, run, len, state: State::Staged(bytes) }
            }
        };
        self.data.placed.push(placed);
        Ok(DataSlot { batch: self.id, index: self.data.placed.len() - 1 })
    }

    /// Space for data, not filled yet.
    fn data_space(&mut self, len: usize, align: usize, access: DataAccess) -> Result<Space, Error> {
        let core = &self.core;
        let (granules, granules_align) = (core.data_granules(len)?, core.data_align(align)?);
        self.data.placed.try_reserve(1).map_err(|_| Error::out_of_memory())?;
        match if access == DataAccess::ReadWrite { Way::Stores } else { core.constants_way()? } {
            Way::Stores => {
                let run = core.take_data(DataKind::Writable, granules, granules_align)?;
                Ok(Space::InPlace(DataBlock::new(core, run, len, access)))
            }
            Way::Kernel => {
                let bytes = zeros(granules)?;
                let run = core.take_shared(granules, granules_align)?;
                Ok(Space::Shared(DataBlock::new(core, run, len, access), bytes))
            }
            Way::Pages => {
                let bytes = zeros(granules)?;
                self.data.lost.try_reserve(1).map_err(|_| Error::out_of_memory())?;
                let pages = self.data.pages.get_or_insert_with(|| DataPages::new(core, DataKind::Constant));
                let at = pages.reserve(len, align)?;
                Ok(Space::Pages(at, pages.run_at(at, granules), bytes))
            }
        }
    }

    /// The address of data; null for data of another batch.
    pub fn data_address(&self, slot: DataSlot) -> *const u8 {
        match self.data.placed.get(slot.index).filter(|_| slot.batch == self.id) {
            Some(placed) => placed.at.as_ptr(),
            None => std::ptr::null(),
        }
    }
}
