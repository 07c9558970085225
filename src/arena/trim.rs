//! Memory of free pages goes back to the system, and memory of full ones into huge pages.

use super::core::{Core, bytes_of};
use crate::Error;
use crate::space::Run;
use crate::sync::checked::MutexGuard;
use crate::units::{self, GRANULE};

/// The part of a stretch that may be without memory when it is put into a huge page: a quarter, as the fourth batch of
/// half a megabyte does not fit into what three have left. (The system's own daemon fills up almost empty ones.)
const SPARSEST: usize = 4;

/// Granules in a huge page.
const HUGE: u32 = (units::MAX_ALIGN / GRANULE) as u32;

impl Core {
    /// Gives the memory of wholly free pages back to the system; returns the bytes.
    pub(crate) fn trim(&self) -> Result<usize, Error> {
        self.memory.check_own("trim")?;
        if !self.memory.rules().gives_back {
            return Ok(0);
        }
        let mut books = self.rescue(self.gather());
        let aside = MutexGuard::unlocked(&mut books, || self.aside.lock());
        // The pages are taken while the system is called, so that nobody places code in them meanwhile.
        let (mut taken, mut from) = (Vec::new(), 0);
        while let Some(run) = books.pages.next_to_trim(&books.space, from, HUGE) {
            books.space.alloc_at(run);
            from = books.pages.of(run).end;
            books.aside += run.len() as usize;
            taken.push(run);
        }
        drop(books);
        let mut result = Ok(0);
        for run in taken {
            // SAFETY: the pages are taken and hold no block, live or pending.
            let gone = unsafe { self.memory.decommit(bytes_of(run)) };
            let mut books = self.lock();
            match gone {
                Ok(()) => {
                    let bytes = books.pages.gone(run) * self.memory.page_size();
                    result = result.map(|sum| sum + bytes);
                }
                Err(error) => result = result.and(Err(error)),
            }
            books.aside -= run.len() as usize;
            self.give_back(&mut books, run);
        }
        drop(aside);
        if let Ok(bytes @ 1..) = result {
            self.announce_trimmed(bytes);
        }
        result
    }

    /// Puts stretches of 2 MiB that hold memory almost throughout into huge pages; returns the bytes.
    pub(crate) fn collapse(&self) -> Result<usize, Error> {
        self.memory.check_own("collapse")?;
        let page = self.memory.page_size();
        let (mut bytes, mut refused) = (0, None);
        for start in (0..self.memory.len()).step_by(units::MAX_ALIGN) {
            let range = start..start + units::MAX_ALIGN;
            let pages = range.start / page..range.end / page;
            // So that no trim takes the memory away before it is counted. The books as they are: to reclaim takes this lock.
            let _aside = self.aside.lock();
            let missing = pages.len() - self.lock().pages.count_resident(pages.clone());
            if range.end > self.memory.len() || pages.is_empty() || missing > pages.len() / SPARSEST {
                continue;
            }
            let collapsed = self.memory.collapse(range.clone());
            if collapsed.is_ok() || self.memory.rules().collapses_in_steps {
                // A huge page is there as a whole; also if only one of two views is made of it.
                let run = Run::new((range.start / GRANULE) as u32, (range.len() / GRANULE) as u32);
                self.lock().pages.touch(run);
            }
            match collapsed {
                Ok(()) => bytes += units::MAX_ALIGN,
                // The system cannot move pages that a batch has open; other stretches it can.
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) if bytes == 0 => Err(error),
            _ => Ok(bytes),
        }
    }
}
