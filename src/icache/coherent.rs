//! Architectures on which the hardware keeps instruction caches coherent.

use crate::Error;

/// Whether [`sync_cores`] does anything.
pub(crate) const BARRIERS: bool = false;

pub(super) fn check() -> Result<(), Error> {
    Ok(())
}

/// Does nothing.
///
/// # Safety
/// - `len` bytes at `start` are mapped.
pub(crate) unsafe fn flush(_start: *const u8, _len: usize) -> Result<(), Error> {
    Ok(())
}

pub(crate) fn sync_cores() -> Result<(), Error> {
    Ok(())
}
