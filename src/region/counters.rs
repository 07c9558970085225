//! Counters of the calls that a region makes of the system.
#![forbid(unsafe_code)]

use crate::sync::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) flips: Counter,
    pub(crate) kernel_writes: Counter,
    pub(crate) decommits: Counter,
    /// Bytes that were flushed outside of publications. Those of publications are counted
    /// elsewhere.
    pub(crate) flushed: Counter,
    pub(crate) barriers: Counter,
}
