//! Guards for things beside code that are freed with it: entries of a cache.
#![forbid(unsafe_code)]

use super::{CodeArena, Guard};

impl CodeArena {
    /// Returns whether the guard is of this arena.
    pub(crate) fn is_guard_of_mine(&self, guard: &Guard<'_>) -> bool {
        self.core().guards.holds(guard)
    }

    /// Returns the epoch of the guards that something has to wait for, if there are any. It was
    /// made unfindable before this call, and this thread made an atomic read-modify-write since.
    pub(crate) fn epoch_to_wait_for(&self) -> Option<u64> {
        let guards = &self.core().guards;
        guards.any().then(|| guards.next_epoch())
    }

    /// Returns the epoch of the oldest guard, or `None` without guards. Things that wait for
    /// earlier epochs need not wait any more. The caller holds the lock under which they were
    /// marked.
    pub(crate) fn oldest_guard(&self) -> Option<u64> {
        let guards = &self.core().guards;
        guards.catch_up();
        guards.oldest()
    }
}
