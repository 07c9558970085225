//! The lifetime of an arena: handles and blocks keep it.
//!
//! Handles (clones of an arena, open batches) share one count. Blocks are counted in their heap,
//! under its lock, which publishing and dropping take in any case. So threads that publish and drop
//! write to no common count. The last handle locks all heaps when it is dropped, marks each as
//! closed, and adds up the blocks. From then on each dropped block is subtracted from that sum. The
//! last one frees the arena.
//!
//! ```text
//! while handles exist     heap 1: 5 blocks     heap 2: 3 blocks
//! last handle dropped     closed               closed             left = 5 + 3 + 1 (the handle itself)
//! afterwards              each drop and the handle subtract 1; the one that reaches 0 frees the arena
//! ```
//!
//! # Why nobody uses an arena that was freed
//!
//! A drop counts its block out of the heap as its last step under the lock. There are two cases:
//!
//! - The heap was not closed yet. Then the sum does not contain the block. The drop ends with
//!   unlocking the heap, and the last handle can lock it only afterwards.
//! - The heap was closed. Then the drop subtracts from the sum as its very last step, and only the
//!   thread that reaches zero frees the arena.
//!
//! The last handle is itself a part of the sum, because it has locks to release after the sum is
//! made.
//!
//! A forked child neither locks nor counts, because a lock may be held for ever there. The memory
//! that it inherits stays mapped.

use std::ops::Deref;
use std::panic::resume_unwind;
use std::ptr::NonNull;

use super::core::Core;
use crate::sync::Ordering;

/// One handle of an arena. The `Arc` around it counts all of them.
pub(crate) struct Handle {
    core: NonNull<Core>,
}

// SAFETY: it is used like an `Arc` of the core, which is `Send` and `Sync`.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    pub(super) fn new(core: Core) -> Self {
        Self { core: NonNull::from(Box::leak(Box::new(core))) }
    }

    /// Returns the core, for blocks that are counted in a heap.
    pub(super) fn core(&self) -> NonNull<Core> {
        self.core
    }
}

impl Deref for Handle {
    type Target = Core;

    fn deref(&self) -> &Core {
        // SAFETY: the core lives at least as long as this handle.
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
        // SAFETY: the sum contains this handle, which does nothing after this.
        unsafe { count_out(self.core) };
    }
}

/// Subtracts one from the number of blocks and handles that are left, and frees the core after the
/// last.
///
/// # Safety
/// - The sum contains the caller, who does not use the core after this.
unsafe fn count_out(core: NonNull<Core>) {
    // SAFETY: the core exists until everything that the sum contains was subtracted.
    let left = unsafe { &(*core.as_ptr()).left };
    // Release: everything that was done with the core comes before it is freed. Acquire: for the
    // thread that frees it.
    if left.fetch_sub(1, Ordering::AcqRel) == 1 {
        // SAFETY: it was made from a box in `Handle::new`, and nobody is left.
        drop(unsafe { Box::from_raw(core.as_ptr()) });
    }
}

/// Drops the block of `len` bytes that begins at granule `start`.
///
/// # Safety
/// - The block is live and counted in a heap of `core`. The caller owns it and does not use it
///   after this.
pub(super) unsafe fn retire(core: NonNull<Core>, start: u32, len: u32) {
    let mut panicked = None;
    // SAFETY: the block keeps the core until it is counted out.
    let heap = unsafe { core.as_ref() }.retire(start, len, &mut panicked);
    let mut closed = false;
    if let Some(mut heap) = heap {
        closed = heap.let_go();
        // The heap is unlocked in a function that holds no reference to the core.
        drop(heap);
    }
    if closed {
        // SAFETY: the sum contains the block, because the heap was closed before the block was
        // counted out.
        unsafe { count_out(core) };
    }
    if let Some(panic) = panicked {
        resume_unwind(panic);
    }
}
