//! The one error type of the crate.
//!
//! Every refusal is one variant with its figures. Its text says what happened, with which figures,
//! and what to do.
//!
//! - A call of the system becomes [`Error::OperatingSystem`], through `sys::Refused`. It names the
//!   call, the bytes, and the path if there is one. For frequent reasons it gives advice.
//! - A policy, a setting or a missing ability becomes [`Error::Unsupported`]. Its two parts are
//!   *what* was asked for and *why* it is refused. The second part ends with the way out, where
//!   there is one.
//! - A lack of memory for bookkeeping is an `OperatingSystem` error too (`Error::out_of_memory`).

use std::fmt;
use std::io;
use std::path::Path;

use crate::reloc::{Misfit, Reloc};

/// The reason why a call failed. After an error the arena or block is as it was before the call,
/// except after [`CodeBlock::patch`](crate::CodeBlock::patch) and
/// [`CodeBlock::patch_word`](crate::CodeBlock::patch_word).
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
    /// Code, a slot or a block of zero bytes was asked for.
    #[error("zero bytes asked for")]
    ZeroSize,

    /// More was asked for than this arena or block could hold even when it is empty.
    #[error("{asked} bytes asked for, at most {limit} can be had")]
    TooLarge {
        /// The bytes that were asked for.
        asked: usize,
        /// The limit, in bytes.
        limit: usize,
    },

    /// The alignment is no power of two, or above the limit.
    #[error("alignment {align} is not a power of two up to {limit}")]
    BadAlignment {
        /// The alignment that was asked for, in bytes.
        align: usize,
        /// The largest supported alignment, in bytes.
        limit: usize,
    },

    /// No hole in the arena is large enough now. Evict code and try again.
    ///
    /// If `largest_hole >= asked`, there is enough space, but not where code can be placed. It has
    /// the wrong alignment, or (without the kernel write) it lies in pages with live code.
    ///
    /// Space that waits for guards becomes free when the last of these guards is dropped.
    #[error(
        "arena full: {asked} bytes asked for, {free} free in all, largest hole {largest_hole}, {waiting} wait for \
         guards; drop code or guards, and try again"
    )]
    #[non_exhaustive]
    ArenaFull {
        /// The bytes that were asked for, rounded up to whole granules.
        asked: usize,
        /// The free bytes of all holes together.
        free: usize,
        /// The bytes of the largest hole.
        largest_hole: usize,
        /// The bytes of dropped blocks that wait for guards. In a compilation of a cache, those of
        /// entries that it evicted are included.
        waiting: usize,
    },

    /// No hole in the data area is large enough now.
    /// [`ArenaBuilder::data`](crate::ArenaBuilder::data) sets the size of the area.
    #[error(
        "data area full: {asked} bytes asked for, {free} free in all, largest hole {largest_hole}, {waiting} wait for \
         guards; drop data or guards and try again, or build the arena with a larger data area"
    )]
    #[non_exhaustive]
    DataFull {
        /// The bytes that were asked for, rounded up to whole granules, and for constants to whole
        /// pages.
        asked: usize,
        /// The free bytes of all holes together.
        free: usize,
        /// The bytes of the largest hole.
        largest_hole: usize,
        /// The bytes of dropped data that wait for guards.
        waiting: usize,
    },

    /// A write, a length or an entry point does not lie inside the block.
    #[error("{len} bytes at offset {offset} do not lie inside {capacity} bytes")]
    PastCapacity {
        /// The offset of the access from the start of the block, in bytes.
        offset: usize,
        /// The bytes of the access.
        len: usize,
        /// The bytes of the block.
        capacity: usize,
    },

    /// The slot, or the data, belongs to another batch.
    #[error("slot {slot} belongs to another batch")]
    #[non_exhaustive]
    OtherBatch {
        /// The number of the slot in its own batch.
        slot: usize,
    },

    /// A branch needs a stub because its target is out of reach, and its slot has none left.
    /// Reserve the slot with more stubs
    /// ([`Batch::reserve_with_stubs`](crate::Batch::reserve_with_stubs)), or build the arena
    /// [`near`](crate::ArenaBuilder::near) its targets.
    ///
    /// [`Batch::branch_target`](crate::Batch::branch_target) returns it.
    /// [`Batch::link`](crate::Batch::link) returns [`Error::Link`] instead, with the place of the
    /// branch.
    #[error("slot {slot} has {stubs} stubs, and none is left for this target: reserve it with more")]
    #[non_exhaustive]
    NoStub {
        /// The number of the slot in the batch.
        slot: usize,
        /// The number of stubs that it was reserved with.
        stubs: usize,
    },

    /// A relocation cannot be applied.
    #[error("{kind} at offset {offset} of slot {slot}, with a value of {distance:#x}: {why}")]
    #[non_exhaustive]
    Link {
        /// The number of the slot in the batch.
        slot: usize,
        /// The offset of the relocation in the function, in bytes.
        offset: usize,
        /// The kind of the relocation.
        kind: Reloc,
        /// The value of its formula. For relative kinds this is the distance.
        distance: i64,
        /// The reason why it cannot be applied.
        why: Misfit,
    },

    /// A key of a `cache::CodeCache` was asked for inside its own compilation, or inside a
    /// compilation for which the key's compilation waits on another thread. The two would wait for
    /// each other for ever.
    #[error("the compilation of this key waits for the compilation that asked for it")]
    Recursion,

    /// The address is not the start of a live block of this arena.
    #[error("{address:#x} is not the start of a live block of this arena")]
    NotInArena {
        /// The address that was given.
        address: usize,
    },

    /// No free address space lies in branch range of the address that was given to
    /// [`ArenaBuilder::near`](crate::ArenaBuilder::near).
    #[error("no {len} free bytes of address space within {reach} bytes of {address:#x}: ask for less capacity")]
    OutOfReach {
        /// The address that the arena was to be near to.
        address: usize,
        /// The bytes of address space that were needed.
        len: usize,
        /// The branch range of this architecture, in bytes.
        reach: usize,
    },

    /// This system, or its configuration, does not allow what was asked for.
    #[error("{what} is not supported here: {why}")]
    Unsupported {
        /// The call, setting or mode that was asked for.
        what: &'static str,
        /// The reason why it is refused.
        why: String,
    },

    /// The arena belongs to the process that built it, and this process is a forked child. A child
    /// may only run, look up and drop what it inherited.
    #[error("a forked child cannot {what} in an arena of its parent; it can build one of its own")]
    Forked {
        /// The operation that was refused.
        what: &'static str,
    },

    /// A system call failed.
    #[error("{}", Failed { call, bytes: *bytes, path: path.as_deref(), source })]
    #[non_exhaustive]
    OperatingSystem {
        /// The call, by its name in the system's manual.
        call: &'static str,
        /// The bytes that were asked for, if the call was about an amount.
        bytes: Option<usize>,
        /// The file or directory, if the call was about one.
        path: Option<Box<Path>>,
        /// The error that the system returned.
        source: io::Error,
    },
}

impl Error {
    /// Replaces the size in whole pages that was looked for by the size that was asked for.
    pub(crate) fn of_asked(self, asked: usize) -> Self {
        match self {
            Self::ArenaFull { free, largest_hole, waiting, .. } => {
                Self::ArenaFull { asked, free, largest_hole, waiting }
            }
            other => other,
        }
    }

    /// Makes the error of a system call that was about neither an amount nor a file.
    pub(crate) fn system(call: &'static str, source: io::Error) -> Self {
        Self::OperatingSystem { call, bytes: None, path: None, source }
    }

    /// Makes the error of a system call about a file or directory.
    #[cfg_attr(not(all(feature = "perf", unix)), allow(dead_code, reason = "files are for observers"))]
    pub(crate) fn of_file(call: &'static str, path: &Path, source: io::Error) -> Self {
        Self::OperatingSystem { call, bytes: None, path: Some(path.into()), source }
    }

    /// Makes the error of a process that has no memory for the crate's own tables.
    pub(crate) fn out_of_memory() -> Self {
        Self::system("malloc", io::ErrorKind::OutOfMemory.into())
    }

    pub(crate) fn unsupported(what: &'static str, why: impl Into<String>) -> Self {
        Self::Unsupported { what, why: why.into() }
    }
}

/// A failed call in words, with advice where there is some.
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
