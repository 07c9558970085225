//! In what modes differ, as far as an arena has to know it.
#![forbid(unsafe_code)]

/// In what modes differ, as far as an arena has to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Bytes can be placed in pages that are executable already.
    pub(crate) fills_holes: bool,
    /// Whole pages without live code can be opened, written to in their place, and sealed again.
    pub(crate) opens_pages: bool,
    /// How the bytes of a batch's function get to a place that is not in opened pages.
    pub(crate) way_in: WayIn,
    pub(crate) trims: Trims,
    /// Pages that are put into a huge page hold memory throughout even if the system refuses
    /// half-way.
    pub(crate) collapses_in_steps: bool,
    pub(crate) readers: Readers,
}

/// What becomes of empty pages when an arena is trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trims {
    /// They stay as they are.
    Nothing,
    /// Their memory goes back to the system, but not while the arena's mappings are sealed.
    UnlessSealed,
    /// Their memory goes back to the system.
    Always,
    /// They are filled with traps, and their memory stays.
    WithTraps,
}

/// How the bytes of a batch's function get to their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WayIn {
    /// By stores to [`CodeMemory::writable`](super::CodeMemory::writable), until the batch is
    /// published.
    Stores,
    /// By [`CodeMemory::write`](super::CodeMemory::write), as soon as they are known.
    WriteAtOnce,
    /// By [`CodeMemory::write`](super::CodeMemory::write), when the batch is published; until then
    /// they lie in ordinary memory.
    WriteAtLast,
}

/// Who can read code, and whether it stays as it is meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Every thread.
    All,
    /// A thread after [`CodeMemory::let_read`](super::CodeMemory::let_read).
    EachThreadByItself,
    /// Every thread; but in a forked child the parent may write meanwhile.
    SharedWithParent,
}
