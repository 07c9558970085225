//! The drop of a batch that was not published: all of its space is freed.
#![forbid(unsafe_code)]

use std::fmt;

use super::Batch;
use super::pieces::Source;
use crate::modes::WayIn;

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.core.memory.is_own() {
            return;
        }
        if self.entries.is_empty() {
            return;
        }
        let placed = || {
            let placed = self.entries.iter().zip(&self.sources).filter(|(_, source)| **source != Source::Run);
            placed.map(|(entry, _)| entry.run())
        };
        // A thread that got an address from this batch must find no code there. Staged bytes may
        // have been written, all of them or some. (Bytes that were written at once may be staged by
        // now.)
        let at_once = self.core.memory.rules().way_in == WayIn::WriteAtOnce;
        let again = at_once || self.written && self.core.poison;
        let known = self.entries.iter().zip(&self.sources).filter(|(_, source)| match source {
            Source::View | Source::Written => true,
            Source::Staged(_) => again,
            Source::Run => false,
        });
        self.core.give_up(known.map(|(entry, _)| entry.run()));
        if self.written {
            placed().for_each(|run| self.core.note_resident(run));
        }
        self.core.release(placed());
        for open in &self.runs {
            self.core.close(open);
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("len", &self.len()).finish_non_exhaustive()
    }
}
