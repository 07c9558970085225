//! Why unwind information is refused.

/// What is wrong with unwind information. Offsets count bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It ends in the middle of something, or something in it reaches past the end of its entry.
    #[error("call frame information ends too early, at offset {at}")]
    Truncated {
        /// Where.
        at: usize,
    },
    /// It describes no function.
    #[error("call frame information without a function")]
    NoFunction,
    /// An entry belongs to no CIE that stands before it.
    #[error("the entry at offset {at} belongs to no CIE before it")]
    NoCie {
        /// Where the entry begins.
        at: usize,
    },
    /// A CIE of another version than 1 or 3, or an entry in the 64-bit format.
    #[error("the entry at offset {at} is of version {version}, which `.eh_frame` does not have")]
    Version {
        /// Where the entry begins.
        at: usize,
        /// What it says; 64 for the format.
        version: u8,
    },
    /// An augmentation other than `z` with any of `R`, `P`, `L` and `S`, and `B` at its end.
    #[error("the CIE at offset {at} has an augmentation that is not known")]
    Augmentation {
        /// Where the CIE begins.
        at: usize,
    },
    /// An address that is not absolute, and so would be another one elsewhere.
    #[error("the CIE at offset {at} has addresses in encoding {encoding:#x}, not absolute")]
    Encoding {
        /// Where the CIE begins.
        at: usize,
        /// What is encoded so (`DW_EH_PE_*`).
        encoding: u8,
    },
    /// A call frame instruction that is not known, may not stand there, or sets an absolute place.
    #[error("the call frame instruction {opcode:#x} at offset {at} cannot be taken")]
    Instruction {
        /// Where it stands.
        at: usize,
        /// Its first byte.
        opcode: u8,
    },
    /// An entry for no bytes, for bytes outside of the function, or for bytes that another entry is
    /// for too.
    #[error("the entry at offset {at} is for {len} bytes at {start} in a function of {size} bytes, or for some twice")]
    Range {
        /// Where the entry begins.
        at: usize,
        /// The first byte of the function that it is for.
        start: usize,
        /// How many.
        len: usize,
        /// Bytes in the function.
        size: usize,
    },
    /// It is not in the form that this system's unwinder takes.
    #[error("unwind information in the form of another system")]
    Form,
    /// The `UNWIND_INFO` of Windows does not lie in the function at a multiple of 4, its code is
    /// not before it, or it is of a kind that refers to other places (chained, with a handler).
    #[error("the unwind information at offset {at} of a function of {size} bytes cannot be taken")]
    Windows {
        /// Where it begins.
        at: usize,
        /// Bytes in the function.
        size: usize,
    },
    /// The process was forked while another thread registered a function, so that nothing can be
    /// registered in it any more.
    #[error("the process was forked while another thread registered a function")]
    Forked,
    /// The system would take no function table for the arena.
    #[error("the system took no function table for this arena")]
    NoTable,
}
