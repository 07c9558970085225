//! Prefaulting: fresh pages get memory together, where a page alone costs more. The
//! [arena](crate::arena) asks for it before it writes a function.

use std::ops::Range;

use super::memory::CodeMemory;

impl CodeMemory {
    /// Returns whether free pages behind a function get memory together with its own.
    #[inline]
    pub(crate) fn prefaults(&self) -> bool {
        // With traps between functions, pages without code do not stay zero.
        self.rules().prefaults && !self.region.poisons()
    }

    /// Gets memory for whole pages that have none, and leaves them zero. If the system refuses,
    /// they get it when they are written to.
    ///
    /// # Safety
    /// - The caller owns the pages, and nobody runs them or needs their content.
    pub(crate) unsafe fn prefault(&self, range: Range<usize>) {
        // SAFETY: passed on to the caller.
        let _ = unsafe { self.mode.prefault(&self.region, range) };
    }
}
