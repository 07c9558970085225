//! Pages that hold no memory, with poison: they are not executable where they would run as
//! something else than traps.
//!
//! On Linux a page without memory reads as zeros. Made executable, it runs as zeros too, and on x86
//! that is an instruction that stores where `rax` points, all the way into the next function. With
//! poison such a page is *barred*: not executable. It is filled with traps before it becomes
//! executable, and holds memory from then on. So at any time
//!
//! - what is executable is code, or traps;
//! - what holds memory, as the arena counts it, is executable, but for pages that a batch has open.
//!
//! Some systems do not allow it: where nothing becomes executable that was not before
//! (`PR_SET_MDWE`), in mappings that are sealed, in memory that somebody else mapped. There all
//! pages are executable from the start, as they are without poison.

use std::io;
use std::ops::Range;

use super::memory::CodeMemory;
use crate::Error;
use crate::icache;
use crate::sys::Refused;

impl CodeMemory {
    /// Whether a page that holds no memory is not executable.
    #[inline]
    pub(crate) fn bars(&self) -> bool {
        self.bars
    }

    /// Whether pages are to be barred, as far as it is known before it is tried.
    pub(super) fn can_bar(&self) -> bool {
        self.poisons() && !self.is_given() && !icache::ZEROS_TRAP && self.os().leaves_executable()
    }

    /// Bars all pages of a new region. `false` if that is not allowed; then some may be barred for
    /// good.
    pub(super) fn bar_all(&mut self) -> Result<bool, Error> {
        let first = 0..self.page_size();
        // First there and back with one page: it may be allowed one way alone.
        for (range, executable) in [(first.clone(), false), (first, true), (0..self.len(), false)] {
            // SAFETY: a new region, nobody else knows it.
            let set = unsafe { self.mode.set_executable(&self.region, range, executable) };
            match set {
                Ok(()) => {}
                Err(refused) if is_policy(&refused) => return Ok(false),
                Err(refused) => return Err(refused.into()),
            }
        }
        self.bars = true;
        Ok(true)
    }

    /// Whether pages that are barred could not be made executable again, as far as is known, and
    /// nothing can take their place.
    pub(crate) fn bars_for_good(&self) -> bool {
        self.bars && self.withdrawn.flips() && !self.rules().opens_pages
    }

    /// Bars whole pages that nobody can write to. When this fails, some of them may be.
    ///
    /// # Safety
    /// - The pages belong to the caller, and hold nothing that anybody runs.
    unsafe fn bar(&self, range: Range<usize>) -> Result<(), Error> {
        if self.bars_for_good() {
            return Err(Error::system("making pages executable again", io::ErrorKind::PermissionDenied.into()));
        }
        self.counters.flips.add(1);
        // SAFETY: passed on to the caller.
        Ok(unsafe { self.mode.set_executable(&self.region, range, false) }?)
    }

    /// Bars whole pages that were opened and hold no memory.
    ///
    /// # Safety
    /// - The pages are the caller's, and nobody writes to them any more or needs their contents.
    pub(crate) unsafe fn bar_opened(&self, range: Range<usize>) -> Result<(), Error> {
        // SAFETY: passed on to the caller.
        let Err(refused) = (unsafe { self.bar(range.clone()) }) else { return Ok(()) };
        if !self.withdrawn.note_flip(&refused) {
            return Err(refused);
        }
        // SAFETY: passed on to the caller.
        unsafe { self.region.replace(range, false) }.map_err(|_| refused)
    }

    /// Bars whole pages and gives their memory back, as [`CodeMemory::trim`] does. While they are
    /// executable it is not given back: they would be executable zeros. When this fails they hold
    /// what they held, and some of them may be barred.
    ///
    /// # Safety
    /// - As for [`CodeMemory::decommit`].
    pub(crate) unsafe fn bar_and_trim(&self, range: Range<usize>) -> Result<bool, Error> {
        // SAFETY: passed on to the caller.
        let Err(refused) = (unsafe { self.bar(range.clone()) }) else {
            // SAFETY: passed on to the caller.
            return unsafe { self.trim(range) };
        };
        if !self.rules().opens_pages {
            return Err(refused);
        }
        self.counters.decommits.add(1);
        // Fresh pages that take their place are barred, and hold no memory.
        // SAFETY: passed on to the caller.
        unsafe { self.region.replace(range, false) }.map_err(|_| refused)?;
        Ok(true)
    }

    /// Makes barred pages executable, which hold traps throughout. When this fails, some of them
    /// may be.
    ///
    /// # Safety
    /// - The pages belong to the caller, and nobody writes to them meanwhile.
    pub(crate) unsafe fn unbar(&self, range: Range<usize>) -> Result<(), Error> {
        if self.rules().opens_pages {
            // As opened pages, also where the system has come to refuse it.
            // SAFETY: passed on to the caller.
            return unsafe { self.seal(range.clone(), range.len()) };
        }
        self.counters.flips.add(1);
        // SAFETY: passed on to the caller.
        let set = unsafe { self.mode.set_executable(&self.region, range.clone(), true) };
        let Err(refused) = set.map_err(Error::from) else {
            self.withdrawn.note_flipped();
            return Ok(());
        };
        // They may be executable still, if they could not be barred either.
        if self.withdrawn.note_flip(&refused) && self.os().is_executable(self.span(range)) {
            Ok(())
        } else {
            Err(refused)
        }
    }
}

/// Whether a refusal stays.
fn is_policy(refused: &Refused) -> bool {
    let policy = [io::ErrorKind::PermissionDenied, io::ErrorKind::Unsupported, io::ErrorKind::InvalidInput];
    policy.contains(&refused.source.kind())
}
