//! The reasons why unwind information is refused.

/// The reason why unwind information is refused. Offsets count bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The information ends too early, or a part of it reaches past the end of its entry.
    #[error("the call frame information ends too early, at offset {at}")]
    Truncated {
        /// The offset of the part that is cut off.
        at: usize,
    },
    /// The information describes no function.
    #[error("the call frame information describes no function")]
    NoFunction,
    /// An entry refers to no CIE before it.
    #[error("the entry at offset {at} refers to no CIE before it")]
    NoCie {
        /// The offset of the entry.
        at: usize,
    },
    /// A CIE of another version than 1 or 3, or an entry in the 64-bit format.
    #[error("the entry at offset {at} is of version {version}, which `.eh_frame` does not have")]
    Version {
        /// The offset of the entry.
        at: usize,
        /// The version in the entry; 64 for the 64-bit format.
        version: u8,
    },
    /// An augmentation other than `z` with any of `R`, `P`, `L` and `S`, and `B` at its end.
    #[error("the CIE at offset {at} has an augmentation that is not known")]
    Augmentation {
        /// The offset of the CIE.
        at: usize,
    },
    /// An address that is not absolute, and so would change with its place.
    #[error("the CIE at offset {at} has addresses in encoding {encoding:#x}; only absolute ones (0) are accepted")]
    Encoding {
        /// The offset of the CIE.
        at: usize,
        /// The encoding of the address (`DW_EH_PE_*`).
        encoding: u8,
    },
    /// A call frame instruction that is not known, is not allowed at its place, or sets an absolute
    /// address.
    #[error("the call frame instruction {opcode:#x} at offset {at} is not known or not allowed")]
    Instruction {
        /// The offset of the instruction.
        at: usize,
        /// The first byte of the instruction.
        opcode: u8,
    },
    /// An entry for no bytes, for bytes outside of the function, or for bytes that another entry
    /// describes too.
    #[error(
        "the entry at offset {at} describes {len} bytes at {start}: they are not in the function of {size} bytes, or another entry describes some of them"
    )]
    Range {
        /// The offset of the entry.
        at: usize,
        /// The offset in the function of the first byte that it describes.
        start: usize,
        /// The number of bytes that it describes.
        len: usize,
        /// The size of the function in bytes.
        size: usize,
    },
    /// The information is not in the form of this system's unwinder.
    #[error("the unwind information is in the form of another system")]
    Form,
    /// The `UNWIND_INFO` of Windows is not in the function at a multiple of 4, its code is not
    /// before it, or it is of a kind that refers to other places (chained, with a handler).
    #[error(
        "the unwind information at offset {at} of a function of {size} bytes is misplaced, or of a kind that is not accepted"
    )]
    Windows {
        /// The offset of the information in the function.
        at: usize,
        /// The size of the function in bytes.
        size: usize,
    },
    /// The process was forked while another thread registered a function, so nothing can be
    /// registered in it any more.
    #[error("the process was forked while another thread registered a function, so nothing can be registered in it")]
    Forked,
    /// The system refused a function table for the arena.
    #[error("the system refused a function table for this arena")]
    NoTable,
}
