//! Systems and architectures where the rights to pages do not differ from thread to thread.

use std::io;
use std::ptr::NonNull;

use super::{Refused, Result, Span, Word};

/// A window. It cannot be made here.
#[derive(Debug)]
pub(crate) enum WriteWindow {}

impl WriteWindow {
    /// # Safety
    /// - None.
    pub(super) unsafe fn new(_span: Span) -> Result<Self> {
        Err(Refused::new("page rights by thread", io::ErrorKind::Unsupported.into()))
    }

    /// # Safety
    /// - None.
    pub(super) unsafe fn write(&self, _at: NonNull<u8>, _bytes: &[u8]) {
        match *self {}
    }

    /// # Safety
    /// - None.
    pub(super) unsafe fn store(&self, _at: NonNull<u8>, _word: Word) {
        match *self {}
    }

    /// # Safety
    /// - None.
    pub(super) unsafe fn protect(&self, _span: Span, _executable: bool) -> Result<()> {
        match *self {}
    }

    pub(crate) fn let_read(&self) {
        match *self {}
    }
}
