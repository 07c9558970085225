//! What a batch keeps for its arena's observers until it is published.
#![forbid(unsafe_code)]

use super::code::UnwindInfo;
use super::lookup::Entry;
use super::observers::Described;

/// What is said of one function.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) name: Option<Box<str>>,
    pub(crate) unwind: Option<OwnedUnwind>,
}

/// [`UnwindInfo`], owned.
#[derive(Debug)]
pub(crate) enum OwnedUnwind {
    EhFrame(Box<[u8]>),
    Windows { offset: usize, code: usize },
}

impl From<UnwindInfo<'_>> for OwnedUnwind {
    fn from(info: UnwindInfo<'_>) -> Self {
        match info {
            UnwindInfo::EhFrame(bytes) => Self::EhFrame(bytes.into()),
            UnwindInfo::Windows { offset, code } => Self::Windows { offset, code },
        }
    }
}

impl OwnedUnwind {
    fn borrow(&self) -> UnwindInfo<'_> {
        match self {
            Self::EhFrame(bytes) => UnwindInfo::EhFrame(bytes),
            Self::Windows { offset, code } => UnwindInfo::Windows { offset: *offset, code: *code },
        }
    }
}

impl Notes {
    /// A function with its notes, if it has any.
    pub(super) fn describe(notes: Option<&Self>, entry: Entry) -> Described<'_> {
        Described {
            entry,
            name: notes.and_then(|notes| notes.name.as_deref()),
            unwind: notes.and_then(|notes| notes.unwind.as_ref()).map(OwnedUnwind::borrow),
        }
    }
}
