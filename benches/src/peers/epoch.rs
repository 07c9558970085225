//! crossbeam-epoch, whose guards do what an arena's guards do.

pub const NAME: &str = "crossbeam-epoch";

/// Pins the default collector, and unpins.
#[inline]
pub fn pin() {
    drop(crossbeam_epoch::pin());
}
