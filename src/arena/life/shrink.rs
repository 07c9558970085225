//! The end of a live block is given back.
//!
//! Its length in the lookup is part of one atomic word, which the block's owner writes, as when it
//! is retired. So a lookup in a signal handler sees the old length or the new one. (Spans that it
//! no longer reaches into may go on naming it as the block that does. A lookup compares with the
//! length, and whatever comes to reach in is named instead.) What follows happens under the lock of
//! the heap: the granules behind its new end are free, or wait for guards, as those of a dropped
//! block.

use crate::arena::core::Core;
use crate::arena::heaps::Pending;
use crate::arena::life::retire::RECLAIMED;
use crate::arena::lookup::Entry;
use crate::space::Run;

impl Core {
    /// Makes a live block shorter: from `old` bytes to `new`, which are fewer and not none. Only by
    /// the block's owner.
    pub(in crate::arena) fn cut_off(&self, start: u32, old: u32, new: u32) {
        let (before, after) = (Entry::new(start, old, 0).run(), Entry::new(start, new, 0).run());
        let tail = Run { start: after.end, end: before.end };
        self.lookup.set_len(start, new);
        let mut heap = self.heaps.of(start);
        heap.live.cut(tail, old - new);
        if tail.len() == 0 {
            return;
        }
        // Locking was the read-modify-write between the new length and this: see `retire`.
        if self.guards.any() || self.poison {
            let entry = Entry::new(tail.start, tail.len() * crate::units::GRANULE as u32, 0);
            heap.waiting.add(entry.run(), entry.len);
            let epoch = self.guards.next_epoch();
            heap.wait(Pending { epoch, entry });
            // An error only where an observer forked, and there is none.
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
