//! The stubs of one slot of a batch: their place and their targets.
#![forbid(unsafe_code)]

/// The stubs of one slot.
pub(in crate::arena) struct Stubs {
    pub(in crate::arena) slot: usize,
    /// The offset of the first stub, in bytes from the start of the slot.
    pub(in crate::arena) first: usize,
    pub(in crate::arena) capacity: usize,
    /// The target of each stub.
    pub(in crate::arena) targets: Vec<usize>,
}
