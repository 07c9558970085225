//! Architectures (or systems on them) for which the crate does not know how code is kept coherent.

use crate::Error;

pub(crate) const BARRIERS: bool = false;

pub(super) fn check() -> Result<(), Error> {
    let why = "it is not known how to make new code visible to this processor on this system";
    Err(Error::unsupported("executable memory", why))
}

/// Does nothing.
///
/// # Safety
/// - None. It is never called, because nothing can be built if `check` fails.
pub(crate) unsafe fn flush(_start: *const u8, _len: usize) -> Result<(), Error> {
    Ok(())
}

pub(crate) fn sync_cores() -> Result<(), Error> {
    Ok(())
}
