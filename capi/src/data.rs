//! Data beside the code, by itself and in batches.
//!
//! | function | subject |
//! |---|---|
//! | `gaia_jit_data_new`, `gaia_jit_data_free` | one block of data, with a handle |
//! | `gaia_jit_data_start`, `gaia_jit_data_start_mut`, `gaia_jit_data_len` | its place and size |
//! | `gaia_jit_batch_data`, `gaia_jit_batch_data_address` | a data slot of a batch, by number |
//!
//! - *Owner*: the bytes are copied, so the caller keeps its own. A handle belongs to the caller. A
//!   data slot belongs to its batch until the batch is published.
//! - *NULL*: `bytes` may be NULL, and then the data is zeros. NULL as a handle is an error, except
//!   for `gaia_jit_data_free`. Functions without a status return NULL or 0 then, and the message is
//!   kept for the thread.
//! - *Stale handles*: a freed handle is not recognised. A number that is no data slot of the batch
//!   is recognised, and the address is NULL.

use std::ffi::c_void;

use jit::{DataAccess, DataBlock};

use crate::arena::Arena;
use crate::batch::Batch;
use crate::failure::{Failure, status, value};
use crate::handle::{self, exclusive, handle_out, out, shared, slice};
use crate::slots::ALIGN;
use crate::status::Status;

/// Constants or variables that lie in reach of code, in memory that is never executable.
pub struct Data(pub(crate) DataBlock);

/// What data is to be, for the two functions that make it.
struct Wanted<'a> {
    /// Zeros, if there are none.
    bytes: Option<&'a [u8]>,
    align: usize,
    access: DataAccess,
}

impl<'a> Wanted<'a> {
    /// # Safety
    /// - `bytes` is null or leads to `len` bytes, which nobody changes while they are used.
    unsafe fn new(bytes: *const u8, len: usize, align: usize, writable: bool) -> Result<Self, Failure> {
        // SAFETY: passed on to the caller.
        let given = unsafe { slice(bytes, len, "bytes") };
        Ok(Self {
            bytes: if bytes.is_null() { None } else { Some(given?) },
            align: if align == 0 { ALIGN } else { align },
            access: if writable { DataAccess::ReadWrite } else { DataAccess::ReadOnly },
        })
    }

    fn fill(&self, place: &mut [u8]) {
        match self.bytes {
            Some(bytes) => place.copy_from_slice(bytes),
            None => place.fill(0),
        }
    }
}

/// Places a copy of `len` bytes beside the code, or zeros if `bytes` is NULL. `align` is a power of
/// two up to 64 KiB, or 0 for 16. What is not writable is never written to again. Free it with
/// `gaia_jit_data_free`.
///
/// # Safety
/// - The arena is NULL, which is an error, or a live handle.
/// - `bytes` is NULL or leads to `len` bytes.
/// - A pointer can be written to `out`, or it is NULL, which is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_data_new(
    arena: *const Arena,
    bytes: *const u8,
    len: usize,
    align: usize,
    writable: bool,
    out: *mut *mut Data,
) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let out = unsafe { handle_out(out, "out")? };
        // SAFETY: passed on to the caller.
        let arena = unsafe { shared(arena, "arena")? };
        // SAFETY: passed on to the caller.
        let wanted = unsafe { Wanted::new(bytes, len, align, writable)? };
        let data = arena.0.data(len, wanted.align, wanted.access, |_, place| wanted.fill(place))?;
        *out = handle::handle(Data(data));
        Ok(())
    })
}

/// Frees data and its handle; nothing for NULL. Its space is used again once the guards that are
/// held now have ended.
///
/// # Safety
/// - The data is NULL or a live handle that nobody else uses.
/// - Nobody uses the memory, but for threads that hold a guard taken before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_data_free(data: *mut Data) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        unsafe { handle::free(data) };
        Ok(())
    })
}

/// The address of the first byte; NULL for NULL.
///
/// # Safety
/// - The data is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_data_start(data: *const Data) -> *const c_void {
    value(std::ptr::null(), || {
        // SAFETY: passed on to the caller.
        let data = unsafe { shared(data, "data")? };
        Ok(data.0.as_ptr().cast())
    })
}

/// The same, to write to; NULL also if the data is not writable.
///
/// # Safety
/// - The data is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_data_start_mut(data: *const Data) -> *mut c_void {
    value(std::ptr::null_mut(), || {
        // SAFETY: passed on to the caller.
        let data = unsafe { shared(data, "data")? };
        Ok(data.0.as_mut_ptr().map_or(std::ptr::null_mut(), |start| start.cast()))
    })
}

/// Bytes of data; 0 for NULL.
///
/// # Safety
/// - The data is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_data_len(data: *const Data) -> usize {
    value(0, || {
        // SAFETY: passed on to the caller.
        let data = unsafe { shared(data, "data")? };
        Ok(data.0.len())
    })
}

/// As `gaia_jit_data_new`, but published together with the functions of a batch. Its address is
/// known at once.
///
/// # Safety
/// - The batch is NULL, which is an error, or a live handle that nobody else uses meanwhile.
/// - `bytes` is NULL or leads to `len` bytes.
/// - A `size_t` can be written to `slot`, or it is NULL, which is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_batch_data(
    batch: *mut Batch,
    bytes: *const u8,
    len: usize,
    align: usize,
    writable: bool,
    slot: *mut usize,
) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let batch = unsafe { exclusive(batch, "batch")? };
        // SAFETY: passed on to the caller.
        let slot = unsafe { out(slot, "slot")? };
        // SAFETY: passed on to the caller.
        let wanted = unsafe { Wanted::new(bytes, len, align, writable)? };
        let new = batch.inner.data(len, wanted.align, wanted.access, |_, place| wanted.fill(place))?;
        batch.data.push(new);
        slot.write(new.index());
        Ok(())
    })
}

/// The address of data of a batch; NULL for NULL and for what is no data slot of the batch.
///
/// # Safety
/// - The batch is NULL or a live handle that nobody changes meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_batch_data_address(batch: *const Batch, slot: usize) -> *const c_void {
    value(std::ptr::null(), || {
        // SAFETY: passed on to the caller.
        let batch = unsafe { shared(batch, "batch")? };
        Ok(batch.inner.data_address(batch.data_slot(slot)?).cast())
    })
}
