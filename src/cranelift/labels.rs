//! The names of a module's functions, and their unwind information.
#![forbid(unsafe_code)]

use std::fmt;

use crate::UnwindInfo;
use crate::arena::Notes;
use crate::sync::Arc;
use crate::sys::process_lock::ProcessLock;

/// A handle that sets the names and the unwind information of a module's functions, for the arena's
/// observers.
///
/// It is necessary because a module does not pass them to its memory provider. Clones serve the
/// same module. Call it after `define_function`, before the next `define_function`, and before
/// `finalize_definitions`.
///
/// The page of the [module](super) has an example.
#[derive(Clone)]
pub struct Labels(Arc<ProcessLock<Pending>>);

/// The notes of the functions that are not finalized yet.
#[derive(Default)]
pub(super) struct Pending {
    functions: usize,
    pub(super) notes: Notes,
}

impl Labels {
    pub(super) fn new() -> Self {
        Self(Arc::new(ProcessLock::new(Pending::default())))
    }

    /// Names the function that was defined last. Returns false if there is no function that is not
    /// finalized.
    pub fn name(&self, name: &str) -> bool {
        self.of_last(|notes, last| notes.name(last, name))
    }

    /// Sets how to unwind through the function that was defined last. Returns false if there is no
    /// function that is not finalized.
    pub fn unwind(&self, info: UnwindInfo<'_>) -> bool {
        self.of_last(|notes, last| notes.unwind(last, info))
    }

    /// Calls `set` with the notes and the index of the last function. Does nothing in a child that
    /// was forked while another thread held the lock.
    fn of_last(&self, set: impl FnOnce(&mut Notes, usize)) -> bool {
        let Some(mut pending) = self.0.lock() else { return false };
        let last = pending.functions.checked_sub(1);
        last.map(|last| set(&mut pending.notes, last)).is_some()
    }

    /// Counts one more function.
    pub(super) fn next(&self) {
        if let Some(mut pending) = self.0.lock() {
            pending.functions += 1;
        }
    }

    /// Returns all notes, and leaves none.
    pub(super) fn take(&self) -> Pending {
        self.0.lock().map(|mut pending| std::mem::take(&mut *pending)).unwrap_or_default()
    }

    /// Puts back notes that [`take`](Self::take) returned.
    pub(super) fn put_back(&self, pending: Pending) {
        if let Some(mut now) = self.0.lock() {
            *now = pending;
        }
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let functions = self.0.lock().map(|pending| pending.functions);
        f.debug_struct("Labels").field("functions", &functions).finish()
    }
}
