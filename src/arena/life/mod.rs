//! The life of a block, from placing to giving memory back.
//!
//! - [`place`] takes granules for the next block.
//! - [`publish`] makes blocks live.
//! - [`prefault`] gets memory for the pages of the functions to come.
//! - [`retire`] drops a block, and frees its space when no older guard is left.
//! - [`shrink`] does the same for the end of a block.
//! - [`trim`] gives the memory of free pages back to the system, and moves code into huge pages.
//! - [`pages`] opens, seals and bars whole pages for the others.
//!
//! # Locks
//!
//! The order is: `Core::system`, which calls take that move space by the system; then the heaps, in
//! ascending order if there are several; then the pool. Most calls take one heap and nothing else.
//! The system is not called while a heap is locked, except for pages that have no memory: with
//! poison, and in `FileWrite` for a few of them at once. Granules about which the system is called
//! are marked as *in flight*: a thread that finds the arena full waits for `Core::system` before it
//! reports that.

mod pages;
mod place;
mod prefault;
mod publish;
mod retire;
mod shrink;
mod trim;
