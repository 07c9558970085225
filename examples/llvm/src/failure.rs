//! Why a module has no code.

use std::{fmt, io};

use gaia_jit::Error;

/// Why [`compile`](crate::compile) returned no engine.
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure {
    /// The arena refused memory. [`Error::ArenaFull`] and [`Error::DataFull`] are cues to drop
    /// engines and to try again.
    Memory(Error),
    /// Memory could not be made executable or read-only; what the system said.
    Protection(String),
    /// LLVM made no engine; what it said.
    Engine(String),
    /// The module defines no function.
    NoFunction,
    /// A section ends at `end`, and the code model needs everything below `limit`.
    OutOfReach { section: String, end: usize, limit: usize },
    /// LLVM asked for memory after it had destroyed the manager.
    Destroyed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Memory(error)
    }
}

/// The arena's error, as `JITMemoryProvider::allocate` returns it.
pub(crate) fn of_allocation(error: io::Error) -> Failure {
    match error.downcast::<Error>() {
        Ok(error) => Failure::Memory(error),
        Err(error) => Failure::Protection(error.to_string()),
    }
}

/// An error and what it came from.
pub(crate) fn of_finalization(error: impl std::error::Error) -> Failure {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message += &format!(": {cause}");
        source = cause.source();
    }
    Failure::Protection(message)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(error) => write!(f, "no memory for a section: {error}"),
            Self::Protection(message) => write!(f, "sections could not be protected: {message}"),
            Self::Engine(message) => write!(f, "LLVM made no engine: {message}"),
            Self::NoFunction => f.write_str("the module defines no function"),
            Self::OutOfReach { section, end, limit } => write!(
                f,
                "section {section} ends at {end:#x}, but the code model needs addresses below {limit:#x}: \
                 build the arena with `near(std::ptr::null())`, or compile for the large model"
            ),
            Self::Destroyed => f.write_str("LLVM asked for memory of an engine that is gone"),
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Memory(error) => Some(error),
            _ => None,
        }
    }
}
