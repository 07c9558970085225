//! Tables for the model checker, whose values have to be constructed: they are known to it by their
//! creation.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::Error;
use crate::sync::checked::{AtomicU32, AtomicU64};

/// As in `table.rs`.
///
/// # Safety
/// - None here.
pub(crate) unsafe trait Zeroed: Default {}
// SAFETY: nothing to promise.
unsafe impl Zeroed for AtomicU64 {}
// SAFETY: nothing to promise.
unsafe impl Zeroed for AtomicU32 {}
// SAFETY: nothing to promise.
unsafe impl Zeroed for u64 {}

pub(crate) struct Table<T>(Box<[T]>);

impl<T: Zeroed> Table<T> {
    pub(crate) fn new(len: usize) -> Result<Self, Error> {
        Ok(Self((0..len).map(|_| T::default()).collect()))
    }
}

impl<T> Table<T> {
    pub(crate) fn pages(&self, _page: usize) -> Option<(NonNull<u8>, usize)> {
        None
    }
}

impl<T> Deref for Table<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> DerefMut for Table<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}
