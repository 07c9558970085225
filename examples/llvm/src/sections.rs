//! What LLVM asked for, and whether it got it.

use std::cell::{Ref, RefCell};
use std::rc::Rc;

use crate::Failure;

/// What becomes of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is executable.
    Code,
    /// It is read only.
    Constants,
    /// It is read and written to.
    Variables,
}

/// A section of a module, in the arena.
#[derive(Clone, Debug)]
pub struct Section {
    /// As in the object file: `.text`, `.eh_frame`.
    pub name: String,
    pub kind: Kind,
    pub address: usize,
    /// Bytes, with what LLVM adds for stubs.
    pub len: usize,
}

impl Section {
    /// The address behind the last byte.
    pub fn end(&self) -> usize {
        self.address + self.len
    }
}

#[derive(Debug, Default)]
struct Record {
    sections: Vec<Section>,
    failure: Option<Failure>,
}

/// The sections that a manager gave memory to, in the order in which LLVM asked. Clones are the
/// same list.
#[derive(Clone, Debug, Default)]
pub struct Sections(Rc<RefCell<Record>>);

impl Sections {
    /// All of them.
    pub fn list(&self) -> Ref<'_, [Section]> {
        Ref::map(self.0.borrow(), |record| record.sections.as_slice())
    }

    /// The distance from the first byte of all sections to behind the last one; 0 without any.
    pub fn spread(&self) -> usize {
        let sections = self.list();
        let first = sections.iter().map(|section| section.address).min();
        let last = sections.iter().map(Section::end).max();
        first.zip(last).map_or(0, |(first, last)| last - first)
    }

    /// The first thing that went wrong, which is taken out. After it nothing of the engine may run.
    pub fn failure(&self) -> Option<Failure> {
        self.0.borrow_mut().failure.take()
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.0.borrow().failure.is_some()
    }

    pub(crate) fn add(&self, name: &str, kind: Kind, address: usize, len: usize) {
        self.0.borrow_mut().sections.push(Section { name: name.to_owned(), kind, address, len });
    }

    pub(crate) fn fail(&self, failure: Failure) {
        self.0.borrow_mut().failure.get_or_insert(failure);
    }
}
