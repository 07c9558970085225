//! The observers of one arena: a list, and the call of all of them.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::arena::events::observer::Observer;
use crate::sync::checked::OnceLock;
use crate::sync::{Arc, AtomicU64, Ordering};

pub(crate) struct Observers {
    list: Vec<Arc<dyn Observer>>,
    /// Observers that were attached late.
    attached: Link,
    /// Blocks that were freed under a lock. Observers were not called about them yet.
    reclaimed_blocks: AtomicU64,
    reclaimed_bytes: AtomicU64,
}

/// A list that grows at its end and is read without a lock. No element is ever removed.
struct Link(OnceLock<Box<(Arc<dyn Observer>, Link)>>);

impl Link {
    fn new() -> Self {
        Self(OnceLock::new())
    }
}

impl Observers {
    pub(crate) fn new(list: Vec<Arc<dyn Observer>>) -> Self {
        let (reclaimed_blocks, reclaimed_bytes) = Default::default();
        Self { list, attached: Link::new(), reclaimed_blocks, reclaimed_bytes }
    }

    pub(in crate::arena) fn is_empty(&self) -> bool {
        self.list.is_empty() && self.attached.0.get().is_none()
    }

    /// Adds an observer, which is called after all others. A forked child must not do this, because
    /// the fork may have happened in the middle of it.
    pub(in crate::arena) fn attach(&self, observer: Arc<dyn Observer>) {
        let mut last = &self.attached;
        let mut new = Box::new((observer, Link::new()));
        loop {
            match (last.0.get(), new) {
                (Some(link), unset) => (last, new) = (&link.1, unset),
                (None, unset) => match last.0.set(unset) {
                    Ok(()) => return,
                    // Another thread was first.
                    Err(unset) => new = unset,
                },
            }
        }
    }

    fn each(&self) -> impl Iterator<Item = &Arc<dyn Observer>> {
        let attached = std::iter::successors(self.attached.0.get(), |link| link.1.0.get());
        self.list.iter().chain(attached.map(|link| &link.0))
    }

    /// Counts a block as freed. Observers are called about it when no lock is held.
    pub(in crate::arena) fn note_reclaimed(&self, bytes: usize) {
        if !self.is_empty() {
            self.reclaimed_blocks.fetch_add(1, Ordering::Relaxed);
            self.reclaimed_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Calls all observers, even if one of them panics. The first panic continues afterwards.
    pub(in crate::arena) fn tell(&self, event: impl Fn(&dyn Observer)) {
        let mut panicked = self.tell_each(event);
        if self.reclaimed_blocks.load(Ordering::Relaxed) > 0 {
            let (blocks, bytes) =
                (self.reclaimed_blocks.swap(0, Ordering::Relaxed), self.reclaimed_bytes.swap(0, Ordering::Relaxed));
            // Another thread may have made the call meanwhile.
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

    /// Calls all observers from a place where a panic must not continue, because space is half
    /// freed. So a panic is discarded.
    pub(in crate::arena) fn tell_quietly(&self, event: impl Fn(&dyn Observer)) {
        if let Some(payload) = self.tell_each(event) {
            discard(payload);
        }
    }

    /// Calls all observers. Returns the payload of the first panic, if there was one.
    fn tell_each(&self, event: impl Fn(&dyn Observer)) -> Option<Box<dyn Any + Send>> {
        let mut first = None;
        for observer in self.each() {
            let Err(payload) = catch_unwind(AssertUnwindSafe(|| event(&**observer))) else { continue };
            match first {
                None => first = Some(payload),
                Some(_) => discard(payload),
            }
        }
        first
    }
}

/// Drops the payload of a panic. The drop may panic too, and so may the drop of that payload.
fn discard(payload: Box<dyn Any + Send>) {
    let drop_it = |payload| catch_unwind(AssertUnwindSafe(|| drop(payload)));
    let _ = drop_it(payload).or_else(drop_it).map_err(std::mem::forget);
}
