//! The differences of modes that an arena has to know.
#![forbid(unsafe_code)]

/// The differences of modes that an arena has to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Whether bytes can be placed in pages that are already executable.
    pub(crate) fills_holes: bool,
    /// Whether whole pages without live code can be opened, written in their place, and sealed
    /// again.
    pub(crate) opens_pages: bool,
    /// The way by which the bytes of a batch's function get to a place outside of opened pages.
    pub(crate) way_in: WayIn,
    pub(crate) trims: Trims,
    /// Whether pages that are moved into a huge page hold memory even if the system refuses
    /// half-way.
    pub(crate) collapses_in_steps: bool,
    /// Whether fresh pages cost less if several get memory at once, before functions are written
    /// there one at a time.
    pub(crate) prefaults: bool,
    pub(crate) readers: Readers,
}

/// The treatment of empty pages when an arena is trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trims {
    /// They stay as they are.
    Nothing,
    /// Their memory is returned to the system, except while the arena's mappings are sealed.
    UnlessSealed,
    /// Their memory is returned to the system.
    Always,
    /// They are filled with traps, and keep their memory.
    WithTraps,
}

/// The way by which the bytes of a batch's function get to their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WayIn {
    /// By stores to [`CodeMemory::writable`](super::CodeMemory::writable), until the batch is
    /// published.
    Stores,
    /// By [`CodeMemory::write`](super::CodeMemory::write), as soon as the bytes are known.
    WriteAtOnce,
    /// By [`CodeMemory::write`](super::CodeMemory::write), when the batch is published. Until then
    /// the bytes are in ordinary memory.
    WriteAtLast,
}

/// The threads that can read code, and whether it can change meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Every thread can read it.
    All,
    /// A thread can read it after [`CodeMemory::let_read`](super::CodeMemory::let_read).
    EachThreadByItself,
    /// Every thread can read it. In a forked child the parent may write meanwhile.
    SharedWithParent,
}
