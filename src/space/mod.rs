//! The allocator: which granules are free, and which heap owns them. It is plain data that never
//! calls the system.
//!
//! ```text
//! pool (wholly free spans)  --take spans-->  heap  --take granules-->  block
//!                           <--put spans---        <--free granules--
//!
//! tables shared by all heaps:  one bit for each granule: taken?
//!                              one word for each span: owner, resident pages, marks
//!                              one word for each bin: links of the index of large holes
//! ```
//!
//! - [`granules`]: the tables that all heaps share. One bit for each granule (16 bytes) says
//!   whether it is taken. One word for each span (64 KiB) says which heap owns it and which of its
//!   pages hold memory.
//! - [`heap`]: the spans of one heap, and the ways to find a hole in them.
//! - [`large`]: the index of a heap's large holes.
//! - [`pool`]: the spans that belong to no heap.
//! - [`bit_set`]: a set of numbers.
//!
//! A *hole* is a maximal run of free granules in spans of one heap. Freed neighbours coalesce,
//! because their bits are cleared, in any order. There are no boundary tags to maintain. This
//! folder has no locks: the arena locks a heap before it calls one.
#![forbid(unsafe_code)]

pub(crate) mod bit_set;
pub(crate) mod granules;
pub(crate) mod heap;
mod large;
#[cfg(all(any(test, fuzzing), not(loom)))]
pub mod model;
pub(crate) mod pool;
#[cfg(all(test, not(loom)))]
mod tests;

/// A half-open run of granules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Run {
    pub(crate) const fn new(start: u32, len: u32) -> Self {
        Self { start, end: start + len }
    }

    pub(crate) const fn len(self) -> u32 {
        self.end - self.start
    }

    /// Returns `len` granules at the first multiple of `align` in this run, if they fit.
    pub(crate) fn fit(self, len: u32, align: u32) -> Option<Run> {
        let start = self.start.checked_add(align - 1)? & !(align - 1);
        let end = start.checked_add(len)?;
        (end <= self.end).then_some(Run { start, end })
    }
}

/// Returns two elements of a slice, if their indices differ.
pub(crate) fn two_mut<T>(slice: &mut [T], first: usize, second: usize) -> Option<(&mut T, &mut T)> {
    if first < second {
        let (left, right) = slice.split_at_mut_checked(second)?;
        Some((left.get_mut(first)?, right.first_mut()?))
    } else {
        let (left, right) = slice.split_at_mut_checked(first)?;
        Some((right.first_mut()?, left.get_mut(second)?))
    }
}
