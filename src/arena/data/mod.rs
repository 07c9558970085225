//! Data beside the code: memory of the arena's own that is readable and writable, or readable alone, and never executable for as
//! long as the arena lives.
//!
//! ```text
//! reservation   | no access | code ...           | no access | data ...  | no access |
//! ```
//!
//! The area has an allocator of its own, of the same parts as that of the code: two heaps of spans, one for data that stays
//! writable and one for data that becomes read-only, so that few mappings arise. Its bookkeeping is made when it is first used.
//!
//! Pages are made writable when something is placed in them that was not writable there before, and stay what they are when it
//! goes. Memory goes back with [`trim`](crate::CodeArena::trim), or by itself under `keep_free`.
//!
//! `space` has the bookkeeping, `area` what it asks of the system, `pages` hands out what one module of code uses.

#[cfg_attr(not(feature = "cranelift"), allow(dead_code, reason = "only modules of Cranelift have data"))]
mod area;
#[cfg(feature = "cranelift")]
mod pages;
#[cfg_attr(not(feature = "cranelift"), allow(dead_code, reason = "only modules of Cranelift have data"))]
mod space;

pub(super) use area::DataArea;
#[cfg(feature = "cranelift")]
pub(crate) use pages::DataPages;

/// What data may become.
#[cfg_attr(not(feature = "cranelift"), allow(dead_code, reason = "only modules of Cranelift have data"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataKind {
    /// It stays readable and writable.
    Writable,
    /// It becomes readable alone.
    Constant,
}
