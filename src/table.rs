//! Zeroed tables for bookkeeping: memory that the system hands out page by page as it is first
//! touched, so that a table can cover the whole reservation and cost only what is in use.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

#[cfg(unix)]
use memmap2::MmapMut;

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
    block: Block,
}

/// Where the values lie.
enum Block {
    Allocated(NonNull<u8>, Layout),
    /// From the system: an allocator clears memory by hand that it had given out before, and so
    /// touches it all. (That of Windows takes large blocks from the system itself.)
    #[cfg(unix)]
    Mapped(#[allow(dead_code, reason = "unmapped when it is dropped")] MmapMut),
}

/// Tables of that size are mapped.
#[cfg(unix)]
const LARGE: usize = 128 << 10;

/// Memory that begins as zeros. The size is not 0.
fn zeroed(layout: Layout) -> Option<(NonNull<u8>, Block)> {
    #[cfg(unix)]
    if layout.size() >= LARGE {
        let mut map = MmapMut::map_anon(layout.size()).ok()?;
        return Some((NonNull::new(map.as_mut_ptr())?, Block::Mapped(map)));
    }
    // SAFETY: by the caller, `layout` has a size above zero.
    let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
    Some((start, Block::Allocated(start, layout)))
}

/// What the system's allocator aligns to by itself. Asked for more it clears the memory by hand,
/// and so touches it all.
const NATURAL: usize = 16;

impl<T: Zeroed> Table<T> {
    /// `len` zero values, or an error: running out of memory here is no reason to abort.
    pub(crate) fn new(len: usize) -> Result<Self, Error> {
        let bytes = len.max(1).checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(align_of::<T>()));
        let layout = Layout::from_size_align(bytes.ok_or_else(Error::out_of_memory)?, NATURAL)
            .map_err(|_| Error::out_of_memory())?;
        let (start, block) = zeroed(layout).ok_or_else(Error::out_of_memory)?;
        let skip = start.as_ptr().addr().wrapping_neg() & (align_of::<T>() - 1);
        // SAFETY: `skip` is less than the alignment of `T`, by which the block is larger than the
        // values.
        let data = unsafe { start.add(skip) }.cast();
        Ok(Self { data, len, block })
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
        // SAFETY: `data` points to `len` values, valid since they were zeroed (`Zeroed`), owned by
        // `self`.
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
        // `Zeroed` types need no drop.
        #[allow(irrefutable_let_patterns, reason = "on Windows there is no other kind")]
        if let Block::Allocated(start, layout) = self.block {
            // SAFETY: allocated in `new` with this very layout.
            unsafe { dealloc(start.as_ptr(), layout) };
        }
    }
}

// SAFETY: a `Table` owns its values as a `Box<[T]>` would.
unsafe impl<T: Send> Send for Table<T> {}
// SAFETY: shared access only gives `&T`.
unsafe impl<T: Sync> Sync for Table<T> {}
