//! An owned reservation of address space, and what can be done with its pages. Raw pointers stop here: above, code is
//! offsets into the region.
//!
//! How bytes get in without a page that is writable and executable is the business of [`modes`](crate::modes).

use std::ops::Range;
use std::ptr::NonNull;

use crate::Error;
use crate::icache;
use crate::sys::{self, Access, Os, Place, Span};

mod counters;
mod data;
mod plan;

pub(crate) use counters::Counters;
pub(crate) use plan::{Plan, refusal};

/// Released by its mode, as there may be more views to release.
pub(crate) struct Region {
    os: &'static dyn Os,
    /// The view that runs, with a page without access (at least) on either side, and the data.
    reservation: Span,
    data: Span,
    base: NonNull<u8>,
    len: usize,
    page: usize,
    huge_pages: bool,
    /// What code needs.
    executable: Access,
    /// Protections never change again, and nothing is ever unmapped.
    frozen: bool,
    /// The process this region belongs to.
    generation: u64,
    pub(crate) counters: Counters,
}

impl Region {
    pub(crate) fn new(os: &'static dyn Os, plan: &Plan, place: &Place, reservation: Span) -> Self {
        Self {
            os,
            reservation,
            data: reservation.data(place),
            base: reservation.code(place).start,
            len: plan.len,
            page: os.page_size(),
            huge_pages: plan.huge_pages,
            executable: plan.executable(),
            frozen: false,
            generation: sys::generation(),
            counters: Counters::default(),
        }
    }

    pub(crate) fn os(&self) -> &'static dyn Os {
        self.os
    }

    /// All of the reservation, with what lies around the code.
    pub(crate) fn reservation(&self) -> Span {
        self.reservation
    }

    /// What of the reservation protections are frozen of: all but the data.
    pub(crate) fn to_freeze(&self) -> Span {
        let len = match self.data.len {
            0 => self.reservation.len,
            _ => self.data.address() - self.reservation.address(),
        };
        Span { len, ..self.reservation }
    }

    /// Whether indirect branches may arrive at landing pads only.
    #[cfg(feature = "cranelift")]
    pub(crate) fn has_landing_pads(&self) -> bool {
        self.executable == Access::ReadExecuteLanding
    }

    /// From here on protections do not change, and the mappings stay.
    pub(crate) fn set_frozen(&mut self) {
        self.frozen = true;
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Bytes of code there can be.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn page_size(&self) -> usize {
        self.page
    }

    /// Whether this process is the one the region belongs to, and not a forked child.
    pub(crate) fn is_own(&self) -> bool {
        self.generation == sys::generation()
    }

    /// `Err` in a forked child.
    pub(crate) fn check_own(&self, what: &'static str) -> Result<(), Error> {
        if self.is_own() { Ok(()) } else { Err(Error::Forked { what }) }
    }

    /// Whether huge pages were asked for.
    pub(crate) fn wants_huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// The executable address of an offset.
    pub(crate) fn address(&self, offset: usize) -> *const u8 {
        self.base.as_ptr().wrapping_add(offset)
    }

    /// The offset of an executable address.
    pub(crate) fn offset_of(&self, address: *const u8) -> Option<usize> {
        let offset = address.addr().checked_sub(self.base.as_ptr().addr())?;
        (offset < self.len).then_some(offset)
    }

    /// Bytes of the executable view.
    pub(crate) fn span(&self, range: Range<usize>) -> Span {
        debug_assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the reservation, which reaches past `base + len`.
        Span { start: unsafe { self.base.add(range.start) }, len: range.len() }
    }

    /// Whether opened pages have memory from then on, and not as they are written to.
    pub(crate) fn commits(&self) -> bool {
        self.os.commits()
    }

    /// Whether `address` lies in the code or in the data.
    pub(crate) fn contains(&self, address: *const u8) -> bool {
        let in_data = address.addr().checked_sub(self.data.address()).is_some_and(|offset| offset < self.data.len);
        in_data || self.offset_of(address).is_some()
    }

    /// Opens whole private pages for writing. When this fails, some of them may be open all the same: the system
    /// changes one mapping after another. Seal them before they are used for anything else.
    ///
    /// # Safety
    /// - The pages hold no live code, and belong to the caller until sealed.
    pub(crate) unsafe fn open(&self, range: Range<usize>) -> Result<(), Error> {
        self.counters.flips.add(1);
        // SAFETY: passed on to the caller.
        Ok(unsafe { self.os.protect(self.span(range), Access::ReadWrite) }?)
    }

    /// Makes opened pages executable.
    ///
    /// # Safety
    /// - The pages are the caller's, opened, and nobody writes to them any more.
    pub(crate) unsafe fn seal(&self, range: Range<usize>) -> Result<(), Error> {
        self.counters.flips.add(1);
        // SAFETY: passed on to the caller.
        Ok(unsafe { self.os.protect(self.span(range), self.executable) }?)
    }

    /// Gets memory for opened pages ahead of use; whether it could.
    pub(crate) fn populate(&self, range: Range<usize>) -> bool {
        // SAFETY: whole pages of the view.
        unsafe { self.os.populate(self.span(range)) }.is_ok()
    }

    /// Asks for huge pages behind a table of the arena's own; a hint.
    pub(crate) fn advise_table(&self, table: Span) {
        // SAFETY: whole pages inside the table, whose contents stay as they are.
        let _ = unsafe { self.os.advise_huge(table) };
    }

    /// Flushes written bytes from the instruction cache.
    pub(crate) fn flush(&self, range: Range<usize>) {
        // SAFETY: inside the region and, as it was written, mapped and readable.
        unsafe { icache::flush(self.address(range.start), range.len()) };
    }

    /// After the last flush of a batch.
    pub(crate) fn sync_cores(&self) -> Result<(), Error> {
        if icache::BARRIERS {
            self.counters.barriers.add(1);
            icache::sync_cores()?;
        }
        Ok(())
    }
}

// SAFETY: the pointers are to mappings that the region owns; every access to their bytes goes through unsafe calls
// whose callers own the bytes.
unsafe impl Send for Region {}
// SAFETY: as for `Send`; everything else is atomics and locks.
unsafe impl Sync for Region {}
