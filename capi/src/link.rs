//! Relocations in a batch.

use std::ffi::c_void;

use jit::Target;

use crate::batch::Batch;
use crate::failure::{Failure, status};
use crate::handle::exclusive;
use crate::reloc::RelocKind;
use crate::status::Status;

/// Where in a batch a relocation is, and what it does there.
struct Place {
    slot: usize,
    offset: usize,
    kind: u32,
    addend: i64,
}

/// Applies a relocation.
///
/// # Safety
/// - The batch is NULL or a live handle that nobody else uses meanwhile.
unsafe fn link(
    batch: *mut Batch,
    place: Place,
    target: impl FnOnce(&Batch) -> Result<Target<'static>, Failure>,
) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let batch = unsafe { exclusive(batch, "batch")? };
        let Place { slot, offset, kind, addend } = place;
        let (slot, kind, target) = (batch.slot(slot)?, RelocKind::read(kind)?, target(batch)?);
        Ok(batch.inner.link(slot, offset, kind, target, addend)?)
    })
}

/// Applies a relocation that refers to a function of the same batch: puts the target into the bytes
/// of `slot` at `offset`, as `kind` says, a number of `gaia_jit_reloc`. The bytes are in place
/// before, because only a part of an instruction is replaced. A call of x86-64, which counts from
/// behind its four bytes, has an addend of -4.
///
/// What does not fit is `GAIA_JIT_STATUS_LINK`, and the bytes are as they were.
///
/// # Safety
/// - The batch is NULL, which is an error, or a live handle that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_batch_link_slot(
    batch: *mut Batch,
    slot: usize,
    offset: usize,
    kind: u32,
    target: usize,
    addend: i64,
) -> Status {
    let place = Place { slot, offset, kind, addend };
    // SAFETY: passed on to the caller.
    unsafe { link(batch, place, |batch| Ok(Target::Slot(batch.slot(target)?))) }
}

/// As `gaia_jit_batch_link_slot`, for data of the same batch.
///
/// # Safety
/// - The batch is NULL, which is an error, or a live handle that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_batch_link_data(
    batch: *mut Batch,
    slot: usize,
    offset: usize,
    kind: u32,
    target: usize,
    addend: i64,
) -> Status {
    let place = Place { slot, offset, kind, addend };
    // SAFETY: passed on to the caller.
    unsafe { link(batch, place, |batch| Ok(Target::DataSlot(batch.data_slot(target)?))) }
}

/// As `gaia_jit_batch_link_slot`, for any address: a function of the program, or a block or data
/// that was published before. It is not kept alive by this.
///
/// # Safety
/// - The batch is NULL, which is an error, or a live handle that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_batch_link_address(
    batch: *mut Batch,
    slot: usize,
    offset: usize,
    kind: u32,
    target: *const c_void,
    addend: i64,
) -> Status {
    let place = Place { slot, offset, kind, addend };
    // SAFETY: passed on to the caller.
    unsafe { link(batch, place, |_| Ok(Target::Address(target.cast()))) }
}
