//! What the larger examples share.

pub(crate) mod arguments;
pub(crate) mod failure;
pub(crate) mod format;
pub(crate) mod progress;
pub(crate) mod source;
pub(crate) mod threads;
