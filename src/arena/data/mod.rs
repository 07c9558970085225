//! The data area: memory beside the code that is readable and writable, or only readable. It is
//! never executable while the arena lives.
//!
//! ```text
//! reservation   | no access | code ...           | no access | data ...  | no access |
//!                                                              | span | span |  ...  | span |
//!                                                                writable -->   <-- constants
//! ```
//!
//! The area has its own allocator, with the same parts as that of the code: two heaps of spans
//! under one lock. One heap is for data that stays writable, the other for data that becomes
//! read-only. They take spans from opposite ends, so that there are few mappings. The bookkeeping
//! is made at the first use.
//!
//! Pages are made writable when data is placed in them that was not writable there before. They
//! keep that protection when the data is freed. [`trim`](crate::CodeArena::trim) and `keep_free`
//! give their memory back.
//!
//! # Constants in shared pages
//!
//! A page with constants is never made writable, not even for a moment, because it would be
//! writable for every thread. So constants of different blocks share pages only if the kernel
//! writes to read-only pages ([`constants`], [`Way::Kernel`]). Otherwise each batch of constants
//! takes whole pages, which are written and then made read-only once ([`Way::Pages`]).
//!
//! `space` is the bookkeeping, `area` calls the system, `pages` hands out whole pages, and
//! [`block`] is the public interface. Under the lock of the area only the lock of the guards'
//! epochs is taken.

mod area;
pub(super) mod block;
mod constants;
pub(in crate::arena) mod pages;
mod space;

pub(super) use area::DataArea;
pub(crate) use pages::DataPages;

/// The use of data after it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataKind {
    /// Data that stays readable and writable.
    Writable,
    /// Data that becomes read-only.
    Constant,
}

/// The way by which the bytes of constants get to their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::arena) enum Way {
    /// Stores. The memory was mapped by others, is writable, and stays writable.
    Stores,
    /// Writes by the kernel, into pages that are already read-only.
    Kernel,
    /// Stores into whole pages that are made read-only afterwards.
    Pages,
}
