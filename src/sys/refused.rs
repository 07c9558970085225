//! A failed system call. Every call of [`Os`](super::Os) returns this.
#![forbid(unsafe_code)]

use std::io;

/// A failed system call: its name, and the error of the system.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) call: &'static str,
    pub(crate) source: io::Error,
    /// The bytes that were asked for, if the call was about an amount.
    pub(crate) bytes: Option<usize>,
}

impl Refused {
    pub(crate) fn new(call: &'static str, source: io::Error) -> Self {
        Self { call, source, bytes: None }
    }

    /// Adds the amount that was asked for.
    #[cfg(unix)]
    pub(crate) fn of(self, bytes: usize) -> Self {
        Self { bytes: Some(bytes), ..self }
    }

    #[cfg(unix)]
    pub(crate) fn last(call: &'static str) -> Self {
        Self::new(call, io::Error::last_os_error())
    }

    /// Returns whether the cause is a lack of memory or of descriptors. That passes, and says
    /// nothing about what the system allows.
    pub(crate) fn passes(&self) -> bool {
        #[cfg(unix)]
        const PASSING: &[i32] = &[libc::EMFILE, libc::ENFILE, libc::ENOMEM];
        #[cfg(not(unix))]
        const PASSING: &[i32] = &[];
        self.source.raw_os_error().is_some_and(|number| PASSING.contains(&number))
    }
}

impl From<Refused> for crate::Error {
    fn from(refused: Refused) -> Self {
        crate::Error::OperatingSystem { call: refused.call, bytes: refused.bytes, path: None, source: refused.source }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Refused>;

/// Returns the refusal of a call that the system does not have.
pub(super) fn missing<T>(call: &'static str) -> Result<T> {
    Err(Refused::new(call, io::ErrorKind::Unsupported.into()))
}
