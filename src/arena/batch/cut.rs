//! Shortening the last function of a batch.
#![forbid(unsafe_code)]

use super::{Batch, Slot, Source};
use crate::Error;
use crate::arena::lookup::Entry;
use crate::icache;
use crate::modes::WayIn;
use crate::space::Run;
use crate::units::GRANULE;

impl Batch {
    /// Frees the space behind the first `len` bytes of the last slot. No slot may have been
    /// reserved since.
    pub(in crate::arena) fn cut(&mut self, slot: Slot, len: usize) -> Result<(), Error> {
        let Some(old) = self.entry(slot).copied() else {
            return Err(Error::OtherBatch { slot: slot.index() });
        };
        debug_assert_eq!(slot.index + 1, self.entries.len());
        match len {
            0 => return Err(Error::ZeroSize),
            len if len > old.len as usize => {
                return Err(Error::PastCapacity { offset: 0, len, capacity: old.len as usize });
            }
            _ => {}
        }
        let new = Entry { len: len as u32, ..old };
        // Instructions begin at their alignment, so the padding is filled with traps from its end.
        if let Some(padding) = self.granules_mut(slot).get_mut(len..new.run().len() as usize * GRANULE) {
            icache::fill_with_traps(padding);
        }
        self.entries[slot.index] = new;
        let tail = Run { start: new.run().end, end: old.run().end };
        if tail.len() == 0 {
            return Ok(());
        }
        let poison = self.core.poison;
        let at_last = self.core.memory.rules().way_in == WayIn::WriteAtLast;
        match self.sources[slot.index] {
            // The function is a part of pages that are sealed first. The pages of the tail hold
            // memory.
            Source::Run => {
                self.core.note_resident(tail);
                if poison {
                    // Filled up to the end of its last page, which holds memory and so becomes
                    // executable. Nothing lies behind the last slot, and a run is whole pages.
                    let page = (self.core.memory.page_size() / GRANULE) as u32;
                    self.core.fill_opened(Run { start: tail.start, end: tail.end.next_multiple_of(page) });
                }
                if let Some(open) =
                    self.runs.iter_mut().find(|open| open.run.start <= tail.start && tail.end <= open.run.end)
                {
                    open.give_back(tail);
                }
            }
            Source::View | Source::Written | Source::Staged(_) => {
                // Only bytes that are not staged until the batch is published.
                if poison && !at_last {
                    self.core.give_up([tail]);
                }
                self.core.release([tail]);
            }
        }
        Ok(())
    }
}
