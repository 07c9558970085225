//! From a drop to free space: out of the lookup at once, then, when no guard is left that is older,
//! out of the heap.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::Error;
use crate::arena::core::{Core, bytes_of};
use crate::arena::heaps::{Locked, Pending, State};
use crate::arena::lookup::Entry;
use crate::space::Run;
use crate::sync::Ordering;

/// How many blocks one call reclaims, unless it would fail otherwise or has to be exact.
pub(in crate::arena) const RECLAIMED: usize = 64;
/// How many of those that have waited a drop reclaims that has to wait itself. More than one, so
/// that what waits stays in proportion however few publications there are.
const PAID_BY_DROP: usize = 2;

/// What an observer panicked with.
pub(in crate::arena) type Panic = Box<dyn Any + Send>;

impl Core {
    /// Drops a block: it cannot be found any more, and its space is free as soon as no older guard
    /// is left.
    ///
    /// Returns a locked heap. The caller counts the block out of it ([`State::let_go`]) as the last
    /// thing that it does with the arena. `None` in a forked child, where nothing is counted.
    pub(in crate::arena) fn retire(&self, start: u32, len: u32, panicked: &mut Option<Panic>) -> Option<Locked<'_>> {
        if !self.memory.is_own() {
            // A child leaves its copy of the heaps alone: a lock may be held for ever there.
            return None;
        }
        if self.kept.is_some() || !self.observers.is_empty() {
            return self.retire_observed(start, panicked);
        }
        let entry = Entry::new(start, len, 0);
        let retired = self.lookup.retire(start);
        let mut heap = self.heaps.of(start);
        self.lookup.remove(entry.run(), retired);
        // Locking was the read-modify-write between retiring and this.
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
            // First: an observer that is attached finds out by this what it was told too late.
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
        // Not a new one: where no handle is left, it would not know.
        Some(self.heaps.lock(index))
    }

    /// Puts a block that was taken out of the lookup among those that wait, and lets it pay for
    /// others.
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

    /// Gives back the space of up to `most` blocks of a heap that need not wait any more, the
    /// oldest first. The heap may be unlocked meanwhile. An error only in a child that an observer
    /// forked.
    pub(in crate::arena) fn reclaim<'a>(&'a self, mut heap: Locked<'a>, most: usize) -> Result<Locked<'a>, Error> {
        self.guards.catch_up();
        // Of what waits in a heap only a look at the guards counts that comes after the heap was
        // locked.
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
        // Whoever finds granules in flight waits for this lock, so it is taken first, and before
        // heaps.
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
            // Where other cores cannot be reached the traps come late; what is published there next
            // is refused anyway.
            let _ = self.memory.sync_cores();
        }
        self.announce_freed(done.iter().map(|pending| self.info(pending.entry)));
        self.memory.check_own("publish")?;
        for pending in done {
            self.come_free(&mut self.heaps.of(pending.entry.start), pending.entry);
        }
        // What could not be overwritten is tried again.
        for pending in failed {
            self.heaps.of(pending.entry.start).wait(pending);
        }
        self.in_flight.fetch_sub(granules, Ordering::Relaxed);
        drop(system);
        Ok(self.heaps.lock(index))
    }

    /// Gives back all space that need not wait any more.
    pub(in crate::arena) fn reclaim_all(&self) -> Result<(), Error> {
        self.guards.catch_up();
        for heap in self.heaps.each() {
            if !heap.pending.is_empty() {
                drop(self.reclaim(heap, usize::MAX)?);
            }
        }
        Ok(())
    }

    /// Overwrites freed code where that is wanted and possible; returns whether the space may be
    /// used again.
    fn fill_with_traps(&self, run: Run) -> bool {
        if !self.poison || !self.memory.fills_holes() {
            return true;
        }
        // SAFETY: the block was retired and every guard older than that is gone: nobody runs or
        // reads it.
        let filled = unsafe { self.memory.fill_with_traps(bytes_of(run)) };
        // From now on it is not possible any more, if the system began to refuse it.
        filled.is_ok() || !self.memory.fills_holes()
    }

    /// Makes the space of a block free that had to wait.
    fn come_free(&self, heap: &mut State, entry: Entry) {
        heap.waiting.retire(entry.run(), entry.len);
        self.observers.note_reclaimed(entry.len as usize);
        self.free(heap, entry.run());
    }
}
