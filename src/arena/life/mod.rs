//! The life of a block, from placing to giving memory back.
//!
//! - [`place`] takes granules for the next block.
//! - [`publish`] makes blocks live.
//! - [`retire`] drops a block, and frees its space when no older guard is left.
//! - [`shrink`] does the same for the end of a block.
//! - [`trim`] gives the memory of free pages back to the system, and moves code into huge pages.
//! - [`pages`] opens, seals and bars whole pages for the others.

mod pages;
mod place;
mod publish;
mod retire;
mod shrink;
mod trim;
