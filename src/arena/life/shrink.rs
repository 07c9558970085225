//! Shrinking: the end of a live block is freed.
//!
//! The length of a block in the lookup is part of one atomic word. The block's owner writes it, as
//! for retiring. So a lookup in a signal handler sees the old length or the new one. (Spans that
//! the block does not reach into any more may continue to name it. A lookup compares with the
//! length, and the next block that reaches in replaces the name.) The rest is done under the heap's
//! lock: the granules behind the new end are freed, or wait for guards, as those of a dropped
//! block.

use crate::arena::core::Core;
use crate::arena::heaps::Pending;
use crate::arena::life::retire::RECLAIMED;
use crate::arena::lookup::Entry;
use crate::space::Run;

impl Core {
    /// Makes a live block shorter, from `old` bytes to `new` bytes, which are fewer and at least
    /// one. Only the block's owner may call it.
    pub(in crate::arena) fn cut_off(&self, start: u32, old: u32, new: u32) {
        let (before, after) = (Entry::new(start, old, 0).run(), Entry::new(start, new, 0).run());
        let tail = Run { start: after.end, end: before.end };
        self.lookup.set_len(start, new);
        let mut heap = self.heaps.of(start);
        heap.live.cut(tail, old - new);
        if tail.len() == 0 {
            return;
        }
        // The lock was the read-modify-write between the new length and this: see `retire`.
        if self.guards.any() || self.poison {
            let entry = Entry::new(tail.start, tail.len() * crate::units::GRANULE as u32, 0);
            heap.waiting.add(entry.run(), entry.len);
            let epoch = self.guards.next_epoch();
            heap.wait(Pending { epoch, entry });
            // It fails only if an observer forked, and there is no observer.
            drop(self.reclaim(heap, RECLAIMED));
        } else {
            self.free(&mut heap, tail);
            drop(heap);
        }
        if self.heaps.free_resident() > self.keep_free.load(crate::sync::Ordering::Relaxed) {
            self.shrink();
        }
    }
}
