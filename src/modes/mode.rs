//! What a mode is asked for.

use std::ops::Range;
use std::ptr::NonNull;

use super::rules::Rules;
use super::wx_mode::{Unfilled, WxMode};
use crate::Error;
use crate::region::Region;
use crate::sys::{self, KernelWriter, Span, Word};

/// A way of keeping W^X.
pub(super) trait Mode: Send + Sync {
    fn mode(&self) -> WxMode;

    fn rules(&self, region: &Region) -> Rules;

    /// Writes `bytes` at `offset` of pages that are executable.
    ///
    /// # Safety
    /// - The bytes are the caller's: inside the region, and nobody runs, reads or writes them
    ///   meanwhile.
    unsafe fn write(&self, region: &Region, offset: usize, bytes: &[u8]) -> Result<(), Error>;

    /// Writes a function, and `padding` behind it: where that costs no more than the copy, and with
    /// poison in any case.
    ///
    /// # Safety
    /// - As for [`Mode::write`], of the padding too.
    unsafe fn fill(&self, region: &Region, offset: usize, code: &[u8], _padding: &[u8]) -> Result<(), Error> {
        // SAFETY: passed on to the caller.
        unsafe { self.write(region, offset, code) }
    }

    /// Stores a word by one store, where the mode writes by stores.
    ///
    /// # Safety
    /// - `offset` is a multiple of the word's length. The bytes are the caller's, inside the
    ///   region; others may run them meanwhile.
    unsafe fn write_word(&self, _region: &Region, _offset: usize, _word: Word) -> Result<(), Error> {
        Err(Error::unsupported("patching a word", "only `DualMap` and `PerThread` write by stores"))
    }

    /// Where bytes are written by stores, where the rules allow that.
    fn writable(&self, region: &Region, offset: usize) -> NonNull<u8> {
        region.span(offset..offset).start
    }

    /// Sees to it that bytes behind `writable` have memory.
    fn back(&self, _region: &Region, _bytes: Range<usize>) -> Result<(), Error> {
        Ok(())
    }

    /// Makes whole pages executable, or takes that away. Who can write to them and read them stays
    /// as it is.
    ///
    /// # Safety
    /// - The pages belong to the caller, and no thread runs them if they are to be not executable.
    unsafe fn set_executable(&self, region: &Region, range: Range<usize>, yes: bool) -> sys::Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { region.set_executable(range, yes) }
    }

    /// Gives the memory of whole pages back to the system, where the rules allow that. They can be
    /// written to as before.
    ///
    /// # Safety
    /// - The pages hold nothing that anybody needs, and belong to the caller.
    unsafe fn decommit(&self, region: &Region, range: Range<usize>) -> sys::Result<()>;

    /// Why holes in pages with live code are not filled, if they are not.
    fn unfilled(&self) -> Option<Unfilled> {
        None
    }

    /// What writes to read-only pages through the kernel, if the mode keeps that open.
    fn kernel_writer(&self) -> Option<&KernelWriter> {
        None
    }

    /// Before this thread reads code.
    fn let_read(&self) {}

    /// A second view of the code, if there is one.
    fn second_view(&self) -> Option<Span> {
        None
    }

    /// Releases the region and all views.
    ///
    /// # Safety
    /// - Nobody uses them, now or later; called once, as the last call.
    unsafe fn release(&mut self, region: &Region) {
        // SAFETY: passed on to the caller.
        unsafe { sys::release_or_park(region.os(), region.reservation()) };
    }

    /// Leaves the region and all views where they are until the process ends, and gives back what
    /// else can be.
    ///
    /// # Safety
    /// - As for [`Mode::release`].
    unsafe fn abandon(&mut self, _region: &Region) {}
}
