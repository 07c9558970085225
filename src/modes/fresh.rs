//! Fresh memory, where a page costs less together with others. The [arena](crate::arena) gets it
//! for the pages behind a function before the function is written.

use std::ops::Range;

use super::memory::CodeMemory;

impl CodeMemory {
    /// Returns whether free pages behind a function get memory together with its own.
    #[inline]
    pub(crate) fn touches_ahead(&self) -> bool {
        // With traps between functions, pages without code do not stay zero.
        self.rules().touches_ahead && !self.region.poisons()
    }

    /// Gets memory for whole pages that have none, and leaves them zero. If the system refuses,
    /// they get it when they are written to.
    ///
    /// # Safety
    /// - The caller owns the pages, and nobody runs them or needs their content.
    pub(crate) unsafe fn touch(&self, range: Range<usize>) {
        // SAFETY: passed on to the caller.
        let _ = unsafe { self.mode.touch(&self.region, range) };
    }
}
