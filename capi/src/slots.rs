//! The functions of a batch, before it is published.
//!
//! ```text
//! push (bytes), reserve (length) --> slot number --> set_tag, set_name, bytes, address --> gaia_jit_batch_publish
//! ```
//!
//! - *Owner*: a slot is a number and needs no release, because the batch owns the function. Code
//!   and names are copied.
//! - *Addresses*: `gaia_jit_batch_address` is where the code will run. `gaia_jit_batch_bytes` is
//!   where it is written now, and ends with the next call that gets the batch.
//! - *NULL*: it is an error as a batch, code, `slot`, `bytes` or new name. It is allowed as the
//!   name in `push`, and as the `len` of `bytes`. The address of a slot in a NULL batch is NULL.
//! - *Other numbers*: a number that the batch does not have gives `GAIA_JIT_STATUS_OTHER_BATCH`, or
//!   NULL as an address. After publication numbers begin at 0 again, so an old number may mean a
//!   new function.
//! - *Failed calls*: `slot` is written only if the function was added.

use std::ffi::{c_char, c_void};

use crate::batch::Batch;
use crate::failure::{Failure, status, value};
use crate::handle::{exclusive, out, shared, slice, string};
use crate::publish::described;
use crate::status::Status;

/// The usual alignment, for an alignment of 0.
pub(crate) const ALIGN: usize = 16;

/// Adds a function, whose bytes can still be changed. The parameters are those of
/// `gaia_jit_publish`.
///
/// # Safety
/// - The batch is NULL, which is an error, or a live handle that nobody else uses meanwhile.
/// - `code` leads to `len` bytes.
/// - `name` is NULL or a string that ends with a zero.
/// - A `size_t` can be written to `slot`, or it is NULL, which is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_batch_push(
    batch: *mut Batch,
    code: *const u8,
    len: usize,
    align: usize,
    tag: u64,
    name: *const c_char,
    slot: *mut usize,
) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let batch = unsafe { exclusive(batch, "batch")? };
        // SAFETY: passed on to the caller.
        let slot = unsafe { out(slot, "slot")? };
        // SAFETY: passed on to the caller.
        let code = unsafe { slice(code, len, "code")? };
        // SAFETY: passed on to the caller.
        let name = unsafe { string(name) };
        let mut code = described(code, align, tag);
        if let Some(name) = &name {
            code = code.name(name);
        }
        let new = batch.inner.push(code)?;
        batch.slots.push(new);
        slot.write(new.index());
        Ok(())
    })
}

/// Adds a function of `len` bytes whose code comes later; until then it is filled with traps.
/// Behind it is room for `stubs` stubs: one for each target of `gaia_jit_batch_link_address` and
/// its like that a branch may not reach. They count to its length.
///
/// # Safety
/// - The batch is NULL, which is an error, or a live handle that nobody else uses meanwhile.
/// - A `size_t` can be written to `slot`, or it is NULL, which is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_batch_reserve(
    batch: *mut Batch,
    len: usize,
    align: usize,
    stubs: usize,
    slot: *mut usize,
) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let batch = unsafe { exclusive(batch, "batch")? };
        // SAFETY: passed on to the caller.
        let slot = unsafe { out(slot, "slot")? };
        let new = batch.inner.reserve_with_stubs(len, if align == 0 { ALIGN } else { align }, stubs)?;
        batch.slots.push(new);
        slot.write(new.index());
        Ok(())
    })
}

/// Sets the tag of a slot.
///
/// # Safety
/// - The batch is NULL, which is an error, or a live handle that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_batch_set_tag(batch: *mut Batch, slot: usize, tag: u64) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let batch = unsafe { exclusive(batch, "batch")? };
        let slot = batch.slot(slot)?;
        batch.inner.set_tag(slot, tag);
        Ok(())
    })
}

/// Sets the name of a slot; NULL is an error.
///
/// # Safety
/// - The batch is NULL, which is an error, or a live handle that nobody else uses meanwhile.
/// - `name` is NULL or a string that ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_batch_set_name(batch: *mut Batch, slot: usize, name: *const c_char) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let batch = unsafe { exclusive(batch, "batch")? };
        let slot = batch.slot(slot)?;
        // SAFETY: passed on to the caller.
        let name = unsafe { string(name) }.ok_or(Failure::Null("name"))?;
        batch.inner.set_name(slot, &name);
        Ok(())
    })
}

/// The address at which the slot's code will run; NULL for NULL and for what is no slot of the
/// batch.
///
/// # Safety
/// - The batch is NULL or a live handle that nobody changes meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_batch_address(batch: *const Batch, slot: usize) -> *const c_void {
    value(std::ptr::null(), || {
        // SAFETY: passed on to the caller.
        let batch = unsafe { shared(batch, "batch")? };
        Ok(batch.inner.address(batch.slot(slot)?).cast())
    })
}

/// The slot's bytes, to write to. They are there until the next call with this batch: another slot
/// may move them. The address is not the one at which the code will run.
///
/// # Safety
/// - The batch is NULL, which is an error, or a live handle that nobody else uses meanwhile.
/// - A pointer can be written to `bytes`, or it is NULL, which is an error.
/// - A `size_t` can be written to `len`, or it is NULL, if nobody wants to know.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_batch_bytes(
    batch: *mut Batch,
    slot: usize,
    bytes: *mut *mut u8,
    len: *mut usize,
) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let batch = unsafe { exclusive(batch, "batch")? };
        // SAFETY: passed on to the caller.
        let bytes = unsafe { out(bytes, "bytes")? };
        let slot = batch.slot(slot)?;
        let slice = batch.inner.bytes_mut(slot);
        // SAFETY: passed on to the caller.
        if let Ok(len) = unsafe { out(len, "len") } {
            len.write(slice.len());
        }
        bytes.write(slice.as_mut_ptr());
        Ok(())
    })
}
