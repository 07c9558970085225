//! Guards for what is kept beside code and goes with it: entries of a cache.
#![forbid(unsafe_code)]

use super::{CodeArena, Guard};

impl CodeArena {
    /// Whether the guard is of this arena.
    pub(crate) fn is_guard_of_mine(&self, guard: &Guard<'_>) -> bool {
        self.core().guards.holds(guard)
    }

    /// After something was made unfindable, with an atomic read-modify-write on this thread since:
    /// the epoch of the guards that it has to wait for, if there are any.
    pub(crate) fn epoch_to_wait_for(&self) -> Option<u64> {
        let guards = &self.core().guards;
        guards.any().then(|| guards.next_epoch())
    }

    /// The epoch of the oldest guard, `None` without guards: what waits for earlier ones need not
    /// wait any more. Asked for with a lock held under which what waits was marked.
    pub(crate) fn oldest_guard(&self) -> Option<u64> {
        let guards = &self.core().guards;
        guards.catch_up();
        guards.oldest()
    }
}
