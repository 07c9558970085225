//! Systems on which memory cannot be mapped twice without a name that stays behind.

use super::super::missing;
use super::{Place, Result, Span};

#[derive(Debug)]
pub(crate) enum SharedMemory {}

pub(super) fn share(_len: usize) -> Result<SharedMemory> {
    missing("a second mapping")
}

pub(super) fn map_executable(memory: &SharedMemory, _place: &Place) -> Result<Span> {
    match *memory {}
}

pub(super) fn map_writable(memory: &SharedMemory, _len: usize) -> Result<Span> {
    match *memory {}
}
