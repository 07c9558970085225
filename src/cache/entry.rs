//! What is cached.

use std::fmt;
use std::mem;

use super::figures::Figures;
use crate::arena::Room;
use crate::sync::checked::AtomicU32;
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::{CodeBlock, DataBlock, Typed};

/// Compiled code of a key: one function or a whole batch of them, one of which is where it is
/// entered, and a value.
///
/// Who holds the entry in an [`Arc`] keeps the code, whether it is still in the cache or not.
#[repr(C)]
pub struct Entry<K, V = ()> {
    // First, beside the counts of its `Arc`: what a hit looks at, for one cache line as a rule.
    pub(super) hash: u64,
    /// Where it is in the order of eviction. Used under the lock of changes.
    pub(super) place: AtomicU32,
    /// Asked for since the policy looked last.
    pub(super) used: AtomicBool,
    /// Was in the cache, or was never admitted. Written under the lock of changes.
    pub(super) is_out: AtomicBool,
    key: K,
    // Dropped before all else, which the code may use.
    blocks: Vec<CodeBlock>,
    data: Vec<DataBlock>,
    /// Which of the blocks is entered; there is such a block.
    start: usize,
    bytes: usize,
    value: V,
    pub(super) figures: Arc<Figures>,
}

/// What an entry is made of.
pub(super) struct Parts<K, V> {
    pub(super) key: K,
    pub(super) hash: u64,
    pub(super) value: V,
    pub(super) blocks: Vec<CodeBlock>,
    pub(super) data: Vec<DataBlock>,
    pub(super) start: usize,
}

impl<K, V> Entry<K, V> {
    /// `parts.start` is the index of a block.
    pub(super) fn new(parts: Parts<K, V>, figures: &Arc<Figures>) -> Arc<Self> {
        let Parts { key, hash, value, blocks, data, start } = parts;
        debug_assert!(start < blocks.len());
        Arc::new(Self {
            bytes: blocks.iter().map(CodeBlock::len).sum(),
            blocks,
            data,
            value,
            key,
            hash,
            start,
            used: AtomicBool::new(false),
            is_out: AtomicBool::new(false),
            place: AtomicU32::new(u32::MAX),
            figures: Arc::clone(figures),
        })
    }

    /// The key it was compiled for.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// What the compilation returned beside the slot.
    pub fn value(&self) -> &V {
        &self.value
    }

    /// The function that is entered.
    pub fn block(&self) -> &CodeBlock {
        &self.blocks[self.start]
    }

    /// All functions, in the order of the slots.
    pub fn blocks(&self) -> &[CodeBlock] {
        &self.blocks
    }

    /// The data of the batch, in the order of its slots.
    pub fn data(&self) -> &[DataBlock] {
        &self.data
    }

    /// Bytes of code: what it counts in the budget.
    #[allow(clippy::len_without_is_empty, reason = "none is empty")]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// The address of the first byte of the function that is entered.
    pub fn as_ptr(&self) -> *const u8 {
        self.block().as_ptr()
    }

    /// That address as a function pointer.
    ///
    /// # Safety
    /// - `F` is a function pointer type that the code is written for.
    /// - The pointer is called while the entry is held, or under a guard of the arena that was
    ///   taken while the entry was in the cache or held.
    /// - All that the code reaches is alive. That may be the entry's [value](Entry::value): under a
    ///   guard the value stays only if the entry was found by
    ///   [`CodeCache::get_in`](super::CodeCache::get_in) with that guard, and as long as the cache
    ///   lives.
    pub unsafe fn as_fn<F: Copy>(&self) -> F {
        // SAFETY: passed on to the caller; the entry keeps its blocks.
        unsafe { self.block().as_fn() }
    }

    /// That address as a function pointer that cannot outlive the entry.
    ///
    /// # Safety
    /// - As for [`CodeBlock::typed`].
    pub unsafe fn typed<F: Copy>(&self) -> Typed<'_, F> {
        // SAFETY: passed on to the caller.
        unsafe { self.block().typed() }
    }

    /// Bytes that come free with it.
    pub(super) fn size(&self, room: Room) -> usize {
        match room {
            Room::Code => self.bytes,
            Room::Data => self.data.iter().map(DataBlock::reserved).sum(),
        }
    }

    /// Notes that it was asked for.
    #[inline]
    pub(super) fn mark_used(&self) {
        // Most of the time it is, and then nothing is written to the cache line that other threads
        // read.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Counts it among those that are kept without being in the cache.
    pub(super) fn go_out(&self) {
        self.is_out.store(true, Ordering::Relaxed);
        self.figures.held.fetch_add(self.bytes as u64, Ordering::Relaxed);
    }
}

impl<K, V> Drop for Entry<K, V> {
    fn drop(&mut self) {
        // First, so that it is free when it is not counted any more.
        self.blocks = Vec::new();
        drop(mem::take(&mut self.data));
        if *self.is_out.get_mut() {
            self.figures.held.fetch_sub(self.bytes as u64, Ordering::Relaxed);
        }
    }
}

impl<K: fmt::Debug, V> fmt::Debug for Entry<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key)
            .field("start", &self.as_ptr())
            .field("len", &self.bytes)
            .finish_non_exhaustive()
    }
}
