//! Retiring and reclaiming: a dropped block leaves the lookup at once, and its space is freed when
//! no older guard is left.
//!
//! ```text
//! live --drop, without a lock--> not found by the lookup
//!      --heap's lock--> guards? -- none ----------------> free
//!                              `- some -> pending, with the present epoch
//!                                            --reclaim: no guard of that epoch or before--> free
//! with poison: granules in flight (`system` held) while traps are written, then free
//! ```

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::Error;
use crate::arena::core::{Core, bytes_of};
use crate::arena::heaps::{Locked, Pending, State};
use crate::arena::lookup::Entry;
use crate::space::Run;
use crate::sync::Ordering;

/// The number of blocks that one call reclaims, unless it would fail otherwise or has to be exact.
pub(in crate::arena) const RECLAIMED: usize = 64;
/// The number of waiting blocks that a drop reclaims if its own block has to wait. It is more than
/// one, so that the waiting blocks stay in proportion even if few blocks are published.
const PAID_BY_DROP: usize = 2;

/// The payload of an observer's panic.
pub(in crate::arena) type Panic = Box<dyn Any + Send>;

impl Core {
    /// Drops a block. It cannot be found any more, and its space is freed when no older guard is
    /// left.
    ///
    /// Returns a locked heap. The caller counts the block out of it ([`State::let_go`]) as its last
    /// use of the arena. In a forked child this returns `None`, because nothing is counted there.
    pub(in crate::arena) fn retire(&self, start: u32, len: u32, panicked: &mut Option<Panic>) -> Option<Locked<'_>> {
        if !self.memory.is_own() {
            // A child does not use its copy of the heaps, because a lock may be held for ever
            // there.
            return None;
        }
        if self.kept.is_some() || !self.observers.is_empty() {
            return self.retire_observed(start, panicked);
        }
        let entry = Entry::new(start, len, 0);
        let retired = self.lookup.retire(start);
        let mut heap = self.heaps.of(start);
        self.lookup.remove(entry.run(), retired);
        // The lock was the read-modify-write between retiring the block and looking at the guards.
        if self.guards.any() || self.poison {
            return self.let_wait(heap, entry);
        }
        heap.live.retire(entry.run(), len);
        self.free(&mut heap, entry.run());
        self.give_back(heap)
    }

    #[cold]
    fn retire_observed(&self, start: u32, panicked: &mut Option<Panic>) -> Option<Locked<'_>> {
        let entry = self.lookup.at(start)?;
        if let Some(kept) = &self.kept {
            // Removed first. An observer that is attached finds out by this that it was called
            // about the function too late.
            kept.remove(start);
        }
        // Whatever an observer does, the rest is done.
        *panicked = catch_unwind(AssertUnwindSafe(|| self.announce_retired(&self.info(entry)))).err();
        if !self.memory.is_own() {
            // The observer forked.
            return None;
        }
        let retired = self.lookup.retire(start);
        let heap = self.heaps.of(start);
        self.lookup.remove(entry.run(), retired);
        if self.guards.any() || self.poison {
            return self.let_wait(heap, entry);
        }
        drop(heap);
        self.announce_freed([self.info(entry)]);
        if !self.memory.is_own() {
            return None;
        }
        let mut heap = self.heaps.of(start);
        heap.live.retire(entry.run(), entry.len);
        self.free(&mut heap, entry.run());
        self.give_back(heap)
    }

    /// Gives memory back to the system if more of it is free than the arena is to keep.
    #[inline]
    fn give_back<'a>(&'a self, heap: Locked<'a>) -> Option<Locked<'a>> {
        if self.heaps.free_resident() <= self.keep_free.load(Ordering::Relaxed) {
            return Some(heap);
        }
        let index = heap.index;
        drop(heap);
        self.shrink();
        if !self.memory.is_own() {
            // An observer forked.
            return None;
        }
        // The same heap, because a new one would not know it if no handle is left.
        Some(self.heaps.lock(index))
    }

    /// Adds a block that was removed from the lookup to those that wait, and reclaims some of them.
    #[cold]
    fn let_wait<'a>(&'a self, mut heap: Locked<'a>, entry: Entry) -> Option<Locked<'a>> {
        heap.live.retire(entry.run(), entry.len);
        heap.waiting.add(entry.run(), entry.len);
        let epoch = self.guards.next_epoch();
        heap.wait(Pending { epoch, entry });
        // With poison it is overwritten now, if it need not wait.
        let heap = self.reclaim(heap, if self.poison { RECLAIMED } else { PAID_BY_DROP }).ok()?;
        self.give_back(heap)
    }

    /// Frees the space of up to `most` blocks of a heap that need not wait any more, the oldest
    /// first. The heap may be unlocked meanwhile. It fails only in a child that an observer forked.
    pub(in crate::arena) fn reclaim<'a>(&'a self, mut heap: Locked<'a>, most: usize) -> Result<Locked<'a>, Error> {
        self.guards.catch_up();
        // For blocks that wait in a heap, only a look at the guards after the heap was locked
        // counts.
        let mut oldest = self.guards.oldest();
        let is_ready = |oldest: Option<u64>, pending: &Pending| oldest.is_none_or(|oldest| pending.epoch < oldest);
        if !self.poison && self.observers.is_empty() {
            for _ in 0..most {
                let next = heap.pending.front().copied().filter(|pending| is_ready(oldest, pending));
                let Some(pending) = next else { break };
                heap.pending.pop_front();
                self.come_free(&mut heap, pending.entry);
            }
            return Ok(heap);
        }
        if !heap.pending.front().is_some_and(|pending| is_ready(oldest, pending)) {
            return Ok(heap);
        }
        // A thread that finds granules in flight waits for this lock, so it is taken first, and
        // before heaps.
        let index = heap.index;
        drop(heap);
        let system = self.system.lock();
        let mut heap = self.heaps.lock(index);
        oldest = self.guards.oldest();
        let count = heap.pending.iter().take(most).take_while(|pending| is_ready(oldest, pending)).count();
        let due: Vec<Pending> = heap.pending.drain(..count).collect();
        let granules: u64 = due.iter().map(|pending| u64::from(pending.entry.run().len())).sum();
        self.in_flight.fetch_add(granules, Ordering::Relaxed);
        drop(heap);
        let (done, failed): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|pending| self.fill_with_traps(pending.entry.run()));
        if self.poison {
            // If other cores cannot be synchronised, the traps become visible late. The next
            // publication there is refused in any case.
            let _ = self.memory.sync_cores();
        }
        self.announce_freed(done.iter().map(|pending| self.info(pending.entry)));
        self.memory.check_own("publish")?;
        for pending in done {
            self.come_free(&mut self.heaps.of(pending.entry.start), pending.entry);
        }
        // Blocks that could not be overwritten are tried again later.
        for pending in failed {
            self.heaps.of(pending.entry.start).wait(pending);
        }
        self.in_flight.fetch_sub(granules, Ordering::Relaxed);
        drop(system);
        Ok(self.heaps.lock(index))
    }

    /// Frees all space that need not wait any more.
    pub(in crate::arena) fn reclaim_all(&self) -> Result<(), Error> {
        self.guards.catch_up();
        for heap in self.heaps.each() {
            if !heap.pending.is_empty() {
                drop(self.reclaim(heap, usize::MAX)?);
            }
        }
        Ok(())
    }

    /// Overwrites freed code, if that is asked for and possible. Returns whether the space may be
    /// used again.
    fn fill_with_traps(&self, run: Run) -> bool {
        if !self.poison || !self.memory.fills_holes() {
            return true;
        }
        // SAFETY: the block was retired, and no older guard is left. So nobody runs or reads it.
        let filled = unsafe { self.memory.fill_with_traps(bytes_of(run)) };
        // If the system began to refuse the write, it is not possible from now on.
        filled.is_ok() || !self.memory.fills_holes()
    }

    /// Frees the space of a block that had to wait.
    fn come_free(&self, heap: &mut State, entry: Entry) {
        heap.waiting.retire(entry.run(), entry.len);
        self.observers.note_reclaimed(entry.len as usize);
        self.free(heap, entry.run());
    }
}
