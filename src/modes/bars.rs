//! Barred pages: with poison, pages without memory are not executable where they would run as
//! something else than traps.
//!
//! On Linux a page without memory reads as zeros. If it is executable, it runs as zeros too. On x86
//! zeros are an instruction that stores to the address in `rax`, so a stale call would run all the
//! way into the next function. With poison such a page is *barred*: not executable. It is filled
//! with traps before it becomes executable, and holds memory from then on.
//!
//! ```text
//!         fill with traps, then unbar
//! barred -----------------------------> executable, holds memory
//! (no memory)                           (code or traps)
//!        <-----------------------------
//!         bar, then decommit
//! ```
//!
//! So at any time
//!
//! - everything executable is code or traps;
//! - every page that holds memory, as the arena counts it, is executable, except pages that a batch
//!   has open.
//!
//! Barring is not possible if nothing may become executable that was not so before (`PR_SET_MDWE`),
//! in mappings that are sealed, and in memory that somebody else mapped. There all pages are
//! executable from the start, as without poison.

use std::io;
use std::ops::Range;

use super::memory::CodeMemory;
use super::withdrawn::Withdrawn;
use crate::Error;
use crate::icache;
use crate::sys::Refused;

impl CodeMemory {
    /// Returns whether a page without memory is not executable.
    #[inline]
    pub(crate) fn bars(&self) -> bool {
        self.bars
    }

    /// Returns whether pages can be barred, as far as this is known before it is tried.
    pub(super) fn can_bar(&self) -> bool {
        self.poisons() && !self.is_given() && !icache::ZEROS_TRAP && self.os().leaves_executable()
    }

    /// Bars all pages of a new region. The answer is `false` if that is not allowed. Some pages may
    /// then be barred for good.
    pub(super) fn bar_all(&mut self) -> Result<bool, Error> {
        let first = 0..self.page_size();
        // One page is barred and unbarred first, because only one of the two may be allowed.
        for (range, executable) in [(first.clone(), false), (first, true), (0..self.len(), false)] {
            // SAFETY: a new region, which nobody else knows.
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

    /// Returns whether barred pages could not be made executable again, as far as is known, and no
    /// other pages can replace them.
    pub(crate) fn bars_for_good(&self) -> bool {
        self.bars && self.withdrawn.flips() && !self.rules().opens_pages
    }

    /// Bars whole pages that nobody can write to. After an error some of them may be barred.
    ///
    /// # Safety
    /// - The caller owns the pages, and nobody runs anything in them.
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
    /// - The caller owns the pages. Nobody writes to them any more or needs their contents.
    pub(crate) unsafe fn bar_opened(&self, range: Range<usize>) -> Result<(), Error> {
        // SAFETY: passed on to the caller.
        let Err(refused) = (unsafe { self.bar(range.clone()) }) else { return Ok(()) };
        // (Pages can still become executable, as far as is known.)
        if !Withdrawn::is_policy(&refused) {
            return Err(refused);
        }
        // SAFETY: passed on to the caller.
        unsafe { self.region.replace(range, false) }.map_err(|_| refused)
    }

    /// Bars whole pages and gives their memory back, as [`CodeMemory::trim`] does. Memory is not
    /// given back while the pages are executable, because they would become executable zeros. After
    /// an error the pages keep their content, and some of them may be barred.
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
        // The fresh pages that replace them are barred and hold no memory.
        // SAFETY: passed on to the caller.
        unsafe { self.region.replace(range, false) }.map_err(|_| refused)?;
        Ok(true)
    }

    /// Makes barred pages executable. They are full of traps. After an error some of them may be
    /// executable.
    ///
    /// # Safety
    /// - The caller owns the pages, and nobody writes to them meanwhile.
    pub(crate) unsafe fn unbar(&self, range: Range<usize>) -> Result<(), Error> {
        if self.rules().opens_pages {
            // Sealed like opened pages, because that works even if the system began to refuse the
            // change.
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
        // They may still be executable, if they could not be barred either.
        if self.withdrawn.note_flip(&refused) && self.os().is_executable(self.span(range)) {
            Ok(())
        } else {
            Err(refused)
        }
    }
}

/// Returns whether a refusal stays.
fn is_policy(refused: &Refused) -> bool {
    let policy = [io::ErrorKind::PermissionDenied, io::ErrorKind::Unsupported, io::ErrorKind::InvalidInput];
    policy.contains(&refused.source.kind())
}
