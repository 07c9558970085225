//! Systems whose unwinder accepts no registration.
#![forbid(unsafe_code)]

use super::Refusal;
use crate::{BlockInfo, Error, Published, Reservation, UnwindInfo};

pub(super) struct Tables;

impl Tables {
    pub(super) fn new() -> Result<Self, Error> {
        Err(Error::unsupported("unwinding", "this system's unwinder accepts no tables at run time"))
    }

    pub(super) fn len(&self) -> usize {
        0
    }

    pub(super) fn reserved(&self, _space: &Reservation) {}

    pub(super) fn publish(&self, _functions: &[Published<'_>], _refuse: impl FnMut(&BlockInfo, Refusal)) {}

    pub(super) fn free(&self, _block: &BlockInfo) {}

    pub(super) fn released(&self, _space: &Reservation) {}
}

pub(super) fn check(_info: UnwindInfo<'_>, _code: &[u8]) -> Result<(), Refusal> {
    Err(Refusal::Form)
}
