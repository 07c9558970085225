//! Systems without anonymous files that can be mapped executable while nobody can map them
//! writable.

use std::ffi::CStr;

use super::{Access, Place, Refused, Result, Span, missing};

/// A file for code. It cannot be made here.
#[derive(Debug)]
pub(crate) enum CodeFile {}

impl CodeFile {
    pub(super) fn new(_len: usize, _name: Option<&CStr>) -> Result<Self> {
        missing("memfd_create")
    }

    pub(super) fn map(&self, _place: &Place, _access: Access) -> Result<Span> {
        match *self {}
    }

    pub(super) fn write(&self, _offset: usize, _bytes: &[u8]) -> Result<()> {
        match *self {}
    }

    pub(crate) fn lose(&self) {
        match *self {}
    }

    pub(super) fn prefault(&self, _offset: usize, _len: usize) -> Result<()> {
        match *self {}
    }

    pub(super) fn give_back(&self, _offset: usize, _len: usize) -> Result<()> {
        match *self {}
    }
}

pub(crate) fn elsewhere(call: &'static str) -> Refused {
    Refused::new(call, std::io::ErrorKind::NotFound.into())
}
