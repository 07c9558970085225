//! Data that is published together with functions.
//!
//! Writable data is filled in its place at once. Constants are filled in ordinary memory; when the
//! batch is published, the kernel writes them into read-only pages, or they are stored into whole
//! pages that then become read-only (see [`Way`]). Data is written before the code becomes
//! executable.
//!
//! ```text
//! Batch::data --> place in the data area --> fill --> publish: write constants --> DataBlock
//!                                             `-- the batch is dropped, or fails --> free
//! ```

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

/// Data of a batch. It is also the index of its block in the list that [`Batch::publish_with_data`]
/// returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DataSlot {
    batch: u64,
    index: usize,
}

impl DataSlot {
    /// Returns the number of the data, counted from 0 in the order in which data was added.
    pub fn index(self) -> usize {
        self.index
    }
}

/// The data of a batch. Its drop frees all of the space.
#[derive(Default)]
pub(super) struct PlacedData {
    placed: Vec<Placed>,
    /// Whole pages for constants, if the kernel does not write them. They own the granules of these
    /// constants.
    pages: Option<DataPages>,
    /// Granules of those pages that no data owns, because the closure that was to fill them
    /// panicked.
    lost: Vec<Run>,
}

/// Space for data, and its bytes if they are not in their place.
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
    /// The bytes are in their place.
    Written(DataBlock),
    /// The kernel will write the bytes.
    Shared(DataBlock, Vec<u8>),
    /// The bytes will be stored to open pages.
    Staged(Vec<u8>),
    /// The bytes were stored. The pages own the granules.
    Stored,
}

// SAFETY: the address is that of granules that this value owns.
unsafe impl Send for Placed {}
// SAFETY: as above. They are written to through `&mut` only.
unsafe impl Sync for Placed {}

impl PlacedData {
    pub(super) fn is_empty(&self) -> bool {
        self.placed.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.placed.len()
    }

    /// Writes constants to their place, and makes whole pages read-only.
    pub(super) fn write(&mut self, core: &Core) -> Result<(), Error> {
        for placed in &mut self.placed {
            match &placed.state {
                State::Written(_) | State::Stored => {}
                State::Shared(block, bytes) => {
                    // SAFETY: the run was taken by this batch, and nobody runs its code yet.
                    unsafe { core.write_shared(block.run(), bytes)? };
                }
                State::Staged(bytes) => {
                    // SAFETY: the granules were reserved for this number of bytes, in pages that
                    // are writable.
                    unsafe { Core::store(placed.at, bytes) };
                    placed.state = State::Stored;
                }
            }
        }
        self.pages.as_mut().map_or(Ok(()), DataPages::make_read_only)
    }

    /// Hands the data over to blocks. [`PlacedData::write`] came before.
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
    /// Places data that is published together with the functions.
    /// [`CodeArena::data`](crate::CodeArena::data) does the same outside of a batch.
    /// [`Batch::publish_with_data`] returns the block. If publishing fails or the batch is dropped,
    /// the space of the data is freed.
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
    /// As for [`CodeArena::data`](crate::CodeArena::data). After an error the batch is as it was
    /// before the call.
    pub fn data(
        &mut self,
        len: usize,
        align: usize,
        access: DataAccess,
        fill: impl FnOnce(*const u8, &mut [u8]),
    ) -> Result<DataSlot, Error> {
        let mut waited = super::room::Waited::default();
        let space = loop {
            match self.data_space(len, align, access) {
                Err(full) => self.make_room(full, &mut waited)?,
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
                // `fill` may panic.
                self.data.lost.push(run);
                fill(at.as_ptr(), &mut bytes[..len]);
                self.data.lost.pop();
                Placed { at, run, len, state: State::Staged(bytes) }
            }
        };
        self.data.placed.push(placed);
        Ok(DataSlot { batch: self.id, index: self.data.placed.len() - 1 })
    }

    /// Takes space for data, which is not filled yet.
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

    /// Returns the address of data. It is null for data of another batch.
    pub fn data_address(&self, slot: DataSlot) -> *const u8 {
        match self.data.placed.get(slot.index).filter(|_| slot.batch == self.id) {
            Some(placed) => placed.at.as_ptr(),
            None => std::ptr::null(),
        }
    }
}
