//! The one error type of the crate.

use std::io;

/// Why a call could not be carried out. Whatever failed, the arena or block is as it was before the call; the exception is
/// [`CodeBlock::patch`](crate::CodeBlock::patch).
///
/// ```
/// use gaia_jit::{CodeArena, Error};
///
/// let arena = CodeArena::builder().capacity(64 << 10).build()?;
/// match arena.publish(&[0xc3; 128 << 10][..]) {
///     Err(Error::TooLarge { asked, limit }) => assert!(asked > limit),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Code, a slot or a block of no bytes was asked for.
    #[error("zero bytes asked for")]
    ZeroSize,

    /// More than this arena or block could hold even when empty.
    #[error("{asked} bytes asked for, at most {limit} can be had")]
    TooLarge {
        /// Bytes asked for.
        asked: usize,
        /// The most that can be had, in bytes.
        limit: usize,
    },

    /// An alignment that is no power of two, or above the largest supported one.
    #[error("alignment {align} is not a power of two up to {limit}")]
    BadAlignment {
        /// The alignment asked for, in bytes.
        align: usize,
        /// The largest supported alignment, in bytes.
        limit: usize,
    },

    /// No hole is large enough now: a runtime's cue to evict. With `largest_hole >= asked` the space is there, but not
    /// where code can go: misaligned, or (without the kernel write) in pages that still hold live code.
    ///
    /// Space that waits for guards comes free when the last of them is dropped.
    #[error(
        "arena full: {asked} bytes asked for, {free} free in all, largest hole {largest_hole}, {waiting} wait for guards"
    )]
    #[non_exhaustive]
    ArenaFull {
        /// Bytes asked for, rounded up to whole granules.
        asked: usize,
        /// Free bytes in all holes together.
        free: usize,
        /// Bytes of the largest hole.
        largest_hole: usize,
        /// Bytes of dropped blocks that wait for guards.
        waiting: usize,
    },

    /// No hole in the data beside the code is large enough. [`ArenaBuilder::data`](crate::ArenaBuilder::data) says how much there
    /// is.
    #[error("data area full: {asked} bytes asked for, {free} free in all, largest hole {largest_hole}")]
    #[non_exhaustive]
    DataFull {
        /// Bytes asked for, rounded up to whole granules, for constants to whole pages.
        asked: usize,
        /// Free bytes in all holes together.
        free: usize,
        /// Bytes of the largest hole.
        largest_hole: usize,
    },

    /// A write or an entry point outside the block.
    #[error("{len} bytes at offset {offset} do not lie inside {capacity} bytes")]
    PastCapacity {
        /// Where the access begins, in bytes from the start of the block.
        offset: usize,
        /// Bytes accessed.
        len: usize,
        /// Bytes there are.
        capacity: usize,
    },

    /// The address is not the start of a live block of this arena.
    #[error("{address:#x} is not the start of a live block of this arena")]
    NotInArena {
        /// The address given.
        address: usize,
    },

    /// No free address range lies in branch range of the address given to `near`.
    #[error("no {len} free bytes of address space within {reach} bytes of {address:#x}")]
    OutOfReach {
        /// The address to be near to.
        address: usize,
        /// Bytes of address space needed.
        len: usize,
        /// Branch range of this architecture, in bytes.
        reach: usize,
    },

    /// This system, or its configuration, does not allow what was asked for.
    #[error("{what} is not supported here: {why}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// Why it cannot be had.
        why: String,
    },

    /// The arena belongs to the process that built it; this one is a forked child, which may only run, look up and
    /// drop what it inherited.
    #[error("a forked child cannot {what} in an arena of its parent")]
    Forked {
        /// What was refused.
        what: &'static str,
    },

    /// A system call failed.
    #[error("{call} failed")]
    OperatingSystem {
        /// The call, by its name in the system's manual.
        call: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// The same, said of the bytes that were asked for instead of the whole pages looked for.
    pub(crate) fn of_asked(self, asked: usize) -> Self {
        match self {
            Self::ArenaFull { free, largest_hole, waiting, .. } => {
                Self::ArenaFull { asked, free, largest_hole, waiting }
            }
            other => other,
        }
    }

    /// The process has no memory for what the crate itself keeps.
    pub(crate) fn out_of_memory() -> Self {
        Self::OperatingSystem { call: "malloc", source: io::ErrorKind::OutOfMemory.into() }
    }

    pub(crate) fn unsupported(what: &'static str, why: impl Into<String>) -> Self {
        Self::Unsupported { what, why: why.into() }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::ZeroSize | Error::BadAlignment { .. } | Error::PastCapacity { .. } | Error::NotInArena { .. } => {
                io::ErrorKind::InvalidInput
            }
            Error::TooLarge { .. } | Error::ArenaFull { .. } | Error::DataFull { .. } | Error::OutOfReach { .. } => {
                io::ErrorKind::OutOfMemory
            }
            Error::Unsupported { .. } | Error::Forked { .. } => io::ErrorKind::Unsupported,
            Error::OperatingSystem { source, .. } => source.kind(),
        };
        io::Error::new(kind, error)
    }
}
