//! Why a run ends early, and with which exit code.

use std::fmt;
use std::process::ExitCode;

#[derive(Debug)]
pub(crate) enum Failure {
    /// What the user gave cannot be used: a flag, a file, a program, or a mode that the system
    /// refuses.
    Input(String),
    /// Something went wrong that the user is not to blame for.
    Run(String),
    /// The arena refused something.
    Arena(gaia_jit::Error),
}

impl From<gaia_jit::Error> for Failure {
    fn from(error: gaia_jit::Error) -> Self {
        Self::Arena(error)
    }
}

/// Says what went wrong, and how the process ends.
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
