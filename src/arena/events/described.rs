//! A function as its publisher describes it.
#![forbid(unsafe_code)]

use crate::arena::code::UnwindInfo;
use crate::arena::lookup::Entry;

/// A function, with its name and its unwind information.
pub(in crate::arena) struct Described<'a> {
    pub(in crate::arena) entry: Entry,
    pub(in crate::arena) name: Option<&'a str>,
    pub(in crate::arena) unwind: Option<UnwindInfo<'a>>,
}
