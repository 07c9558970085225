//! The one error type of the crate.

use std::fmt;
use std::io;
use std::path::Path;

use crate::reloc::{Misfit, Reloc};

/// Why a call could not be carried out. Whatever failed, the arena or block is as it was before the
/// call; the exception is [`CodeBlock::patch`](crate::CodeBlock::patch).
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

    /// No hole is large enough now: a runtime's cue to evict. With `largest_hole >= asked` the
    /// space is there, but not where code can go: misaligned, or (without the kernel write) in
    /// pages that still hold live code.
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

    /// No hole in the data beside the code is large enough.
    /// [`ArenaBuilder::data`](crate::ArenaBuilder::data) says how much there is.
    #[error(
        "data area full: {asked} bytes asked for, {free} free in all, largest hole {largest_hole}, {waiting} wait for guards"
    )]
    #[non_exhaustive]
    DataFull {
        /// Bytes asked for, rounded up to whole granules, for constants to whole pages.
        asked: usize,
        /// Free bytes in all holes together.
        free: usize,
        /// Bytes of the largest hole.
        largest_hole: usize,
        /// Bytes of dropped data that wait for guards.
        waiting: usize,
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

    /// A slot of another batch, or data of one.
    #[error("slot {slot} is of another batch")]
    #[non_exhaustive]
    OtherBatch {
        /// Its place in the batch that it is of.
        slot: usize,
    },

    /// A branch needs a stub, because its target is out of reach, and its slot has none left.
    /// Reserve the slot with more
    /// ([`Batch::reserve_with_stubs`](crate::Batch::reserve_with_stubs)), or the arena near to its
    /// targets.
    #[error("slot {slot} has {stubs} stubs, which all lead elsewhere")]
    #[non_exhaustive]
    NoStub {
        /// The place of the function in the batch.
        slot: usize,
        /// How many stubs it was reserved with.
        stubs: usize,
    },

    /// A relocation cannot be applied.
    #[error("{kind} at offset {offset} of slot {slot}, with a value of {distance:#x}: {why}")]
    #[non_exhaustive]
    Link {
        /// The place of the function in the batch.
        slot: usize,
        /// Where in the function, in bytes.
        offset: usize,
        /// What kind of relocation it is.
        kind: Reloc,
        /// The value of its formula: where it is relative, the distance.
        distance: i64,
        /// What is the matter with it.
        why: Misfit,
    },

    /// A key of a `cache::CodeCache` was asked for inside its own compilation, or inside one that
    /// the key's compilation waits for on another thread: they would wait for each other for ever.
    #[error("a key was asked for whose compilation waits for this one")]
    Recursion,

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

    /// The arena belongs to the process that built it; this one is a forked child, which may only
    /// run, look up and drop what it inherited.
    #[error("a forked child cannot {what} in an arena of its parent")]
    Forked {
        /// What was refused.
        what: &'static str,
    },

    /// A system call failed.
    #[error("{}", Failed { call, bytes: *bytes, path: path.as_deref(), source })]
    #[non_exhaustive]
    OperatingSystem {
        /// The call, by its name in the system's manual.
        call: &'static str,
        /// Bytes that were asked for, if the call was about an amount.
        bytes: Option<usize>,
        /// The file or directory, if the call was about one.
        path: Option<Box<Path>>,
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

    /// A system call that was about neither an amount nor a file.
    pub(crate) fn system(call: &'static str, source: io::Error) -> Self {
        Self::OperatingSystem { call, bytes: None, path: None, source }
    }

    /// A system call about a file or directory.
    #[cfg_attr(not(all(feature = "perf", unix)), allow(dead_code, reason = "files are for observers"))]
    pub(crate) fn of_file(call: &'static str, path: &Path, source: io::Error) -> Self {
        Self::OperatingSystem { call, bytes: None, path: Some(path.into()), source }
    }

    /// The process has no memory for what the crate itself keeps.
    pub(crate) fn out_of_memory() -> Self {
        Self::system("malloc", io::ErrorKind::OutOfMemory.into())
    }

    pub(crate) fn unsupported(what: &'static str, why: impl Into<String>) -> Self {
        Self::Unsupported { what, why: why.into() }
    }
}

/// A failed call in words, with what to do where that is known.
struct Failed<'e> {
    call: &'e str,
    bytes: Option<usize>,
    path: Option<&'e Path>,
    source: &'e io::Error,
}

impl fmt::Display for Failed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.call)?;
        if let Some(bytes) = self.bytes {
            write!(f, " of {bytes} bytes")?;
        }
        if let Some(path) = self.path {
            write!(f, " of {}", path.display())?;
        }
        f.write_str(" failed")?;
        if self.bytes.is_some() && self.source.kind() == io::ErrorKind::OutOfMemory {
            f.write_str(": limits of address space (RLIMIT_AS) count all of a reservation, so ask for less capacity")?;
        }
        Ok(())
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::ZeroSize
            | Error::BadAlignment { .. }
            | Error::PastCapacity { .. }
            | Error::NotInArena { .. }
            | Error::OtherBatch { .. }
            | Error::NoStub { .. }
            | Error::Recursion
            | Error::Link { .. } => io::ErrorKind::InvalidInput,
            Error::TooLarge { .. } | Error::ArenaFull { .. } | Error::DataFull { .. } | Error::OutOfReach { .. } => {
                io::ErrorKind::OutOfMemory
            }
            Error::Unsupported { .. } | Error::Forked { .. } => io::ErrorKind::Unsupported,
            Error::OperatingSystem { source, .. } => source.kind(),
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_names_the_amount_the_path_and_the_way_out() {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(Error::system("madvise", denied()).to_string(), "madvise failed");
        let path = Path::new("/tmp/perf-1.map");
        assert_eq!(Error::of_file("open", path, denied()).to_string(), "open of /tmp/perf-1.map failed");
        let of = |kind: io::ErrorKind| {
            Error::OperatingSystem { call: "mmap", bytes: Some(77), path: None, source: kind.into() }.to_string()
        };
        assert_eq!(of(io::ErrorKind::PermissionDenied), "mmap of 77 bytes failed");
        assert!(
            of(io::ErrorKind::OutOfMemory).starts_with("mmap of 77 bytes failed: ")
                && of(io::ErrorKind::OutOfMemory).contains("RLIMIT_AS")
        );
    }
}
