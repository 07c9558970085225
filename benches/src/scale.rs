//! How much work a run does.

use std::time::Duration;

/// Full size, or a smoke run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    pub quick: bool,
}

impl Scale {
    /// `full`, or a small fraction of it.
    pub fn count(self, full: usize) -> usize {
        if self.quick { (full / 50).max(64) } else { full }
    }

    /// Rounds of a race.
    pub fn rounds(self, full: usize) -> usize {
        if self.quick { full.min(3) } else { full }
    }

    /// The time a preparation may take before it is cut short.
    pub fn patience(self) -> Duration {
        Duration::from_millis(if self.quick { 100 } else { 1500 })
    }
}
