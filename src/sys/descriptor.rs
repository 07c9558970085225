//! Descriptors of the crate among those of the program, on Linux and Android.
//!
//! Programs close descriptors by number (`close_range(3, ..)` before they start another program),
//! and the next file that they open gets the lowest free number. So the crate's descriptors have
//! high numbers, and a descriptor is identified by the file that it leads to.

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::MetadataExt;

use super::{Refused, Result, limits};

/// The identity of a file, as long as the file is open somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl Identity {
    pub(super) fn of(file: &File) -> Result<Self> {
        let meta = file.metadata().map_err(|e| Refused::new("fstat", e))?;
        Ok(Self { device: meta.dev(), inode: meta.ino() })
    }

    /// Returns whether `number` leads to this file.
    pub(super) fn is_at(self, number: RawFd) -> bool {
        number >= 0 && Self::of(&borrow(number)).is_ok_and(|identity| identity == self)
    }
}

impl Identity {
    /// Closes a descriptor that leads to this file. Another descriptor that got its number stays
    /// open.
    pub(super) fn close(self, number: RawFd) {
        if self.is_at(number) {
            // SAFETY: it takes a number only, and the crate owns it.
            unsafe { libc::close(number) };
        }
    }
}

/// Returns a file by its number, which stays open. Wherever the number leads, calls on it can only
/// fail.
pub(super) fn borrow(number: RawFd) -> ManuallyDrop<File> {
    // SAFETY: this value never closes it. If the number leads elsewhere, the caller is responsible
    // for what is done with it.
    ManuallyDrop::new(unsafe { File::from_raw_fd(number) })
}

/// Returns the same file under a high number. It is not very high, because the table of descriptors
/// is as long as the highest number.
pub(super) fn with_high_number(file: File) -> File {
    let most = limits::descriptors().unwrap_or(u64::MAX).min(1024) as libc::c_int;
    // SAFETY: it takes numbers only.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, most / 4 * 3) } {
        -1 => file,
        // SAFETY: a new descriptor that nobody else owns.
        high => unsafe { File::from_raw_fd(high) },
    }
}

/// Returns the error for a descriptor that others closed and whose number they use now.
pub(crate) fn elsewhere(call: &'static str) -> Refused {
    let why =
        "other code of this process closed the descriptor of the arena's file, and its number now leads elsewhere";
    Refused::new(call, io::Error::other(why))
}
