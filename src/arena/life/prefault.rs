//! Prefaulting: memory for the pages of the functions to come, where a page alone costs more.
//!
//! When a function is placed in a page without memory, the free pages behind it get memory
//! together with it: at most 64 KiB, in the same span. At most a sixteenth of a heap's memory is
//! free then. So a small arena stays small, and the heap still places functions one after another.
//! These pages count as resident, so [`trim`](super::trim) gives them back, and later functions are
//! placed there first.

use crate::arena::core::{Core, bytes_of};
use crate::arena::heaps::State;
use crate::space::Run;
use crate::space::granules::{SPAN, span_of};
use crate::units::GRANULE;

/// The largest number of bytes that get memory while the heap is locked once.
const MOST: u32 = 64 << 10;

impl Core {
    /// Gets memory for the free pages behind a function that was just placed, if its own page has
    /// none. The function is not written yet.
    #[inline]
    pub(super) fn prefault(&self, heap: &mut State, run: Run) {
        if self.memory.prefaults() && !self.heaps.granules().all_resident(run) {
            self.prefault_behind(heap, run);
        }
    }

    #[cold]
    fn prefault_behind(&self, heap: &mut State, run: Run) {
        let page = self.page();
        let most = heap.space.pages_until_sparse(&self.heaps.tables).min(MOST / GRANULE as u32 / page);
        // One page is no cheaper, and a larger function writes to many pages in any case.
        if most < 2 || run.len() > page {
            return;
        }
        let pages = self.free_pages(run, most);
        if pages.len() > page {
            // SAFETY: whole pages of this heap, which is locked. They contain no code, because
            // nothing is placed there but the function, which is written by the caller after this.
            unsafe { self.memory.prefault(bytes_of(pages)) };
            // After a refusal some of them may have memory.
            heap.space.touch(&self.heaps.tables, pages);
        }
    }

    /// Returns up to `most` pages without memory from the first that begins in `run` or behind it.
    /// Nothing else is placed there, and they are in the span where `run` begins.
    pub(in crate::arena) fn free_pages(&self, run: Run, most: u32) -> Run {
        let (granules, page) = (self.heaps.granules(), self.page());
        let start = run.start.next_multiple_of(page);
        let end = (start + most * page).min((span_of(run.start) + 1) * SPAN);
        let free = granules.next_taken(run.end.max(start), end.max(start)) / page * page;
        let fresh = |at: &u32| granules.count_resident(Run::new(*at, page)) == 0;
        let count = (start..free).step_by(page as usize).take_while(fresh).count() as u32;
        Run::new(start, count * page)
    }
}
