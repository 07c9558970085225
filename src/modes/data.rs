//! Pages of a private region that hold data for a while: opened and never sealed, or readable and nothing more.

use std::ops::Range;

use super::CodeMemory;
use crate::Error;
use crate::icache;
use crate::sys::Access;

impl CodeMemory {
    /// Makes opened pages readable and nothing more.
    ///
    /// # Safety
    /// - The pages are the caller's, opened, and nobody writes to them any more.
    pub(crate) unsafe fn make_read_only(&self, range: Range<usize>) -> Result<(), Error> {
        self.counters.flips.add(1);
        // SAFETY: passed on to the caller.
        Ok(unsafe { self.os().protect(self.span(range), Access::Read) }?)
    }

    /// Wipes what data stood in whole pages, which are not executable and stay so. After an error they are not fit for
    /// code ever again.
    ///
    /// Returns whether their memory went back to the system.
    ///
    /// # Safety
    /// - The pages are the caller's, opened or read-only, and nobody uses them any more.
    pub(crate) unsafe fn wipe(&self, range: Range<usize>) -> Result<bool, Error> {
        // SAFETY: passed on to the caller, who needs the contents no more.
        if unsafe { self.decommit(range.clone()) }.is_ok() {
            return Ok(true);
        }
        // SAFETY: no live code; passed on to the caller.
        unsafe { self.open(range.clone())? };
        let start = self.writable(range.start);
        // SAFETY: open just now, initialised, and the caller's alone.
        icache::fill_with_traps(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), range.len()) });
        Ok(false)
    }
}
