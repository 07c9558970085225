//! The calls of an arena's observers. No heap is locked during a call. `freed` may be called while
//! `system` is locked, so other threads do not look for free space meanwhile.

use crate::arena::core::{Core, bytes_of};
use crate::arena::events::described::Described;
use crate::arena::events::observer::{Live, Published, Reservation};
use crate::arena::lookup::BlockInfo;

impl Core {
    pub(super) fn reservation(&self) -> Reservation {
        let memory = &self.memory;
        Reservation { start: memory.address(memory.first()), len: memory.capacity(), mode: memory.mode() }
    }

    /// Calls `reserved`: the arena was built.
    pub(in crate::arena) fn announce_reserved(&self) {
        self.observers.tell(|observer| observer.reserved(&self.reservation()));
    }

    /// Calls `published`: functions are live. Without observers `functions` is not iterated, so it
    /// costs nothing.
    ///
    /// # Safety
    /// - The blocks of the functions are published, and are not dropped before this returns or
    ///   unwinds.
    pub(in crate::arena) unsafe fn announce<'a>(&self, functions: impl Iterator<Item = Described<'a>>) {
        if self.kept.is_none() && self.observers.is_empty() {
            return;
        }
        let functions: Vec<Described<'_>> = functions.collect();
        if let Some(kept) = &self.kept {
            kept.add(&functions);
        }
        // After the notes were kept, because an attached observer reads the notes after it was
        // added to the list.
        if self.observers.is_empty() {
            return;
        }
        self.memory.let_read();
        // SAFETY: passed on to the caller.
        let published = functions.into_iter().map(|function| unsafe { self.published(function) });
        let published: Vec<Published<'_>> = published.collect();
        self.observers.tell(|observer| observer.published(&published));
    }

    /// Calls `published` for one function, without memory for a list.
    ///
    /// # Safety
    /// - As for [`Core::announce`].
    pub(in crate::arena) unsafe fn announce_one(&self, function: Described<'_>) {
        if let Some(kept) = &self.kept {
            kept.add(std::slice::from_ref(&function));
        }
        // After the notes were kept, as above.
        if self.observers.is_empty() {
            return;
        }
        self.memory.let_read();
        // SAFETY: passed on to the caller.
        let published = [unsafe { self.published(function) }];
        self.observers.tell(|observer| observer.published(&published));
    }

    /// Describes a function for observers.
    ///
    /// # Safety
    /// - The block is published, and stays so while the returned value is used.
    pub(super) unsafe fn published<'a>(&'a self, function: Described<'a>) -> Published<'a> {
        let (block, start) = (self.info(function.entry), bytes_of(function.entry.run()).start);
        // SAFETY: this is the place of the block. The rest is passed on to the caller.
        let code = unsafe { Live::new(&self.memory, start, block.len) };
        Published { block, name: function.name, unwind: function.unwind, code }
    }

    /// Calls `retired`: a block was dropped.
    pub(in crate::arena) fn announce_retired(&self, block: &BlockInfo) {
        self.memory.let_read();
        self.observers.tell(|observer| observer.retired(block));
    }

    /// Calls `freed`: the space of dropped blocks is about to be free.
    pub(in crate::arena) fn announce_freed(&self, blocks: impl IntoIterator<Item = BlockInfo>) {
        blocks.into_iter().for_each(|block| self.observers.tell_quietly(|observer| observer.freed(&block)));
    }

    /// Calls `trimmed`: memory was returned to the system because the user asked for it.
    pub(in crate::arena) fn announce_trimmed(&self, bytes: usize) {
        self.observers.tell(|observer| observer.trimmed(bytes));
    }

    /// Calls `trimmed`: memory was returned to the system because of `keep_free`.
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
