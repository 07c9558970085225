//! Calls that the system allowed when a region was built and refuses since. The process may have
//! entered a sandbox, or other code may have closed a descriptor.
//!
//! `Flip` has two ways to write, and continues with the other one.
#![forbid(unsafe_code)]

use std::io;

use crate::Error;
use crate::sync::{AtomicBool, AtomicUsize, Ordering};

/// The number of functions that are published in the other way before the kernel write is tried
/// again.
const RETRY_AFTER: usize = 1024;

#[derive(Default)]
pub(super) struct Withdrawn {
    kernel_write: AtomicBool,
    flips: AtomicBool,
    /// The number of functions that were published since the kernel write was refused.
    since: AtomicUsize,
}

impl Withdrawn {
    /// Returns whether writes through the kernel were refused.
    pub(super) fn kernel_write(&self) -> bool {
        self.kernel_write.load(Ordering::Relaxed)
    }

    /// Returns whether pages could not be made executable again.
    pub(super) fn flips(&self) -> bool {
        self.flips.load(Ordering::Relaxed)
    }

    /// Returns whether to try the kernel write again, because the reason of the refusal may have
    /// passed.
    pub(super) fn is_time_to_try(&self) -> bool {
        self.since.fetch_add(1, Ordering::Relaxed) % RETRY_AFTER == RETRY_AFTER - 1
    }

    /// Notes a refused write through the kernel. A lack of memory is not counted.
    pub(super) fn note_write(&self, error: &Error) {
        if let Error::OperatingSystem { source, .. } = error {
            if source.kind() != io::ErrorKind::OutOfMemory {
                self.kernel_write.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Notes that a write through the kernel succeeded.
    pub(super) fn note_written(&self) {
        if self.kernel_write() {
            self.kernel_write.store(false, Ordering::Relaxed);
        }
    }

    /// Notes that pages were made executable again.
    pub(super) fn note_flipped(&self) {
        if self.flips() {
            self.flips.store(false, Ordering::Relaxed);
        }
    }

    /// Returns whether a policy refused a change of protection, and will go on to refuse it.
    pub(super) fn is_policy(error: &Error) -> bool {
        let Error::OperatingSystem { source, .. } = error else { return false };
        let policy = [io::ErrorKind::PermissionDenied, io::ErrorKind::Unsupported, io::ErrorKind::InvalidInput];
        policy.contains(&source.kind())
    }

    /// Notes that pages could not be made executable. Returns whether a policy refused it.
    pub(super) fn note_flip(&self, error: &Error) -> bool {
        let stays = Self::is_policy(error);
        if stays {
            self.flips.store(true, Ordering::Relaxed);
        }
        stays
    }
}
