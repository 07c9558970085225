//! What a call came to, as a number.

use jit::Error;

/// What a call came to. If it is not `GAIA_JIT_STATUS_OK`, `gaia_jit_last_error_message` says more,
/// and what the call was about is as it was before, unless the function says otherwise.
///
/// Numbers keep their meaning. Later versions may return more of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It was done.
    Ok = 0,
    /// Code, a slot or a block of no bytes was asked for.
    ZeroSize = 1,
    /// More than this arena or block could hold even when empty.
    TooLarge = 2,
    /// An alignment that is no power of two, or above the largest supported one.
    BadAlignment = 3,
    /// No hole is large enough now: a runtime's cue to free code, or to let guards go.
    ArenaFull = 4,
    /// No hole in the data beside the code is large enough.
    DataFull = 5,
    /// A write outside the block or slot.
    PastCapacity = 6,
    /// The batch has no such slot.
    OtherBatch = 7,
    /// A branch needs a stub, and its slot has none left.
    NoStub = 8,
    /// A relocation cannot be applied.
    Link = 9,
    /// Code was asked for inside its own compilation. Functions of this version do not return it.
    Recursion = 10,
    /// The address is not the start of a live block of this arena.
    NotInArena = 11,
    /// No free address range lies in branch range of the address given to `gaia_jit_builder_near`.
    OutOfReach = 12,
    /// This system, or its configuration, does not allow what was asked for.
    Unsupported = 13,
    /// The arena belongs to the process that built it; this one is a forked child.
    Forked = 14,
    /// A system call failed.
    OperatingSystem = 15,
    /// An error that this version has no number for.
    Other = 99,
    /// A handle or another pointer that has to lead somewhere is NULL.
    NullPointer = 100,
    /// A number that is none of its enumeration, or arrays of lengths that do not fit together.
    InvalidArgument = 101,
    /// The library failed in a way that it should not: a bug. Handles that the call was given may
    /// be freed, and no more.
    Panic = 102,
    /// The function that `gaia_jit_publish_with` was given returned 0.
    Callback = 103,
}

impl From<&Error> for Status {
    fn from(error: &Error) -> Self {
        match error {
            Error::ZeroSize => Self::ZeroSize,
            Error::TooLarge { .. } => Self::TooLarge,
            Error::BadAlignment { .. } => Self::BadAlignment,
            Error::ArenaFull { .. } => Self::ArenaFull,
            Error::DataFull { .. } => Self::DataFull,
            Error::PastCapacity { .. } => Self::PastCapacity,
            Error::OtherBatch { .. } => Self::OtherBatch,
            Error::NoStub { .. } => Self::NoStub,
            Error::Link { .. } => Self::Link,
            Error::Recursion => Self::Recursion,
            Error::NotInArena { .. } => Self::NotInArena,
            Error::OutOfReach { .. } => Self::OutOfReach,
            Error::Unsupported { .. } => Self::Unsupported,
            Error::Forked { .. } => Self::Forked,
            Error::OperatingSystem { .. } => Self::OperatingSystem,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    /// The crate's enumeration may grow, so the compiler does not say what is missing above.
    #[test]
    fn every_error_of_the_crate_has_a_status() {
        let api = include_str!("../../docs/public-api.txt");
        let rest = api.lines().filter_map(|line| line.split_once("gaia_jit::Error::").map(|(_, rest)| rest));
        let variants: Vec<&str> = rest.filter(|rest| rest.chars().all(char::is_alphanumeric)).collect();
        assert_eq!(variants.len(), 15, "{variants:?}");
        let here = include_str!("status.rs");
        for variant in variants {
            assert!(here.contains(&format!("Self::{variant},")), "{variant}");
        }
    }
}
