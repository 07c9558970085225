//! What the system allowed when a region was built and refuses since: a sandbox that the process
//! entered, a descriptor that other code closed.
//!
//! `Flip` has two ways in, and goes on with the other one.
#![forbid(unsafe_code)]

use std::io;

use crate::Error;
use crate::sync::{AtomicBool, AtomicUsize, Ordering};

/// How many functions are published by the other way before the kernel write is tried again.
const PATIENCE: usize = 1024;

#[derive(Default)]
pub(super) struct Withdrawn {
    kernel_write: AtomicBool,
    flips: AtomicBool,
    /// Functions that were published since the kernel write was refused.
    since: AtomicUsize,
}

impl Withdrawn {
    /// Whether writes through the kernel were refused.
    pub(super) fn kernel_write(&self) -> bool {
        self.kernel_write.load(Ordering::Relaxed)
    }

    /// Whether pages could not be made executable again.
    pub(super) fn flips(&self) -> bool {
        self.flips.load(Ordering::Relaxed)
    }

    /// Whether the kernel write is worth a try again: what refused it may be gone.
    pub(super) fn is_time_to_try(&self) -> bool {
        self.since.fetch_add(1, Ordering::Relaxed) % PATIENCE == PATIENCE - 1
    }

    /// A write through the kernel was refused. Want of memory says nothing.
    pub(super) fn note_write(&self, error: &Error) {
        if let Error::OperatingSystem { source, .. } = error {
            if source.kind() != io::ErrorKind::OutOfMemory {
                self.kernel_write.store(true, Ordering::Relaxed);
            }
        }
    }

    /// A write through the kernel worked.
    pub(super) fn note_written(&self) {
        if self.kernel_write() {
            self.kernel_write.store(false, Ordering::Relaxed);
        }
    }

    /// Pages were made executable again.
    pub(super) fn note_flipped(&self) {
        if self.flips() {
            self.flips.store(false, Ordering::Relaxed);
        }
    }

    /// A change of protection was refused; returns whether that was a policy, which stays.
    pub(super) fn note_flip(&self, error: &Error) -> bool {
        let Error::OperatingSystem { source, .. } = error else { return false };
        let policy = [io::ErrorKind::PermissionDenied, io::ErrorKind::Unsupported, io::ErrorKind::InvalidInput];
        let stays = policy.contains(&source.kind());
        if stays {
            self.flips.store(true, Ordering::Relaxed);
        }
        stays
    }
}
