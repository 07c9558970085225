//! Zeroed tables for bookkeeping: memory that the system hands out page by page as it is first touched, so that a table
//! can cover the whole reservation and cost only what is in use.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::Error;
use crate::sync::checked::{AtomicU32, AtomicU64};

/// Types whose value may be all zero bytes and that need no drop.
///
/// # Safety
/// - A value of all zero bytes is a valid value of the type.
/// - The type has no drop glue.
/// - Its default is that value.
pub(crate) unsafe trait Zeroed: Default {}
// SAFETY: an atomic integer has the representation of the integer.
unsafe impl Zeroed for AtomicU64 {}
// SAFETY: as above.
unsafe impl Zeroed for AtomicU32 {}
// SAFETY: zero is a number.
unsafe impl Zeroed for u64 {}

/// A fixed array that began as zeros.
pub(crate) struct Table<T> {
    data: NonNull<T>,
    len: usize,
    block: NonNull<u8>,
    layout: Layout,
}

/// What the system's allocator aligns to by itself. Asked for more it clears the memory by hand, and so touches it all.
const NATURAL: usize = 16;

impl<T: Zeroed> Table<T> {
    /// `len` zero values, or an error: running out of memory here is no reason to abort.
    pub(crate) fn new(len: usize) -> Result<Self, Error> {
        let bytes = len.max(1).checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(align_of::<T>()));
        let layout = Layout::from_size_align(bytes.ok_or_else(Error::out_of_memory)?, NATURAL)
            .map_err(|_| Error::out_of_memory())?;
        // SAFETY: `layout` has a size above zero, as it includes an alignment.
        let block = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(Error::out_of_memory)?;
        let skip = block.as_ptr().addr().wrapping_neg() & (align_of::<T>() - 1);
        // SAFETY: `skip` is less than the alignment of `T`, by which the block is larger than the values.
        let data = unsafe { block.add(skip) }.cast();
        Ok(Self { data, len, block, layout })
    }
}

impl<T> Table<T> {
    /// The whole pages inside the table: address and bytes.
    pub(crate) fn pages(&self, page: usize) -> Option<(NonNull<u8>, usize)> {
        let skip = self.data.as_ptr().addr().wrapping_neg() & (page - 1);
        let len = (self.len * size_of::<T>()).checked_sub(skip)? & !(page - 1);
        // SAFETY: `skip` bytes from the start are inside the table, as the subtraction shows.
        let start = unsafe { self.data.cast::<u8>().add(skip) };
        (len > 0).then_some((start, len))
    }
}

impl<T> Deref for Table<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `data` points to `len` values, valid since they were zeroed (`Zeroed`), owned by `self`.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Table<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `Deref`; borrowed from `self` alone.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

impl<T> Drop for Table<T> {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout; `Zeroed` types need no drop.
        unsafe { dealloc(self.block.as_ptr(), self.layout) };
    }
}

// SAFETY: a `Table` owns its values as a `Box<[T]>` would.
unsafe impl<T: Send> Send for Table<T> {}
// SAFETY: shared access only gives `&T`.
unsafe impl<T: Sync> Sync for Table<T> {}
