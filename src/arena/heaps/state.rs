//! The state of one heap, which its lock protects.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::Counts;
use crate::Error;
use crate::arena::lookup::Entry;
use crate::space::Run;
use crate::space::heap::Heap as Space;

/// The state of one heap, which its lock protects.
pub(crate) struct State {
    /// The number of the heap in the list of heaps.
    pub(in crate::arena) index: usize,
    pub(in crate::arena) space: Space,
    /// Dropped blocks that wait for guards, in the order of their epochs.
    pub(in crate::arena) pending: VecDeque<Pending>,
    /// Whole pages that could not be made executable again. This is tried again before the arena
    /// reports that it is full.
    pub(in crate::arena) stuck: Vec<Run>,
    /// The number of granules to place elsewhere after searches for a sparse span of another heap
    /// failed one after another, and the number that is still to be placed before the next search.
    pub(in crate::arena) in_vain: u32,
    pub(in crate::arena) left_out: u32,
    pub(in crate::arena) live: Counts,
    pub(in crate::arena) waiting: Counts,
    /// The number of blocks that keep the arena's memory: those published here less those dropped
    /// here. Only the sum over all heaps has a meaning.
    pub(super) holders: i64,
    /// Whether no handle is left. From then on blocks are subtracted from another count.
    pub(super) closed: bool,
}

/// A dropped block that waits until all guards are younger than its epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(in crate::arena) epoch: u64,
    pub(in crate::arena) entry: Entry,
}

impl State {
    pub(super) fn new(index: usize) -> Result<Self, Error> {
        Ok(Self {
            index,
            space: Space::new(index as u16 + 1)?,
            pending: VecDeque::new(),
            stuck: Vec::new(),
            in_vain: 0,
            left_out: 0,
            live: Counts::default(),
            waiting: Counts::default(),
            holders: 0,
            closed: false,
        })
    }

    /// Counts a block that keeps the arena's memory, and adds its figures.
    #[inline]
    pub(in crate::arena) fn publish(&mut self, run: Run, bytes: u32) {
        self.live.publish(run, bytes);
        self.holders += 1;
    }

    /// Counts a block out that nobody got.
    pub(in crate::arena) fn unpublish(&mut self, run: Run, bytes: u32) {
        self.live.unpublish(run, bytes);
        self.holders -= 1;
    }

    /// Counts out a block that kept the arena's memory. Returns whether no handle is left. Then the
    /// block has to be subtracted from the blocks that are left.
    #[must_use]
    #[inline]
    pub(in crate::arena) fn let_go(&mut self) -> bool {
        if !self.closed {
            self.holders -= 1;
        }
        self.closed
    }

    /// Moves blocks that wait in some spans to the heap that owns these spans now.
    pub(super) fn hand_over(&mut self, to: &mut Self, is_moved: impl Fn(u32) -> bool) {
        let (moved, kept): (VecDeque<_>, _) = self.pending.drain(..).partition(|pending| is_moved(pending.entry.start));
        self.pending = kept;
        moved.into_iter().for_each(|pending| to.wait(pending));
        let (moved, kept): (Vec<_>, _) = self.stuck.drain(..).partition(|run| is_moved(run.start));
        self.stuck = kept;
        to.stuck.extend(moved);
    }

    /// Adds a block to those that wait, by its epoch.
    pub(in crate::arena) fn wait(&mut self, pending: Pending) {
        let at = self.pending.partition_point(|other| other.epoch <= pending.epoch);
        self.pending.insert(at, pending);
    }
}
