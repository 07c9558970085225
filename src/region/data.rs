//! The data area of a region: private pages that are writable or only readable, and never
//! executable.

use std::ffi::CStr;
use std::ops::Range;
use std::ptr::NonNull;

use super::Region;
use crate::Error;
use crate::sys::{Access, Span};
use crate::units::DATA_GAP;

impl Region {
    /// Returns the bytes of the data area.
    pub(crate) fn data_len(&self) -> usize {
        self.data.len
    }

    /// Returns the address of an offset.
    pub(crate) fn data_start(&self, offset: usize) -> NonNull<u8> {
        self.data_span(offset..offset).start
    }

    fn data_span(&self, range: Range<usize>) -> Span {
        debug_assert!(range.start <= range.end && range.end <= self.data.len);
        // SAFETY: inside the reservation. The data area is a part of it.
        Span { start: unsafe { self.data.start.add(range.start) }, len: range.len() }
    }

    /// Returns the largest alignment that data can have, which follows from the address of its
    /// first byte.
    pub(crate) fn data_alignment(&self) -> usize {
        // Memory that others mapped may begin at any address.
        (1 << self.data.address().trailing_zeros().min(usize::BITS - 1)).min(DATA_GAP / 2)
    }

    /// Gives the data area a name in the system's list of mappings. It is a hint.
    pub(crate) fn name_data(&self, name: &CStr) {
        // SAFETY: whole pages of this region.
        let _ = unsafe { self.os.name(self.data, name) };
    }

    /// Makes whole pages writable. After an error some of them may be writable.
    ///
    /// # Safety
    /// - The pages contain nothing that has to stay read-only.
    pub(crate) unsafe fn open_data(&self, range: Range<usize>) -> Result<(), Error> {
        if self.given {
            // Given memory is writable, and stays so.
            return Ok(());
        }
        self.counters.flips.add(1);
        // SAFETY: pages of this region. The rest is passed on to the caller.
        Ok(unsafe { self.os.protect(self.data_span(range), Access::ReadWrite) }?)
    }

    /// Makes opened pages read-only. After an error some of them may be read-only.
    ///
    /// # Safety
    /// - Nobody writes to the pages any more.
    pub(crate) unsafe fn close_data(&self, range: Range<usize>) -> Result<(), Error> {
        if self.given {
            return Ok(());
        }
        self.counters.flips.add(1);
        // SAFETY: pages of this region. The rest is passed on to the caller.
        Ok(unsafe { self.os.protect(self.data_span(range), Access::Read) }?)
    }

    /// Gives the memory of whole pages back. They are opened again before they are used.
    ///
    /// # Safety
    /// - Nobody uses the pages, or needs their content.
    pub(crate) unsafe fn decommit_data(&self, range: Range<usize>) -> Result<(), Error> {
        self.check_not_given("giving memory back")?;
        self.counters.decommits.add(1);
        // SAFETY: private pages of this region. The rest is passed on to the caller.
        Ok(unsafe { self.os.decommit(self.data_span(range)) }?)
    }

    /// Gives the memory of all data back. The address space stays mapped.
    ///
    /// # Safety
    /// - Nobody uses the data, now or later.
    pub(crate) unsafe fn abandon_data(&self) {
        if self.data.len > 0 && !self.given {
            // SAFETY: private pages of this region that were not frozen. The rest is passed on to
            // the caller.
            let _ = unsafe { self.os.decommit(self.data) };
        }
    }
}
