//! A word that is stored in one piece.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Four or eight bytes, for one store that no thread sees in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Four(u32),
    Eight(u64),
}

impl Word {
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Four(_) => 4,
            Self::Eight(_) => 8,
        }
    }

    /// Stores the word, after all earlier stores of this thread.
    ///
    /// # Safety
    /// - `at` is aligned to the word's length, and that number of bytes is writable there.
    /// - Others read the bytes as atomics meanwhile, or fetch them as instructions. Nobody else
    ///   writes there.
    pub(crate) unsafe fn store(self, at: NonNull<u8>) {
        match self {
            // SAFETY: passed on to the caller.
            Self::Four(word) => unsafe { AtomicU32::from_ptr(at.cast().as_ptr()) }.store(word, Ordering::Release),
            // SAFETY: passed on to the caller.
            Self::Eight(word) => unsafe { AtomicU64::from_ptr(at.cast().as_ptr()) }.store(word, Ordering::Release),
        }
    }
}
