//! What an arena tells its observers, and when. No heap is locked meanwhile; only `freed` is told
//! while others are kept from looking after free space.

use crate::arena::core::{Core, bytes_of};
use crate::arena::events::described::Described;
use crate::arena::events::observer::{Live, Published, Reservation};
use crate::arena::lookup::BlockInfo;

impl Core {
    pub(super) fn reservation(&self) -> Reservation {
        let memory = &self.memory;
        Reservation { start: memory.address(memory.first()), len: memory.capacity(), mode: memory.mode() }
    }

    /// The arena is there.
    pub(in crate::arena) fn announce_reserved(&self) {
        self.observers.tell(|observer| observer.reserved(&self.reservation()));
    }

    /// Functions are live. Costs nothing without observers: `functions` is not even looked at.
    ///
    /// # Safety
    /// - Their blocks are published, and not dropped before this returns or unwinds.
    pub(in crate::arena) unsafe fn announce<'a>(&self, functions: impl Iterator<Item = Described<'a>>) {
        if self.kept.is_none() && self.observers.is_empty() {
            return;
        }
        let functions: Vec<Described<'_>> = functions.collect();
        if let Some(kept) = &self.kept {
            kept.add(&functions);
        }
        // Behind the notes: an observer that is attached looks at them once it is among the others.
        if self.observers.is_empty() {
            return;
        }
        self.memory.let_read();
        // SAFETY: passed on to the caller.
        let published = functions.into_iter().map(|function| unsafe { self.published(function) });
        let published: Vec<Published<'_>> = published.collect();
        self.observers.tell(|observer| observer.published(&published));
    }

    /// The same for one function, without memory for a list.
    ///
    /// # Safety
    /// - As for [`Core::announce`].
    pub(in crate::arena) unsafe fn announce_one(&self, function: Described<'_>) {
        if let Some(kept) = &self.kept {
            kept.add(std::slice::from_ref(&function));
        }
        // Behind the notes, as above.
        if self.observers.is_empty() {
            return;
        }
        self.memory.let_read();
        // SAFETY: passed on to the caller.
        let published = [unsafe { self.published(function) }];
        self.observers.tell(|observer| observer.published(&published));
    }

    /// # Safety
    /// - The block is published, and stays so while what is returned is used.
    pub(super) unsafe fn published<'a>(&'a self, function: Described<'a>) -> Published<'a> {
        let (block, start) = (self.info(function.entry), bytes_of(function.entry.run()).start);
        // SAFETY: where the block lies; the rest is passed on to the caller.
        let code = unsafe { Live::new(&self.memory, start, block.len) };
        Published { block, name: function.name, unwind: function.unwind, code }
    }

    /// A block was dropped.
    pub(in crate::arena) fn announce_retired(&self, block: &BlockInfo) {
        self.memory.let_read();
        self.observers.tell(|observer| observer.retired(block));
    }

    /// The space of dropped blocks is about to be free.
    pub(in crate::arena) fn announce_freed(&self, blocks: impl IntoIterator<Item = BlockInfo>) {
        blocks.into_iter().for_each(|block| self.observers.tell_quietly(|observer| observer.freed(&block)));
    }

    /// Memory went back to the system, as it was asked to.
    pub(in crate::arena) fn announce_trimmed(&self, bytes: usize) {
        self.observers.tell(|observer| observer.trimmed(bytes));
    }

    /// Memory went back to the system by itself.
    pub(in crate::arena) fn announce_shrunk(&self, bytes: usize) {
        self.observers.tell_quietly(|observer| observer.trimmed(bytes));
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if self.memory.is_own() {
            self.observers.tell(|observer| observer.released(&self.reservation()));
        }
    }
}
