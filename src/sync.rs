//! Locks and atomics for the whole crate, in one place so that a model checker can stand in for
//! them.
//!
//! What threads share inside an arena comes from [`checked`]: under `cfg(loom)` these are loom's
//! types. Statics, and what leads to the system, stay as they are there: they outlive the runs of a
//! model.

#[allow(unused_imports, reason = "for some features, and some systems")]
pub(crate) use parking_lot::Mutex;
pub(crate) use std::sync::Arc;
#[allow(unused_imports, reason = "for some features, and some systems")]
pub(crate) use std::sync::OnceLock;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use std::sync::atomic::AtomicI32;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

#[cfg(loom)]
pub(crate) use modelled as checked;
#[cfg(not(loom))]
pub(crate) use native as checked;

/// A small number for this thread, counted up from 0: where it looks first in what is kept in
/// several copies, so that threads do not share cache lines.
#[allow(clippy::missing_const_for_thread_local, reason = "it is const; on OpenBSD clippy looks into the macro")]
#[cfg(all(feature = "perf", unix, not(loom)))]
pub(crate) fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static MINE: std::cell::Cell<usize> = const { std::cell::Cell::new(usize::MAX) });
    let number = MINE.try_with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        mine.get()
    });
    // Where the thread is ending and has no more of its own, any number does.
    number.unwrap_or(0)
}

/// All threads of a model start at the same place, where they meet.
#[cfg(all(feature = "perf", unix, loom))]
pub(crate) fn thread_number() -> usize {
    0
}

#[cfg(not(loom))]
pub(crate) mod native {
    pub(crate) use parking_lot::{Mutex, MutexGuard};
    pub(crate) use std::sync::OnceLock;
    pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, fence};
}

#[cfg(loom)]
#[allow(clippy::expect_used, reason = "test code")]
pub(crate) mod modelled {
    use loom::sync::atomic;
    use std::cell::UnsafeCell;
    use std::ops::{Deref, DerefMut};
    use std::sync::atomic::Ordering;

    loom::lazy_static! {
        static ref TURN: atomic::AtomicUsize = atomic::AtomicUsize::new(0);
    }

    /// Any other thread may go first. loom compares a store with the last access to the same atomic
    /// only; where that is a load of the same thread, it would not see that a load of another
    /// thread before could have come after. A relaxed store orders nothing but makes each access
    /// depend on the last one, whoever's that was.
    fn turn() {
        TURN.store(0, Ordering::Relaxed);
    }

    pub(crate) fn fence(order: Ordering) {
        turn();
        atomic::fence(order);
    }

    /// What an atomic read-modify-write is on x86, before and after it.
    fn barrier() {
        if cfg!(loom_x86) {
            atomic::fence(Ordering::SeqCst);
        }
    }

    fn locked<T>(access: impl FnOnce() -> T) -> T {
        turn();
        barrier();
        let result = access();
        barrier();
        result
    }

    /// loom's atomics, each access a turn.
    macro_rules! atomic {
        ($name:ident, $value:ty) => {
            #[derive(Debug, Default)]
            pub(crate) struct $name(atomic::$name);

            #[allow(dead_code, reason = "one list for both")]
            impl $name {
                pub(crate) fn new(value: $value) -> Self {
                    Self(atomic::$name::new(value))
                }

                pub(crate) fn load(&self, order: Ordering) -> $value {
                    turn();
                    self.0.load(order)
                }

                pub(crate) fn store(&self, value: $value, order: Ordering) {
                    turn();
                    self.0.store(value, order);
                }

                pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    locked(|| self.0.fetch_add(value, order))
                }

                pub(crate) fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                    locked(|| self.0.fetch_sub(value, order))
                }

                pub(crate) fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                    locked(|| self.0.fetch_max(value, order))
                }

                pub(crate) fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                    locked(|| self.0.fetch_and(value, order))
                }

                pub(crate) fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                    locked(|| self.0.fetch_or(value, order))
                }

                pub(crate) fn compare_exchange(
                    &self,
                    old: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    locked(|| self.0.compare_exchange(old, new, success, failure))
                }

                pub(crate) fn compare_exchange_weak(
                    &self,
                    old: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.compare_exchange(old, new, success, failure)
                }
            }
        };
    }

    atomic!(AtomicU32, u32);
    atomic!(AtomicU64, u64);
    atomic!(AtomicUsize, usize);

    /// loom's lock with the calls of parking_lot's. A lock that is dropped while it is locked, or
    /// locked after that, is a race.
    pub(crate) struct Mutex<T> {
        lock: loom::sync::Mutex<T>,
        alive: loom::cell::UnsafeCell<()>,
    }

    // SAFETY: as for the lock in it; in the cell there is nothing.
    unsafe impl<T: Send> Sync for Mutex<T> {}

    pub(crate) struct MutexGuard<'a, T> {
        lock: &'a Mutex<T>,
        guard: Option<loom::sync::MutexGuard<'a, T>>,
    }

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self { lock: loom::sync::Mutex::new(value), alive: loom::cell::UnsafeCell::new(()) }
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            barrier();
            let guard = self.lock.lock().ok();
            barrier();
            self.alive.with(|_| ());
            MutexGuard { lock: self, guard }
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            barrier();
            let guard = self.lock.try_lock().ok();
            barrier();
            self.alive.with(|_| ());
            guard.map(|guard| MutexGuard { lock: self, guard: Some(guard) })
        }
    }

    impl<T> Drop for Mutex<T> {
        fn drop(&mut self) {
            self.alive.with_mut(|_| ());
        }
    }

    impl<T> Drop for MutexGuard<'_, T> {
        fn drop(&mut self) {
            self.lock.alive.with(|_| ());
            self.guard = None;
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.guard.as_deref().expect("locked")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.guard.as_deref_mut().expect("locked")
        }
    }

    /// Of no more use to others than the standard one: a reader synchronises with who set it, and
    /// with nobody else.
    pub(crate) struct OnceLock<T> {
        is_set: AtomicUsize,
        setting: loom::sync::Mutex<()>,
        value: UnsafeCell<Option<T>>,
    }

    impl<T> OnceLock<T> {
        pub(crate) fn new() -> Self {
            Self { is_set: AtomicUsize::new(0), setting: loom::sync::Mutex::new(()), value: UnsafeCell::new(None) }
        }

        pub(crate) fn get(&self) -> Option<&T> {
            if self.is_set.load(Ordering::Acquire) == 0 {
                return None;
            }
            // SAFETY: set once, before `is_set`, and never changed again.
            unsafe { (*self.value.get()).as_ref() }
        }

        pub(crate) fn set(&self, value: T) -> Result<(), T> {
            let _setting = self.setting.lock();
            if self.get().is_some() {
                return Err(value);
            }
            // SAFETY: not set yet, so nobody reads it; the lock keeps other writers away.
            unsafe { *self.value.get() = Some(value) };
            self.is_set.store(1, Ordering::Release);
            Ok(())
        }
    }

    // SAFETY: written once under a lock, read only after that.
    unsafe impl<T: Send + Sync> Sync for OnceLock<T> {}
}
