//! What was said of live functions, kept for observers that come late.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::arena::code::UnwindInfo;
use crate::arena::events::described::Described;
use crate::arena::lookup::Entry;
use crate::sync::Arc;
use crate::sync::checked::Mutex;

/// Notes on all functions that are live, by the granule they begin at. A function is noted once its
/// bytes are there, before observers are told of it, and forgotten before they are told that it
/// goes. The lock is taken alone, and not in a forked child.
pub(in crate::arena) struct Kept(Mutex<BTreeMap<u32, Arc<Note>>>);

/// A live function.
pub(in crate::arena) struct Note {
    entry: Entry,
    name: Option<Box<str>>,
    unwind: Option<Unwind>,
}

enum Unwind {
    EhFrame(Box<[u8]>),
    Windows { offset: usize, code: usize },
}

impl Note {
    fn new(function: &Described<'_>) -> Self {
        Self {
            entry: function.entry,
            name: function.name.map(Box::from),
            unwind: function.unwind.map(|info| match info {
                UnwindInfo::EhFrame(bytes) => Unwind::EhFrame(bytes.into()),
                UnwindInfo::Windows { offset, code } => Unwind::Windows { offset, code },
            }),
        }
    }

    pub(super) fn entry(&self) -> Entry {
        self.entry
    }

    pub(super) fn describe(&self) -> Described<'_> {
        Described {
            entry: self.entry,
            name: self.name.as_deref(),
            unwind: self.unwind.as_ref().map(|unwind| match unwind {
                Unwind::EhFrame(bytes) => UnwindInfo::EhFrame(bytes),
                Unwind::Windows { offset, code } => UnwindInfo::Windows { offset: *offset, code: *code },
            }),
        }
    }
}

impl Kept {
    pub(in crate::arena) fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Functions are live.
    pub(super) fn add(&self, functions: &[Described<'_>]) {
        let notes: Vec<Arc<Note>> = functions.iter().map(|function| Arc::new(Note::new(function))).collect();
        self.0.lock().extend(notes.into_iter().map(|note| (note.entry.start, note)));
    }

    /// A function goes.
    pub(in crate::arena) fn remove(&self, start: u32) {
        // Dropped without the lock.
        let _note = self.0.lock().remove(&start);
    }

    /// Notes that a function has become shorter, unless `refuse` says no, which is asked under the
    /// lock; returns whether it did.
    pub(in crate::arena) fn cut(&self, start: u32, len: u32, refuse: impl FnOnce() -> bool) -> bool {
        let mut notes = self.0.lock();
        if refuse() {
            return false;
        }
        if let Some(note) = notes.get_mut(&start) {
            let old = note.describe();
            *note = Arc::new(Note::new(&Described { entry: Entry { len, ..old.entry }, ..old }));
        }
        true
    }

    /// All functions that are live now.
    pub(super) fn all(&self) -> Vec<Arc<Note>> {
        self.0.lock().values().cloned().collect()
    }

    /// Whether a function still is live.
    pub(super) fn has(&self, note: &Arc<Note>) -> bool {
        self.0.lock().get(&note.entry.start).is_some_and(|now| Arc::ptr_eq(now, note))
    }
}
