//! The data beside the code: private pages that are writable or readable, and never executable.

use std::ffi::CStr;
use std::ops::Range;
use std::ptr::NonNull;

use super::Region;
use crate::Error;
use crate::sys::{Access, Span};
use crate::units::DATA_GAP;

impl Region {
    /// Bytes of data there can be.
    pub(crate) fn data_len(&self) -> usize {
        self.data.len
    }

    /// The address of an offset.
    pub(crate) fn data_start(&self, offset: usize) -> NonNull<u8> {
        self.data_span(offset..offset).start
    }

    fn data_span(&self, range: Range<usize>) -> Span {
        debug_assert!(range.start <= range.end && range.end <= self.data.len);
        // SAFETY: inside the reservation, of which the data is a part.
        Span { start: unsafe { self.data.start.add(range.start) }, len: range.len() }
    }

    /// The largest alignment that data can have: how its first byte lies.
    pub(crate) fn data_alignment(&self) -> usize {
        // Memory that others mapped begins where it begins.
        (1 << self.data.address().trailing_zeros().min(usize::BITS - 1)).min(DATA_GAP / 2)
    }

    /// Names it for whoever looks at the system's list of mappings; a hint.
    pub(crate) fn name_data(&self, name: &CStr) {
        // SAFETY: whole pages of this region.
        let _ = unsafe { self.os.name(self.data, name) };
    }

    /// Makes whole pages writable. When this fails, some of them may be.
    ///
    /// # Safety
    /// - Nothing in the pages is to stay read-only.
    pub(crate) unsafe fn open_data(&self, range: Range<usize>) -> Result<(), Error> {
        if self.given {
            // It is writable, and stays so.
            return Ok(());
        }
        self.counters.flips.add(1);
        // SAFETY: pages of this region; passed on to the caller.
        Ok(unsafe { self.os.protect(self.data_span(range), Access::ReadWrite) }?)
    }

    /// Makes whole pages that were opened readable and nothing more. When this fails, some of them
    /// may be.
    ///
    /// # Safety
    /// - Nobody writes to the pages any more.
    pub(crate) unsafe fn close_data(&self, range: Range<usize>) -> Result<(), Error> {
        if self.given {
            return Ok(());
        }
        self.counters.flips.add(1);
        // SAFETY: pages of this region; passed on to the caller.
        Ok(unsafe { self.os.protect(self.data_span(range), Access::Read) }?)
    }

    /// Gives the memory of whole pages back. They are opened again before they are used.
    ///
    /// # Safety
    /// - Nobody needs what stands in the pages, nor uses them.
    pub(crate) unsafe fn decommit_data(&self, range: Range<usize>) -> Result<(), Error> {
        self.check_not_given("giving memory back")?;
        self.counters.decommits.add(1);
        // SAFETY: private pages of this region; passed on to the caller.
        Ok(unsafe { self.os.decommit(self.data_span(range)) }?)
    }

    /// Gives the memory of all data back, where the address space has to stay.
    ///
    /// # Safety
    /// - Nobody uses the data, now or later.
    pub(crate) unsafe fn abandon_data(&self) {
        if self.data.len > 0 && !self.given {
            // SAFETY: private pages of this region that were not frozen; passed on to the caller.
            let _ = unsafe { self.os.decommit(self.data) };
        }
    }
}
