//! The reasons why a run ends early, with their exit codes.

use std::fmt;
use std::process::ExitCode;

#[derive(Debug)]
pub(crate) enum Failure {
    /// Input that cannot be used: a flag, a file, a program, or a mode that the system refuses.
    Input(String),
    /// A failure that is not caused by the user's input.
    Run(String),
    /// An error of the arena.
    Arena(gaia_jit::Error),
}

impl From<gaia_jit::Error> for Failure {
    fn from(error: gaia_jit::Error) -> Self {
        Self::Arena(error)
    }
}

/// Prints the failure, and returns the exit code.
pub(crate) fn exit(run: Result<(), Failure>) -> ExitCode {
    let Err(failure) = run else { return ExitCode::SUCCESS };
    eprintln!("{failure}");
    ExitCode::from(if matches!(failure, Failure::Input(_)) { 2 } else { 1 })
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(message) | Self::Run(message) => f.write_str(message),
            Self::Arena(error) => write!(f, "cannot publish: {error}"),
        }
    }
}
