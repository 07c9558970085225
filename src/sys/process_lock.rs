//! A lock for state that belongs to the process instead of to an arena, and that a forked child
//! continues to use.
//!
//! If another thread holds the lock when the process forks, it is locked for ever in the child, and
//! the value may be half changed. So a child has to find this out without waiting for the lock.
//!
//! ```text
//! gate     a mutex of one process: each process makes its own, so none is inherited locked
//! holder   the process of which a thread is inside; 0 if there is none
//! value    what is guarded
//! ```
//!
//! The order is: gate, then `holder`, then the value. A thread that has locked the gate is alone in
//! this process. If `holder` is not 0 then, a thread of an earlier process was inside when this
//! process was forked, and it never leaves. So [`ProcessLock::lock`] returns `None`, at once and
//! from then on.

use std::ops::{Deref, DerefMut};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{self, PoisonError};

use parking_lot::{Mutex, MutexGuard};

use super::generation;

pub(crate) struct ProcessLock<T> {
    /// Null until the lock is first used.
    gate: AtomicPtr<Gate>,
    holder: AtomicU64,
    /// The value. It is locked only inside the gate and after `holder`, so no thread ever waits for
    /// it.
    value: Mutex<T>,
}

struct Gate {
    generation: u64,
    /// A standard mutex, because threads that wait for one of parking_lot's wait in a table of the
    /// whole process. That table has locks that a child can inherit in the locked state.
    lock: sync::Mutex<()>,
}

/// Access to the value. The fields are dropped in this order.
pub(crate) struct ProcessGuard<'a, T> {
    value: MutexGuard<'a, T>,
    _inside: Inside<'a>,
    _gate: sync::MutexGuard<'a, ()>,
}

struct Inside<'a>(&'a AtomicU64);

impl<T> ProcessLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { gate: AtomicPtr::new(ptr::null_mut()), holder: AtomicU64::new(0), value: Mutex::new(value) }
    }

    /// Locks the value. It returns `None` in a child that was forked while another thread held the
    /// lock.
    pub(crate) fn lock(&self) -> Option<ProcessGuard<'_, T>> {
        let now = generation();
        let gate = self.gate(now).lock.lock().unwrap_or_else(PoisonError::into_inner);
        if self.holder.load(Ordering::Acquire) != 0 {
            return None;
        }
        self.holder.store(now, Ordering::Release);
        let inside = Inside(&self.holder);
        Some(ProcessGuard { value: self.value.lock(), _inside: inside, _gate: gate })
    }

    /// Returns the gate of this process.
    fn gate(&self, generation: u64) -> &Gate {
        let mut known = self.gate.load(Ordering::Acquire);
        loop {
            // SAFETY: null, or made below and kept as long as this lock.
            if let Some(gate) = unsafe { known.as_ref() }.filter(|gate| gate.generation == generation) {
                return gate;
            }
            let new = Box::into_raw(Box::new(Gate { generation, lock: sync::Mutex::new(()) }));
            match self.gate.compare_exchange(known, new, Ordering::AcqRel, Ordering::Acquire) {
                // The parent's gate is leaked: 16 bytes for each fork.
                Ok(_) => known = new,
                Err(other) => {
                    // SAFETY: made above, and nobody else knows it.
                    drop(unsafe { Box::from_raw(new) });
                    known = other;
                }
            }
        }
    }
}

impl<T> Drop for ProcessLock<T> {
    fn drop(&mut self) {
        let gate = *self.gate.get_mut();
        if !gate.is_null() {
            // SAFETY: made from a box, and nobody else uses this lock any more.
            drop(unsafe { Box::from_raw(gate) });
        }
    }
}

impl<T> Deref for ProcessGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for ProcessGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

#[cfg(all(test, target_os = "linux", not(loom)))]
mod tests {
    use super::ProcessLock;

    /// Returns whether `body` is true in a forked child. The child is ended if it hangs.
    fn in_child(body: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child locks only the locks of this test, allocates (which glibc makes
        // possible) and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: it has no requirements. The signal ends the child.
            unsafe { libc::alarm(60) };
            let held = body();
            // SAFETY: it ends the child without running anything of the parent.
            unsafe { libc::_exit(i32::from(!held)) };
        }
        let mut status = 0;
        // SAFETY: `status` is valid for the call to write to.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
    }

    #[test]
    fn a_child_has_what_nobody_held() {
        let lock = ProcessLock::new(1);
        for _ in 0..2 {
            *lock.lock().unwrap() += 1;
            assert!(in_child(|| {
                *lock.lock().unwrap() += 1;
                // A grandchild as well.
                in_child(|| lock.lock().is_some_and(|value| *value >= 3))
            }));
        }
        assert_eq!(*lock.lock().unwrap(), 3);
    }

    /// Many, so that a wait for each would be noticed.
    #[test]
    fn a_child_knows_at_once_what_is_held_for_ever() {
        let locks: Vec<_> = (0..100).map(ProcessLock::new).collect();
        let held: Vec<_> = locks.iter().map(ProcessLock::lock).collect();
        let none = || locks.iter().all(|lock| lock.lock().is_none());
        assert!(in_child(|| none() && none() && in_child(none)));
        drop(held);
        assert!(locks[0].lock().is_some() && in_child(|| locks.iter().all(|lock| lock.lock().is_some())));
    }

    #[test]
    fn threads_of_a_child_wait_for_each_other() {
        const NAME: &str = "threads_of_a_child_wait_for_each_other";
        if crate::tests::common::sanitized() {
            return crate::tests::common::not_run(NAME, "ThreadSanitizer allows a forked child no threads");
        }
        let lock = ProcessLock::new(0);
        drop(lock.lock());
        assert!(in_child(|| {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| (0..1000).for_each(|_| *lock.lock().unwrap() += 1));
                }
            });
            lock.lock().is_some_and(|value| *value == 4000)
        }));
    }

    #[test]
    fn a_panic_inside_leaves_it_free() {
        let lock = ProcessLock::new(0);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _held = lock.lock();
            panic!("inside");
        }));
        assert!(panicked.is_err() && lock.lock().is_some());
    }
}
