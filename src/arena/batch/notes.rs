//! Names and unwind information of functions until they are published, for an arena's observers.
//! All names lie in one string and all frames in one buffer, so a name costs no allocation of its
//! own.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::arena::code::UnwindInfo;
use crate::arena::events::described::Described;
use crate::arena::lookup::Entry;

/// The notes on functions, by the number of the function.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    names: String,
    frames: Vec<u8>,
    /// One note for each function, up to the last one that has a note.
    of: Vec<Note>,
}

#[derive(Clone, Debug, Default)]
struct Note {
    name: Option<Range<usize>>,
    unwind: Option<Unwind>,
}

#[derive(Clone, Debug)]
enum Unwind {
    EhFrame(Range<usize>),
    Windows { offset: usize, code: usize },
}

impl Notes {
    /// Names a function.
    pub(crate) fn name(&mut self, function: usize, name: &str) {
        let start = self.names.len();
        self.names.push_str(name);
        let range = start..self.names.len();
        self.note(function).name = Some(range);
    }

    /// Sets the unwind information of a function.
    pub(crate) fn unwind(&mut self, function: usize, info: UnwindInfo<'_>) {
        let unwind = match info {
            UnwindInfo::EhFrame(bytes) => {
                let start = self.frames.len();
                self.frames.extend_from_slice(bytes);
                Unwind::EhFrame(start..self.frames.len())
            }
            UnwindInfo::Windows { offset, code } => Unwind::Windows { offset, code },
        };
        self.note(function).unwind = Some(unwind);
    }

    fn note(&mut self, function: usize) -> &mut Note {
        if self.of.len() <= function {
            self.of.resize(function + 1, Note::default());
        }
        &mut self.of[function]
    }

    /// Returns the description of a function: its entry, with the notes that it has.
    pub(in crate::arena) fn describe(&self, function: usize, entry: Entry) -> Described<'_> {
        let note = self.of.get(function);
        Described {
            entry,
            name: note.and_then(|note| self.names.get(note.name.clone()?)),
            unwind: note.and_then(|note| match note.unwind.clone()? {
                Unwind::EhFrame(range) => self.frames.get(range).map(UnwindInfo::EhFrame),
                Unwind::Windows { offset, code } => Some(UnwindInfo::Windows { offset, code }),
            }),
        }
    }
}
