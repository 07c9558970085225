//! Architectures (or systems on them) for which nobody has said here how code is kept coherent.

use crate::Error;

pub(crate) const BARRIERS: bool = false;

pub(super) fn check() -> Result<(), Error> {
    let why = "it is not known how to make new code visible to this processor on this system";
    Err(Error::unsupported("executable memory", why))
}

/// # Safety
/// - None: never reached, as nothing can be built where `check` fails.
pub(crate) unsafe fn flush(_start: *const u8, _len: usize) -> Result<(), Error> {
    Ok(())
}

pub(crate) fn sync_cores() -> Result<(), Error> {
    Ok(())
}
