//! Locks and atomics of the whole crate, in one place so that a model checker can replace them.
//!
//! Everything that threads share inside an arena is of a type in [`checked`]. Under `cfg(loom)`
//! these are loom's types. Statics, and calls of the system, use the normal types there too,
//! because they outlive the runs of a model.
//!
//! ```text
//!            normal build              cfg(loom)
//! checked    std, parking_lot          loom's, each access is a point where other threads may run
//! others     std, parking_lot          std, parking_lot
//! ```

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

/// A small number for this thread, counted up from 0. Data in several copies is searched from this
/// number on, so that threads do not share cache lines.
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
    // A thread that is ending may have no thread-local value any more. Then any number will do.
    number.unwrap_or(0)
}

/// All threads of a model start at the same number, so that they meet.
#[cfg(all(feature = "perf", unix, loom))]
pub(crate) fn thread_number() -> usize {
    0
}

#[cfg(not(loom))]
pub(crate) mod native {
    pub(crate) use parking_lot::{Mutex, MutexGuard};
    pub(crate) use std::sync::OnceLock;
    pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, fence};

    /// Returns whether each atomic read-modify-write is also a full barrier. On x86 it is a locked
    /// instruction, and so it is (Intel SDM volume 3, "Memory Ordering").
    pub(crate) const fn rmw_is_a_fence() -> bool {
        cfg!(all(any(target_arch = "x86", target_arch = "x86_64"), not(miri)))
    }
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

    /// Lets any other thread run first. loom compares a store only with the last access to the same
    /// atomic. If that is a load of the same thread, it would not see that an earlier load of
    /// another thread could have come later. A relaxed store orders nothing, but it makes each
    /// access depend on the last one, whatever thread made it.
    fn turn() {
        TURN.store(0, Ordering::Relaxed);
    }

    pub(crate) fn fence(order: Ordering) {
        turn();
        atomic::fence(order);
    }

    /// Whether the models are of an x86 processor (`GAIA_MODEL_X86`): see the function of this name
    /// above.
    pub(crate) fn rmw_is_a_fence() -> bool {
        static X86: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        *X86.get_or_init(|| std::env::var_os("GAIA_MODEL_X86").is_some())
    }

    /// The effect of an atomic read-modify-write on x86, before and after it.
    fn barrier() {
        if rmw_is_a_fence() {
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

    /// loom's atomics. Before each access other threads may run.
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

    /// loom's lock with the calls of parking_lot's lock. It is a race to drop the lock while it is
    /// locked, or to lock it after that.
    pub(crate) struct Mutex<T> {
        lock: loom::sync::Mutex<T>,
        alive: loom::cell::UnsafeCell<()>,
    }

    // SAFETY: as for the lock in it. The cell contains nothing.
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

    /// A `OnceLock` with no more guarantees than the standard one: a reader synchronises with the
    /// thread that set the value, and with no other thread.
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
            // SAFETY: not set yet, so nobody reads it. The lock excludes other writers.
            unsafe { *self.value.get() = Some(value) };
            self.is_set.store(1, Ordering::Release);
            Ok(())
        }
    }

    // SAFETY: written once under a lock, and read only after that.
    unsafe impl<T: Send + Sync> Sync for OnceLock<T> {}
}
