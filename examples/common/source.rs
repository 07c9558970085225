//! Positions in a source text, and errors at them.

use std::fmt;

/// A position in a source text. Lines and columns count from one.
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

/// An error in a source text, with its position.
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
