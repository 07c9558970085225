//! Guards: which threads may be running code that was dropped.
//!
//! # Algorithm
//!
//! An *epoch* counts the drops that had to wait. A guard takes a free slot (a cache line of its own) and writes the
//! current epoch there; dropping the guard clears the slot. A block dropped while guards exist is marked with the epoch,
//! which then moves on; its space is free once no slot holds that number or a smaller one: guards taken later hold
//! larger numbers, and cannot have got the block's address. With no guard at all a drop does not even touch the epoch.
//!
//! Each guard has a slot of its own, nested guards of one thread included, so a guard holds back just what was dropped
//! after it was taken. There is nothing to register and nothing to clean up when a thread ends.
//!
//! # Why it is right
//!
//! A thread takes a guard, then reads the runtime's table of functions; another takes the function out of that table,
//! then drops it and looks at the slots. Both have a sequentially consistent fence in between, so either the looker sees
//! the guard, or the guarded thread sees the table without the function (the store-buffering pattern; crossbeam-epoch
//! and hazard pointers rest on the same). An epoch read too early only makes a guard look older than it is.
//!
//! All of that is ordered by the two fences, so the accesses around them need no order of their own. What is written
//! before a guard's fence (its slot, and how many were ever taken) is seen behind a later fence of a looker. An epoch
//! moves on behind the looker's fence and is read before the guard's, so a guard that reads the new epoch does not find
//! what was taken out before ([atomics.fences] in the C++ standard, which Rust takes over). Only the end of a guard has
//! no fence: clearing the slot releases, and whoever looks acquires, also if the slot is another guard's by then, as it
//! is taken by a read-modify-write ("release sequence" there).

use crate::sync::checked::{AtomicU64, AtomicUsize, OnceLock, fence};
use crate::sync::{Ordering, thread_number};

/// Few in a model, so that it comes to the further ones.
const SLOTS: usize = if cfg!(loom) { 2 } else { 64 };

#[repr(align(64))]
struct Slot(AtomicU64);

/// Slots for guards, and further ones if ever more guards than that live at one time.
struct Slots {
    slots: [Slot; SLOTS],
    /// Slots from here on were never taken.
    used: AtomicUsize,
    more: OnceLock<Box<Slots>>,
}

impl Slots {
    fn new() -> Self {
        Self {
            slots: std::array::from_fn(|_| Slot(AtomicU64::new(0))),
            used: AtomicUsize::new(0),
            more: OnceLock::new(),
        }
    }

    /// Every chain of slots, this one first.
    fn chain(&self) -> impl Iterator<Item = &Slots> {
        std::iter::successors(Some(self), |slots| slots.more.get().map(|more| &**more))
    }
}

pub(crate) struct Guards {
    epoch: AtomicU64,
    slots: Slots,
}

/// Keeps the space of code dropped from now on from being used again; see [`CodeArena::pin`](crate::CodeArena::pin).
#[must_use = "code is protected only while the guard lives"]
pub struct Guard<'a> {
    slot: &'a AtomicU64,
}

impl std::fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guard")
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // Whoever sees the slot cleared may overwrite the code, after all that was done under the guard.
        self.slot.store(0, Ordering::Release);
    }
}

/// A sequentially consistent fence right after an atomic read-modify-write. On x86 that is a locked instruction, and so
/// a full barrier already (Intel SDM volume 3, "Memory Ordering"); a fence beside it would only cost.
pub(super) fn fence_after_rmw() {
    if cfg!(all(any(target_arch = "x86", target_arch = "x86_64"), not(any(miri, loom)))) {
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
}

impl Guards {
    pub(crate) fn new() -> Self {
        Self { epoch: AtomicU64::new(1), slots: Slots::new() }
    }

    pub(crate) fn pin(&self) -> Guard<'_> {
        let epoch = self.epoch.load(Ordering::Relaxed);
        let first = thread_number() % SLOTS;
        let mut slots = &self.slots;
        loop {
            for index in (first..SLOTS).chain(0..first) {
                let Slot(slot) = &slots.slots[index];
                if slot.load(Ordering::Relaxed) != 0 {
                    continue;
                }
                // Before the fence, so that whoever must see the guard looks at its slot.
                if slots.used.load(Ordering::Relaxed) <= index {
                    slots.used.fetch_max(index + 1, Ordering::Relaxed);
                }
                if slot.compare_exchange(0, epoch, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                    fence_after_rmw();
                    return Guard { slot };
                }
            }
            slots = slots.more.get_or_init(|| Box::new(Slots::new()));
        }
    }

    /// The epoch of the oldest guard; `None` without guards. To be called right after an atomic read-modify-write (of
    /// the lock, of a lookup slot) on this thread.
    pub(crate) fn oldest(&self) -> Option<u64> {
        fence_after_rmw();
        let taken = self.slots.chain().flat_map(|slots| &slots.slots[..slots.used.load(Ordering::Relaxed)]);
        taken.map(|Slot(slot)| slot.load(Ordering::Acquire)).filter(|&epoch| epoch != 0).min()
    }

    /// The epoch of a drop that has to wait for the guards of now: those that [`Guards::oldest`] saw before, on this
    /// thread.
    pub(crate) fn next_epoch(&self) -> u64 {
        self.epoch.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn taken(slots: &Slots) -> usize {
        slots.slots.iter().filter(|Slot(slot)| slot.load(Ordering::Relaxed) != 0).count()
    }

    #[test]
    fn the_oldest_guard_counts() {
        let guards = Guards::new();
        assert_eq!(guards.oldest(), None);
        let first = guards.pin();
        assert_eq!((guards.oldest(), guards.next_epoch(), format!("{first:?}")), (Some(1), 1, "Guard".into()));
        let second = guards.pin();
        assert_eq!((guards.oldest(), guards.next_epoch()), (Some(1), 2));
        drop(first);
        assert_eq!(guards.oldest(), Some(2));
        let third = guards.pin();
        drop(second);
        assert_eq!(guards.oldest(), Some(3));
        drop(third);
        assert_eq!(guards.oldest(), None);
    }

    /// Any number of guards, each in a slot of its own, and none looked at that was never taken.
    #[test]
    fn a_chain_is_full_before_there_is_a_further_one() {
        let guards = Guards::new();
        let mut all: Vec<_> = (0..SLOTS).map(|_| guards.pin()).collect();
        assert_eq!((taken(&guards.slots), guards.slots.chain().count()), (SLOTS, 1));
        all.push(guards.pin());
        assert_eq!(guards.slots.chain().map(taken).collect::<Vec<_>>(), [SLOTS, 1]);
        assert_eq!(guards.slots.used.load(Ordering::Relaxed), SLOTS);
        assert_eq!(guards.oldest(), Some(1));
        all.drain(..SLOTS);
        assert_eq!(guards.oldest(), Some(1), "the one in the further chain");
        all.clear();
        drop((guards.pin(), guards.pin()));
        assert_eq!((guards.oldest(), guards.slots.chain().count()), (None, 2));
    }

    /// Threads begin at different slots, so that they do not share cache lines.
    #[test]
    fn each_thread_has_a_first_slot() {
        let guards = Guards::new();
        let pin = || {
            let guard = guards.pin();
            let first = thread_number() % SLOTS;
            assert!(std::ptr::eq(guard.slot, &guards.slots.slots[first].0));
            assert!(guards.slots.used.load(Ordering::Relaxed) > first);
            assert_eq!(guards.oldest(), Some(1));
        };
        for _ in 0..SLOTS + 1 {
            std::thread::scope(|scope| assert!(scope.spawn(pin).join().is_ok()));
        }
    }
}
