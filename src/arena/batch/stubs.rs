//! The stubs of one slot of a batch: where they lie, and where they lead to.
#![forbid(unsafe_code)]

/// The stubs of one slot.
pub(in crate::arena) struct Stubs {
    pub(in crate::arena) slot: usize,
    /// Where they begin, in bytes from the start of the slot.
    pub(in crate::arena) first: usize,
    pub(in crate::arena) capacity: usize,
    /// The address that each of them goes to.
    pub(in crate::arena) targets: Vec<usize>,
}
