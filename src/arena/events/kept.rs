//! Notes on live functions, kept for observers that are attached late.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::arena::code::UnwindInfo;
use crate::arena::events::described::Described;
use crate::arena::lookup::Entry;
use crate::sync::Arc;
use crate::sync::checked::Mutex;

/// The notes on all live functions, by their first granule. A function is noted when its bytes are
/// in place, before observers are called. It is removed before observers are called about its drop.
/// No other lock is held with this one, and a forked child does not take it.
pub(in crate::arena) struct Kept(Mutex<BTreeMap<u32, Arc<Note>>>);

/// The note on a live function.
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

    /// Notes functions that became live.
    pub(super) fn add(&self, functions: &[Described<'_>]) {
        let notes: Vec<Arc<Note>> = functions.iter().map(|function| Arc::new(Note::new(function))).collect();
        self.0.lock().extend(notes.into_iter().map(|note| (note.entry.start, note)));
    }

    /// Removes the note on a dropped function.
    pub(in crate::arena) fn remove(&self, start: u32) {
        // The note is dropped after the lock.
        let _note = self.0.lock().remove(&start);
    }

    /// Notes that a function has become shorter, unless `refuse` returns true. It is called under
    /// the lock. Returns whether the function is noted as shorter.
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

    /// Returns the notes on all functions that are live now.
    pub(super) fn all(&self) -> Vec<Arc<Note>> {
        self.0.lock().values().cloned().collect()
    }

    /// Returns whether a function is still live.
    pub(super) fn has(&self, note: &Arc<Note>) -> bool {
        self.0.lock().get(&note.entry.start).is_some_and(|now| Arc::ptr_eq(now, note))
    }
}
