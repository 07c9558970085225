//! An entry of the cache: compiled code with its key and a value.
//!
//! An entry owns its blocks and its data. The cache holds one count of it and every caller that got
//! it another one. So code lives as long as somebody can run it, in the cache or not.
//!
//! ```text
//! in the cache, unused --asked for--> in the cache, used --evicted--> out of the cache
//!                                                                       |  held by callers, or kept
//!                                                                       v  for guards of that moment
//!                                                                    dropped
//! ```
//!
//! Fields that a hit reads come first.

use std::fmt;
use std::mem;

use super::figures::Figures;
use crate::arena::Room;
use crate::sync::checked::AtomicU32;
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::{CodeBlock, DataBlock, Typed};

/// The compiled code of a key, with a value: one function, or a batch with one function as its
/// start.
///
/// An [`Arc`] of the entry keeps the code alive, whether the entry is still in the cache or not.
///
/// ```
/// # use gaia_jit::{CodeArena, cache::CodeCache};
/// # let arena = CodeArena::builder().capacity(1 << 20).build()?;
/// let cache: CodeCache<&str, u32> = CodeCache::builder(arena).build();
/// let entry = cache.get_or_compile_with(&"ret", |batch| Ok::<_, gaia_jit::Error>((batch.push(&[0xc3])?, 7)))?;
/// cache.clear();
/// assert_eq!((*entry.key(), *entry.value(), entry.len()), ("ret", 7, 1)); // still there
/// # Ok::<(), gaia_jit::Error>(())
/// ```
#[repr(C)]
pub struct Entry<K, V = ()> {
    // The fields that a hit reads come first, beside the counts of the `Arc`, so that they are
    // usually on one cache line.
    pub(super) hash: u64,
    /// The place in the order of eviction. Used under the lock of the state.
    pub(super) place: AtomicU32,
    /// Whether the entry was asked for since the policy last checked it.
    pub(super) used: AtomicBool,
    /// Whether the entry was in the cache and left it, or was never admitted. Written under the
    /// lock of the state.
    pub(super) is_out: AtomicBool,
    key: K,
    // Dropped before the other fields, because the code may use these.
    blocks: Vec<CodeBlock>,
    data: Vec<DataBlock>,
    /// The index of the block at which the code is entered. It is an index of `blocks`.
    start: usize,
    bytes: usize,
    value: V,
    pub(super) figures: Arc<Figures>,
}

/// The parts of a new entry.
pub(super) struct Parts<K, V> {
    pub(super) key: K,
    pub(super) hash: u64,
    pub(super) value: V,
    pub(super) blocks: Vec<CodeBlock>,
    pub(super) data: Vec<DataBlock>,
    pub(super) start: usize,
}

impl<K, V> Entry<K, V> {
    /// Returns a new entry. `parts.start` has to be an index of `parts.blocks`.
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

    /// Returns the key that the code was compiled for.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// Returns the value that the compilation returned with the slot.
    pub fn value(&self) -> &V {
        &self.value
    }

    /// Returns the function at which the code is entered.
    pub fn block(&self) -> &CodeBlock {
        &self.blocks[self.start]
    }

    /// Returns all functions, in the order of their slots.
    pub fn blocks(&self) -> &[CodeBlock] {
        &self.blocks
    }

    /// Returns the data of the batch, in the order of its slots.
    pub fn data(&self) -> &[DataBlock] {
        &self.data
    }

    /// Returns the bytes of code, which count in the budget.
    #[allow(clippy::len_without_is_empty, reason = "none is empty")]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Returns the address at which the code is entered.
    pub fn as_ptr(&self) -> *const u8 {
        self.block().as_ptr()
    }

    /// Returns the address at which the code is entered, as a function pointer.
    ///
    /// ```
    /// # #[cfg(any(target_arch = "x86", target_arch = "x86_64"))] {
    /// # use gaia_jit::{CodeArena, cache::CodeCache};
    /// # let cache: CodeCache<u32> = CodeCache::builder(CodeArena::builder().capacity(1 << 20).build()?).build();
    /// let entry = cache.get_or_compile(&1, |batch| batch.push(&[0xb8, 7, 0, 0, 0, 0xc3]))?; // mov eax, 7; ret
    /// // SAFETY: the code takes nothing and returns a number. The entry is held.
    /// assert_eq!(unsafe { entry.as_fn::<unsafe extern "C" fn() -> i32>()() }, 7);
    /// # }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Safety
    /// - `F` is a function pointer type that the code is written for.
    /// - The pointer is called while the entry is held, or under a guard of the arena that was
    ///   taken while the entry was in the cache or held.
    /// - Everything that the code uses is alive. This may include the entry's
    ///   [value](Entry::value). Under a guard, the value stays alive only if
    ///   [`CodeCache::get_in`](super::CodeCache::get_in) found the entry with that guard, and only
    ///   while the cache lives.
    pub unsafe fn as_fn<F: Copy>(&self) -> F {
        // SAFETY: the caller promises it; the entry owns its blocks.
        unsafe { self.block().as_fn() }
    }

    /// Returns the address at which the code is entered, as a function pointer that cannot outlive
    /// the entry.
    ///
    /// ```
    /// # #[cfg(any(target_arch = "x86", target_arch = "x86_64"))] {
    /// # use gaia_jit::{CodeArena, cache::CodeCache};
    /// # let cache: CodeCache<u32> = CodeCache::builder(CodeArena::builder().capacity(1 << 20).build()?).build();
    /// let entry = cache.get_or_compile(&1, |batch| batch.push(&[0xb8, 7, 0, 0, 0, 0xc3]))?; // mov eax, 7; ret
    /// // SAFETY: the code takes nothing and returns a number.
    /// assert_eq!(unsafe { entry.typed::<extern "C" fn() -> i32>() }.call(), 7);
    /// # }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Safety
    /// - As for [`CodeBlock::typed`].
    pub unsafe fn typed<F: Copy>(&self) -> Typed<'_, F> {
        // SAFETY: the caller promises it.
        unsafe { self.block().typed() }
    }

    /// Returns how many bytes become free with the entry.
    pub(super) fn size(&self, room: Room) -> usize {
        match room {
            Room::Code => self.bytes,
            Room::Data => self.data.iter().map(DataBlock::reserved).sum(),
        }
    }

    /// Notes that the entry was asked for.
    #[inline]
    pub(super) fn mark_used(&self) {
        // The mark is usually set already. Then nothing is written to the cache line that other
        // threads read.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Counts the entry as one that lives outside of the cache.
    pub(super) fn leave(&self) {
        self.is_out.store(true, Ordering::Relaxed);
        self.figures.held.fetch_add(self.bytes as u64, Ordering::Relaxed);
    }
}

impl<K, V> Drop for Entry<K, V> {
    fn drop(&mut self) {
        // Before the count, so that the space is free when it is not counted any more.
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
