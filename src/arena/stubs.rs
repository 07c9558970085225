//! The stubs of one slot of a batch: where they lie, and where they lead to.
#![forbid(unsafe_code)]

/// The stubs of one slot.
pub(super) struct Stubs {
    pub(super) slot: usize,
    /// Where they begin, in bytes from the start of the slot.
    pub(super) first: usize,
    pub(super) capacity: usize,
    /// Where each of them goes to.
    pub(super) targets: Vec<*const u8>,
}
