//! What a module's functions are called.
#![forbid(unsafe_code)]

use std::fmt;

use crate::UnwindInfo;
use crate::arena::Notes;
use crate::sync::Arc;
use crate::sys::process_lock::ProcessLock;

/// Says what the arena's observers are told of a module's functions, of which the module tells its
/// memory nothing. Clones speak of the same module.
///
/// Call it after `define_function` and before the next one, and before `finalize_definitions`.
#[derive(Clone)]
pub struct Labels(Arc<ProcessLock<Said>>);

/// What was said of the functions that are not finalized.
#[derive(Default)]
pub(super) struct Said {
    functions: usize,
    pub(super) notes: Notes,
}

impl Labels {
    pub(super) fn new() -> Self {
        Self(Arc::new(ProcessLock::new(Said::default())))
    }

    /// Names the function that was defined last; whether there is one that was not finalized.
    pub fn name(&self, name: &str) -> bool {
        self.of_last(|notes, last| notes.name(last, name))
    }

    /// Sets how to unwind through the function that was defined last; whether there is one that was
    /// not finalized.
    pub fn unwind(&self, info: UnwindInfo<'_>) -> bool {
        self.of_last(|notes, last| notes.unwind(last, info))
    }

    /// Nothing in a child that was forked while another thread spoke.
    fn of_last(&self, say: impl FnOnce(&mut Notes, usize)) -> bool {
        let Some(mut said) = self.0.lock() else { return false };
        let last = said.functions.checked_sub(1);
        last.map(|last| say(&mut said.notes, last)).is_some()
    }

    /// There is one function more.
    pub(super) fn next(&self) {
        if let Some(mut said) = self.0.lock() {
            said.functions += 1;
        }
    }

    /// All that was said; nothing is left.
    pub(super) fn take(&self) -> Said {
        self.0.lock().map(|mut said| std::mem::take(&mut *said)).unwrap_or_default()
    }

    pub(super) fn put_back(&self, said: Said) {
        if let Some(mut now) = self.0.lock() {
            *now = said;
        }
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let functions = self.0.lock().map(|said| said.functions);
        f.debug_struct("Labels").field("functions", &functions).finish()
    }
}
