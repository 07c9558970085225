//! Zeroed tables for bookkeeping. The system provides their memory page by page at the first
//! access, so a table can cover the whole reservation and costs only what is in use.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

#[cfg(unix)]
use memmap2::MmapMut;

use crate::Error;
use crate::sync::checked::{AtomicU32, AtomicU64};

/// Types that may be all zero bytes and need no drop.
///
/// # Safety
/// - A value of all zero bytes is a valid value of the type.
/// - The type has no drop glue.
/// - The type's default is that value.
pub(crate) unsafe trait Zeroed: Default {}
// SAFETY: an atomic integer has the representation of the integer.
unsafe impl Zeroed for AtomicU64 {}
// SAFETY: as above.
unsafe impl Zeroed for AtomicU32 {}
// SAFETY: zero is a valid number.
unsafe impl Zeroed for u64 {}

/// A fixed array that is all zeros at first.
pub(crate) struct Table<T> {
    data: NonNull<T>,
    len: usize,
    block: Block,
}

/// The memory of the values.
enum Block {
    Allocated(NonNull<u8>, Layout),
    /// Memory from the system. An allocator clears reused memory by hand, and so touches all of it.
    /// (The allocator of Windows takes large blocks from the system.)
    #[cfg(unix)]
    Mapped(#[allow(dead_code, reason = "unmapped when it is dropped")] MmapMut),
}

/// The size in bytes from which tables are mapped.
#[cfg(unix)]
const LARGE: usize = 128 << 10;

/// Returns memory that is all zeros. The size is not 0.
fn zeroed(layout: Layout) -> Option<(NonNull<u8>, Block)> {
    #[cfg(unix)]
    if layout.size() >= LARGE {
        let mut map = MmapMut::map_anon(layout.size()).ok()?;
        return Some((NonNull::new(map.as_mut_ptr())?, Block::Mapped(map)));
    }
    // SAFETY: the caller promises that the size of `layout` is above zero.
    let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
    Some((start, Block::Allocated(start, layout)))
}

/// The alignment of the system's allocator. If more is asked for, it clears the memory by hand, and
/// so touches all of it.
const NATURAL: usize = 16;

impl<T: Zeroed> Table<T> {
    /// Returns `len` zero values, or an error, because a lack of memory here is no reason to abort.
    pub(crate) fn new(len: usize) -> Result<Self, Error> {
        let bytes = len.max(1).checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(align_of::<T>()));
        let layout = Layout::from_size_align(bytes.ok_or_else(Error::out_of_memory)?, NATURAL)
            .map_err(|_| Error::out_of_memory())?;
        let (start, block) = zeroed(layout).ok_or_else(Error::out_of_memory)?;
        let skip = start.as_ptr().addr().wrapping_neg() & (align_of::<T>() - 1);
        // SAFETY: `skip` is less than the alignment of `T`, and the block is larger than the values
        // by that alignment.
        let data = unsafe { start.add(skip) }.cast();
        Ok(Self { data, len, block })
    }
}

impl<T> Table<T> {
    /// Returns the whole pages inside the table: address and bytes.
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
        // SAFETY: `data` points to `len` values that `self` owns. They are valid since they were
        // zeroed (`Zeroed`).
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Table<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `Deref`. They are borrowed from `self` alone.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

impl<T> Drop for Table<T> {
    fn drop(&mut self) {
        // `Zeroed` types need no drop.
        #[allow(irrefutable_let_patterns, reason = "on Windows there is no other kind")]
        if let Block::Allocated(start, layout) = self.block {
            // SAFETY: allocated in `new` with this layout.
            unsafe { dealloc(start.as_ptr(), layout) };
        }
    }
}

// SAFETY: a `Table` owns its values as a `Box<[T]>` would.
unsafe impl<T: Send> Send for Table<T> {}
// SAFETY: shared access gives only `&T`.
unsafe impl<T: Sync> Sync for Table<T> {}
