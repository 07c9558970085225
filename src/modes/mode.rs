//! The trait of modes: the calls that an arena's memory makes.

use std::ops::Range;
use std::ptr::NonNull;

use super::rules::Rules;
use super::wx_mode::{Unfilled, WxMode};
use crate::Error;
use crate::region::Region;
use crate::sys::{self, KernelWriter, Span, Word};

/// A mode: a way to keep W^X.
pub(super) trait Mode: Send + Sync {
    fn mode(&self) -> WxMode;

    fn rules(&self, region: &Region) -> Rules;

    /// Writes `bytes` at `offset` of pages that are executable.
    ///
    /// # Safety
    /// - The caller owns the bytes. They lie inside the region. Nobody runs, reads or writes them
    ///   meanwhile.
    unsafe fn write(&self, region: &Region, offset: usize, bytes: &[u8]) -> Result<(), Error>;

    /// Writes a function, and `padding` behind it. The padding is written if that costs no more
    /// than the copy, and with poison in any case.
    ///
    /// # Safety
    /// - As for [`Mode::write`], also for the padding.
    unsafe fn fill(&self, region: &Region, offset: usize, code: &[u8], _padding: &[u8]) -> Result<(), Error> {
        // SAFETY: passed on to the caller.
        unsafe { self.write(region, offset, code) }
    }

    /// Stores a word by one store, if the mode writes by stores.
    ///
    /// # Safety
    /// - `offset` is a multiple of the word's length. The caller owns the bytes, and they lie
    ///   inside the region. Others may run them meanwhile.
    unsafe fn write_word(&self, _region: &Region, _offset: usize, _word: Word) -> Result<(), Error> {
        Err(Error::unsupported(
            "patching a word",
            "this mode writes through the kernel: use `DualMap` or `PerThread`, or a `Redirect`",
        ))
    }

    /// Returns the address for stores to the bytes at `offset`, if the rules allow stores.
    fn writable(&self, region: &Region, offset: usize) -> NonNull<u8> {
        region.span(offset..offset).start
    }

    /// Makes sure that bytes behind `writable` have memory.
    fn back(&self, _region: &Region, _bytes: Range<usize>) -> Result<(), Error> {
        Ok(())
    }

    /// Makes whole pages executable, or not executable. The rights to write and to read stay as
    /// they are.
    ///
    /// # Safety
    /// - The caller owns the pages. If they become not executable, no thread runs them.
    unsafe fn set_executable(&self, region: &Region, range: Range<usize>, yes: bool) -> sys::Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { region.set_executable(range, yes) }
    }

    /// Gets memory for whole pages that have none, and leaves them zero. After an error some of
    /// them may have memory. It is called only where the rules say
    /// [`prefaults`](super::rules::Rules).
    ///
    /// # Safety
    /// - The caller owns the pages, and nobody runs them or needs their content.
    unsafe fn prefault(&self, _region: &Region, _range: Range<usize>) -> sys::Result<()> {
        Ok(())
    }

    /// Gives the memory of whole pages back to the system. The pages can be written to as before.
    /// It is called only where the rules say [`Trims::UnlessSealed`](super::rules::Trims) or
    /// `Always`.
    ///
    /// # Safety
    /// - The caller owns the pages, and nobody needs their content.
    unsafe fn decommit(&self, region: &Region, range: Range<usize>) -> sys::Result<()>;

    /// Returns the reason why holes in pages with live code are not filled, if they are not.
    fn unfilled(&self) -> Option<Unfilled> {
        None
    }

    /// Returns the writer to read-only pages through the kernel, if the mode keeps it open.
    fn kernel_writer(&self) -> Option<&KernelWriter> {
        None
    }

    /// Gives this thread the right to read code.
    fn let_read(&self) {}

    /// Returns the second view of the code, if there is one.
    fn second_view(&self) -> Option<Span> {
        None
    }

    /// Releases the region and all views.
    ///
    /// # Safety
    /// - Nobody uses them, now or later. This is the last call, and is made once.
    unsafe fn release(&mut self, region: &Region) {
        // SAFETY: passed on to the caller.
        unsafe { sys::release_or_park(region.os(), region.reservation()) };
    }

    /// Leaves the region and all views mapped until the process ends, and gives back everything
    /// else.
    ///
    /// # Safety
    /// - As for [`Mode::release`].
    unsafe fn abandon(&mut self, _region: &Region) {}
}
