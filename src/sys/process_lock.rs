//! A lock for what belongs to the process and not to an arena, so that a forked child goes on with it.
//!
//! If another thread held it while the process forked, it is held for ever in the child, and what it guards may be in the
//! middle of a change. A child cannot ask; so until it has had the lock once it waits for a while only.
#![forbid(unsafe_code)]

use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::generation;
use crate::sync::{AtomicU64, Ordering};

/// How long a child's own threads may hold it: far longer than any does.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct ProcessLock<T> {
    lock: Mutex<T>,
    /// The process that surely can have it.
    known: AtomicU64,
    /// The process that surely cannot.
    lost: AtomicU64,
}

impl<T> ProcessLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { lock: Mutex::new(value), known: AtomicU64::new(0), lost: AtomicU64::new(0) }
    }

    /// `None` in a child that was forked while another thread held it.
    pub(crate) fn lock(&self) -> Option<MutexGuard<'_, T>> {
        let now = generation();
        // The first process that wants it has it from nobody else.
        let known = self.known.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).unwrap_or_else(|set| set);
        if known == 0 || known == now {
            return Some(self.lock.lock());
        }
        if self.lost.load(Ordering::Relaxed) == now {
            return None;
        }
        let begin = Instant::now();
        loop {
            if let Some(guard) = self.lock.try_lock() {
                self.known.store(now, Ordering::Relaxed);
                return Some(guard);
            }
            if self.known.load(Ordering::Relaxed) == now {
                return Some(self.lock.lock());
            }
            if begin.elapsed() > PATIENCE {
                self.lost.store(now, Ordering::Relaxed);
                return None;
            }
            thread::yield_now();
        }
    }
}
