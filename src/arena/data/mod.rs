//! Data beside the code: memory of the arena's own that is readable and writable, or readable
//! alone, and never executable for as long as the arena lives.
//!
//! ```text
//! reservation   | no access | code ...           | no access | data ...  | no access |
//! ```
//!
//! The area has an allocator of its own, of the same parts as that of the code: two heaps of spans,
//! one for data that stays writable and one for data that becomes read-only, so that few mappings
//! arise. Its bookkeeping is made when it is first used.
//!
//! Pages are made writable when something is placed in them that was not writable there before, and
//! stay what they are when it goes. Memory goes back with [`trim`](crate::CodeArena::trim), or by
//! itself under `keep_free`.
//!
//! # How constants get into pages that others are read from
//!
//! A page with constants is never made writable, not for a moment: it would be writable for every
//! thread. So constants of different blocks share pages only where the kernel writes to read-only
//! pages ([`constants`], [`Way::Kernel`]). Elsewhere each batch of constants takes whole pages,
//! which are written to and then made read-only once ([`Way::Pages`]).
//!
//! `space` has the bookkeeping, `area` what it asks of the system, `pages` hands out whole pages,
//! [`block`] is what users hold.

mod area;
pub(super) mod block;
mod constants;
pub(in crate::arena) mod pages;
mod space;

pub(super) use area::DataArea;
pub(crate) use pages::DataPages;

/// What data may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataKind {
    /// It stays readable and writable.
    Writable,
    /// It becomes readable alone.
    Constant,
}

/// How the bytes of constants get to their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::arena) enum Way {
    /// By stores: memory that others mapped is writable, and stays so.
    Stores,
    /// By the kernel, into pages that are read-only already.
    Kernel,
    /// By stores, into whole pages that are made read-only behind that.
    Pages,
}
