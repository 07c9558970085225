//! Batches: functions and data that are published together, all or nothing.

use std::borrow::Cow;

use jit::{CodeArena, DataSlot, Slot};

use crate::arena::Arena;
use crate::block::Block;
use crate::data::Data;
use crate::failure::{Failure, status, value};
use crate::handle::{self, exclusive, handle_out, shared, slice_out};
use crate::status::Status;

/// Functions and data that are published together: all or none. Addresses are final before there
/// are bytes, so functions can call each other. Slots are numbered from 0 in the order in which
/// they came, functions and data apart. One thread at a time may use a batch, and it need not be
/// the same one each time.
pub struct Batch {
    /// For the batch that follows.
    arena: CodeArena,
    pub(crate) inner: jit::Batch,
    /// C knows slots by their numbers.
    pub(crate) slots: Vec<Slot>,
    pub(crate) data: Vec<DataSlot>,
}

impl Batch {
    pub(crate) fn slot(&self, slot: usize) -> Result<Slot, Failure> {
        let slots = self.slots.len();
        self.slots.get(slot).copied().ok_or(Failure::NoSlot { slot, slots })
    }

    pub(crate) fn data_slot(&self, slot: usize) -> Result<DataSlot, Failure> {
        let slots = self.data.len();
        self.data.get(slot).copied().ok_or(Failure::NoSlot { slot, slots })
    }
}

/// An empty batch. Free it with `gaia_jit_batch_free`, after it was published too.
///
/// # Safety
/// - The arena is NULL, which is an error, or a live handle.
/// - A pointer can be written to `out`, or it is NULL, which is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_batch_new(arena: *const Arena, out: *mut *mut Batch) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let out = unsafe { handle_out(out, "out")? };
        // SAFETY: passed on to the caller.
        let arena = unsafe { shared(arena, "arena")? }.0.clone();
        let inner = arena.batch();
        *out = handle::handle(Batch { arena, inner, slots: Vec::new(), data: Vec::new() });
        Ok(())
    })
}

/// Frees a batch; nothing for NULL. What it holds and was not published is given back.
///
/// # Safety
/// - The batch is NULL or a live handle that nobody else uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_batch_free(batch: *mut Batch) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        unsafe { handle::free(batch) };
        Ok(())
    })
}

/// Functions in the batch so far; 0 for NULL.
///
/// # Safety
/// - The batch is NULL or a live handle that nobody changes meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_batch_len(batch: *const Batch) -> usize {
    value(0, || {
        // SAFETY: passed on to the caller.
        let batch = unsafe { shared(batch, "batch")? };
        Ok(batch.slots.len())
    })
}

/// Makes all functions executable, and data that is to be read only so. Writes a block for each
/// slot to `blocks`, and one for each data slot to `data`; both are in the order of the slots, and
/// freed one by one. The code does not keep the data.
///
/// The arrays have exactly as many elements as there are slots, or else nothing happens and the
/// status is `GAIA_JIT_STATUS_INVALID_ARGUMENT`. Afterwards the batch is empty and can be used
/// again, also if it could not be published: then everything is given back, and the arrays are
/// filled with NULL.
///
/// # Safety
/// - The batch is NULL, which is an error, or a live handle that nobody else uses meanwhile.
/// - `blocks_len` pointers can be written to `blocks`, and `data_len` to `data`, elsewhere. Of a
///   length of 0 the array may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_batch_publish(
    batch: *mut Batch,
    blocks: *mut *mut Block,
    blocks_len: usize,
    data: *mut *mut Data,
    data_len: usize,
) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let batch = unsafe { exclusive(batch, "batch")? };
        // SAFETY: passed on to the caller.
        let blocks = unsafe { slice_out(blocks, blocks_len, "blocks")? };
        // SAFETY: passed on to the caller.
        let data = unsafe { slice_out(data, data_len, "data")? };
        fits("blocks", blocks.len(), batch.slots.len())?;
        fits("data", data.len(), batch.data.len())?;
        for block in blocks.iter_mut() {
            block.write(std::ptr::null_mut());
        }
        for block in data.iter_mut() {
            block.write(std::ptr::null_mut());
        }
        batch.slots.clear();
        batch.data.clear();
        let next = batch.arena.batch();
        let (new_blocks, new_data) = std::mem::replace(&mut batch.inner, next).publish_with_data()?;
        for (place, block) in blocks.iter_mut().zip(new_blocks) {
            place.write(handle::handle(Block(block)));
        }
        for (place, block) in data.iter_mut().zip(new_data) {
            place.write(handle::handle(Data(block)));
        }
        Ok(())
    })
}

fn fits(what: &str, len: usize, slots: usize) -> Result<(), Failure> {
    if len == slots {
        return Ok(());
    }
    Err(Failure::Invalid(Cow::Owned(format!("{what} has {len} elements, and the batch {slots} slots for them"))))
}
