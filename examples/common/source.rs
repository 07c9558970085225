//! Where something is in a source text, and what is wrong there.

use std::fmt;

/// A position in a source text; both count from one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// What is wrong with a source text, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SourceError {
    pub(crate) place: Place,
    pub(crate) message: String,
}

impl SourceError {
    pub(crate) fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into() }
    }
}
