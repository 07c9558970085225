//! What keeps an arena's memory: handles, and blocks.
//!
//! Handles (clones of an arena, open batches) share one count. Blocks are counted where they are
//! published and dropped anyway, under the lock of a heap, so that threads that publish and drop
//! write to no common count. When the last handle goes it locks all heaps, marks each as closed and
//! adds the blocks up. From then on each block that is dropped is counted out of that sum, and the
//! last one frees the arena.
//!
//! # Why nobody touches an arena that is gone
//!
//! A block is counted out of its heap as the last thing that its drop does under a lock. If that
//! comes before the heap is closed, the sum does not contain the block, and the drop ends with the
//! unlocking, which comes before the last handle can lock that heap. If it comes after, the drop
//! subtracts from the sum as the last thing of all, and whoever comes to zero is the last. The last
//! handle counts in the sum itself, because it has locks to release when the sum is made.
//!
//! A forked child neither locks nor counts, because a lock may be held for ever there. What it
//! inherits stays mapped in it.

use std::ops::Deref;
use std::panic::resume_unwind;
use std::ptr::NonNull;

use super::core::Core;
use crate::sync::Ordering;

/// A count of all handles of an arena: kept in an `Arc`.
pub(crate) struct Handle {
    core: NonNull<Core>,
}

// SAFETY: it is used like an `Arc` of the core, which is both.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    pub(super) fn new(core: Core) -> Self {
        Self { core: NonNull::from(Box::leak(Box::new(core))) }
    }

    /// The core, for blocks that are counted in a heap.
    pub(super) fn core(&self) -> NonNull<Core> {
        self.core
    }
}

impl Deref for Handle {
    type Target = Core;

    fn deref(&self) -> &Core {
        // SAFETY: it lives as long as this handle at the least.
        unsafe { self.core.as_ref() }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.memory.is_own() {
            return;
        }
        let mut all = self.heaps.all();
        let blocks = all.close();
        self.left.store(blocks + 1, Ordering::Relaxed);
        drop(all);
        // SAFETY: the sum contains this handle, which does nothing more.
        unsafe { count_out(self.core) };
    }
}

/// Counts out one of those that are left once no handle is, and frees the core after the last.
///
/// # Safety
/// - The caller is one that the sum contains, and touches the core no more.
unsafe fn count_out(core: NonNull<Core>) {
    // SAFETY: the core is there until all that the sum contains are counted out.
    let left = unsafe { &(*core.as_ptr()).left };
    // Release: what was done with the core comes before it is freed. Acquire: by whoever frees it.
    if left.fetch_sub(1, Ordering::AcqRel) == 1 {
        // SAFETY: made from a box in `Handle::new`; nobody is left.
        drop(unsafe { Box::from_raw(core.as_ptr()) });
    }
}

/// Drops a block of `len` bytes that begins at a granule.
///
/// # Safety
/// - The block is live and counted in a heap of `core`, and the caller owns it and uses it no more.
pub(super) unsafe fn retire(core: NonNull<Core>, start: u32, len: u32) {
    let mut panicked = None;
    // SAFETY: the block keeps the core until it is counted out.
    let heap = unsafe { core.as_ref() }.retire(start, len, &mut panicked);
    let mut closed = false;
    if let Some(mut heap) = heap {
        closed = heap.let_go();
        // Here, in a function that holds no reference to the core.
        drop(heap);
    }
    if closed {
        // SAFETY: the sum contains the block, as the heap was closed before it was counted out.
        unsafe { count_out(core) };
    }
    if let Some(panic) = panicked {
        resume_unwind(panic);
    }
}
