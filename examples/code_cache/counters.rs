//! The counters of the threads.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number to which any thread may add. It is exact after the threads have ended.
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

/// The number of calls of one kind, and their total time.
#[derive(Debug, Default)]
pub(crate) struct Timed {
    calls: Count,
    time: Count,
}

impl Timed {
    pub(crate) fn add(&self, time: Duration) {
        self.calls.add(1);
        self.time.add_time(time);
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.get()
    }

    /// Returns the nanoseconds of a call; zero if there was none.
    pub(crate) fn mean(&self) -> u64 {
        self.time.get().checked_div(self.calls.get()).unwrap_or(0)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Runs of programs.
    pub(crate) calls: Count,
    /// Programs that were asked for and in the cache.
    pub(crate) found: Count,
    /// Programs, functions and bytes that were published because they were not in the cache.
    pub(crate) programs: Count,
    pub(crate) functions: Count,
    pub(crate) bytes: Count,
    /// How often the arena was full of code in use.
    pub(crate) full: Count,
    /// Functions that were evicted.
    pub(crate) evicted_functions: Count,
    /// Misses for which the program was compiled again.
    pub(crate) recompiled: Count,
    /// Nanoseconds in `Batch::push`, in linking, and in the rest of a miss (making executable,
    /// evicting).
    pub(crate) push_time: Count,
    pub(crate) link_time: Count,
    pub(crate) publish_time: Count,
    /// Calls through redirects: of the interpreter, and of compiled code.
    pub(crate) tiers: [Timed; 2],
    /// Programs behind redirects that were compiled.
    pub(crate) tiered_up: Count,
    /// Wrong results, bytes or lookups.
    pub(crate) mismatches: Count,
    pub(crate) first_mismatch: OnceLock<String>,
}

impl Counters {
    pub(crate) fn mismatch(&self, what: impl FnOnce() -> String) {
        self.mismatches.add(1);
        self.first_mismatch.get_or_init(what);
    }
}
