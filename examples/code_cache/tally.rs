//! What the threads count while they work.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that any thread may add to, exact once the threads have ended.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, number: usize) {
        self.0.fetch_add(number as u64, Ordering::Relaxed);
    }

    /// Adds nanoseconds.
    pub(crate) fn add_time(&self, time: Duration) {
        self.0.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Runs of programs.
    pub(crate) calls: Count,
    /// Programs that were wanted and not in the cache.
    pub(crate) misses: Count,
    /// Batches, programs, functions and bytes that were published.
    pub(crate) batches: Count,
    pub(crate) programs: Count,
    pub(crate) functions: Count,
    pub(crate) bytes: Count,
    /// Published programs that were dropped at once, because another thread had been quicker.
    pub(crate) duplicates: Count,
    /// Times the arena was full.
    pub(crate) full: Count,
    /// Programs and functions that were evicted.
    pub(crate) evicted_programs: Count,
    pub(crate) evicted_functions: Count,
    /// Misses that were compiled anew.
    pub(crate) recompiled: Count,
    /// Nanoseconds in `Batch::push`, in patching calls, in `Batch::publish` and in dropping evicted blocks.
    pub(crate) push_time: Count,
    pub(crate) link_time: Count,
    pub(crate) publish_time: Count,
    pub(crate) drop_time: Count,
    /// Wrong results, bytes or lookups.
    pub(crate) mismatches: Count,
    pub(crate) first_mismatch: OnceLock<String>,
}

impl Tally {
    pub(crate) fn mismatch(&self, what: impl FnOnce() -> String) {
        self.mismatches.add(1);
        self.first_mismatch.get_or_init(what);
    }
}
