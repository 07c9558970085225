//! The observers of one arena, told of everything without a lock held.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::core::{Core, bytes_of};
use super::lookup::{BlockInfo, Entry};
use super::observer::{Live, Observer, Published, Reservation};
use crate::sync::{Arc, AtomicU64, Ordering};

#[derive(Default)]
pub(crate) struct Observers {
    list: Vec<Arc<dyn Observer>>,
    /// What came free under the lock and was not told yet.
    reclaimed_blocks: AtomicU64,
    reclaimed_bytes: AtomicU64,
}

impl Observers {
    pub(crate) fn new(list: Vec<Arc<dyn Observer>>) -> Self {
        Self { list, ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Notes that a block's space came free, to be told when no lock is held.
    pub(super) fn note_reclaimed(&self, bytes: usize) {
        if !self.is_empty() {
            self.reclaimed_blocks.fetch_add(1, Ordering::Relaxed);
            self.reclaimed_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Tells all, also if one of them panics; the first panic goes on behind that.
    fn tell(&self, event: impl Fn(&dyn Observer)) {
        let mut panicked = self.tell_each(event);
        if self.reclaimed_blocks.load(Ordering::Relaxed) > 0 {
            let (blocks, bytes) =
                (self.reclaimed_blocks.swap(0, Ordering::Relaxed), self.reclaimed_bytes.swap(0, Ordering::Relaxed));
            // Another thread may have told it meanwhile.
            if blocks > 0 {
                match (self.tell_each(|observer| observer.reclaimed(blocks, bytes)), &panicked) {
                    (Some(payload), Some(_)) => discard(payload),
                    (Some(payload), None) => panicked = Some(payload),
                    (None, _) => {}
                }
            }
        }
        if let Some(panic) = panicked {
            resume_unwind(panic);
        }
    }

    /// What the first one panicked with, if any did.
    fn tell_each(&self, event: impl Fn(&dyn Observer)) -> Option<Box<dyn Any + Send>> {
        let mut first = None;
        for observer in &self.list {
            let Err(payload) = catch_unwind(AssertUnwindSafe(|| event(&**observer))) else { continue };
            match first {
                None => first = Some(payload),
                Some(_) => discard(payload),
            }
        }
        first
    }
}

/// Drops what a panic carried, which may panic as well, and so may what that one carries.
fn discard(payload: Box<dyn Any + Send>) {
    let drop_it = |payload| catch_unwind(AssertUnwindSafe(|| drop(payload)));
    let _ = drop_it(payload).or_else(drop_it).map_err(std::mem::forget);
}

impl Core {
    fn reservation(&self) -> Reservation {
        Reservation { start: self.region.address(0), len: self.region.len(), mode: self.mode }
    }

    /// The arena is there.
    pub(super) fn announce_reserved(&self) {
        self.observers.tell(|observer| observer.reserved(&self.reservation()));
    }

    /// Functions are live. Costs nothing without observers: `functions` is not even looked at.
    ///
    /// # Safety
    /// - Their blocks are published, and not dropped before this returns or unwinds.
    pub(super) unsafe fn announce<'a>(&self, functions: impl Iterator<Item = Described<'a>>) {
        if self.observers.is_empty() {
            return;
        }
        self.region.let_read();
        // SAFETY: passed on to the caller.
        let published = functions.map(|function| unsafe { self.published(function) });
        let published: Vec<Published<'_>> = published.collect();
        self.observers.tell(|observer| observer.published(&published));
    }

    /// The same for one function, without memory for a list.
    ///
    /// # Safety
    /// - As for [`Core::announce`].
    pub(super) unsafe fn announce_one(&self, function: Described<'_>) {
        if self.observers.is_empty() {
            return;
        }
        self.region.let_read();
        // SAFETY: passed on to the caller.
        let published = [unsafe { self.published(function) }];
        self.observers.tell(|observer| observer.published(&published));
    }

    /// # Safety
    /// - The block is published, and stays so while what is returned is used.
    unsafe fn published<'a>(&'a self, function: Described<'a>) -> Published<'a> {
        let (block, start) = (self.info(function.entry), bytes_of(function.entry.run()).start);
        // SAFETY: where the block lies; the rest is passed on to the caller.
        let code = unsafe { Live::new(&self.region, start, block.len) };
        Published { block, name: function.name, unwind: function.unwind, code }
    }

    /// A block was dropped.
    pub(super) fn announce_retired(&self, block: &BlockInfo) {
        self.region.let_read();
        self.observers.tell(|observer| observer.retired(block));
    }

    /// The space of dropped blocks is about to be free.
    pub(super) fn announce_freed(&self, blocks: impl IntoIterator<Item = BlockInfo>) {
        for block in blocks {
            for observer in &self.observers.list {
                // Half-way through giving space back there is nowhere for a panic to go.
                if let Err(payload) = catch_unwind(AssertUnwindSafe(|| observer.freed(&block))) {
                    discard(payload);
                }
            }
        }
    }

    /// Memory went back to the system.
    pub(super) fn announce_trimmed(&self, bytes: usize) {
        self.observers.tell(|observer| observer.trimmed(bytes));
    }
}

/// A function, and what is said of it.
pub(super) struct Described<'a> {
    pub(super) entry: Entry,
    pub(super) name: Option<&'a str>,
    pub(super) unwind: Option<super::code::UnwindInfo<'a>>,
}

impl Drop for Core {
    fn drop(&mut self) {
        if self.region.is_own() {
            self.observers.tell(|observer| observer.released(&self.reservation()));
        }
    }
}
