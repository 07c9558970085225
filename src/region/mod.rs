//! Regions: an owned reservation of address space, and the operations on its pages. Raw pointers
//! end here: above this layer code is offsets into the region.
//!
//! ```text
//! reservation
//! | no access |        code            | no access |   data    | no access |
//!             ^ offset `first`         ^ offset `len`
//!      `origin`: offset 0 (equal to the start of the code, except in given memory)
//! ```
//!
//! [`modes`](crate::modes) writes bytes without a page that is writable and executable. A region is
//! released by its mode, because the mode may have more views to release. In a forked child
//! [`Region::is_own`] is false, and the region is left as it is.

use std::ops::Range;
use std::ptr::NonNull;

use crate::Error;
use crate::icache;
use crate::sys::{self, Access, Os, Place, Span};
use crate::units::MAX_ALIGN;

mod counters;
mod data;
mod plan;

pub(crate) use counters::Counters;
pub(crate) use plan::{Plan, refusal};

/// A reservation with its pages. Its mode releases it, because there may be more views to release.
pub(crate) struct Region {
    os: &'static dyn Os,
    /// The executable view with at least one page without access on either side, and the data.
    reservation: Span,
    data: Span,
    /// The address of offset 0, a multiple of `align`. In given memory it lies before the memory
    /// and is never followed.
    origin: *mut u8,
    /// The largest alignment of a block.
    align: usize,
    /// The offset of the first byte of code. `len` is the offset of the end.
    first: usize,
    len: usize,
    /// Whether somebody else mapped the memory. Then no system call names it.
    given: bool,
    page: usize,
    huge_pages: bool,
    /// The protection that code needs.
    executable: Access,
    /// Whether the mappings are sealed. Then protections never change, and nothing is unmapped.
    frozen: bool,
    /// Whether every core serialises after each batch, although the architecture does not require
    /// it.
    serializes: bool,
    /// Whether everything that is not code is filled with traps, even if that takes a further call.
    poisons: bool,
    /// The process that the region belongs to.
    generation: u64,
    pub(crate) counters: Counters,
}

impl Region {
    pub(crate) fn new(os: &'static dyn Os, plan: &Plan, place: &Place, reservation: Span) -> Self {
        Self {
            os,
            reservation,
            data: reservation.data(place),
            origin: reservation.code(place).start.as_ptr(),
            align: place.align(),
            first: 0,
            len: plan.len,
            given: false,
            page: os.page_size(),
            huge_pages: plan.huge_pages,
            executable: plan.executable(),
            frozen: false,
            serializes: false,
            poisons: false,
            generation: sys::generation(),
            counters: Counters::default(),
        }
    }

    /// Makes a region of memory that somebody else mapped. `code` begins and ends at a granule.
    /// `data` is whole pages.
    pub(crate) fn given(os: &'static dyn Os, code: Span, data: Span) -> Self {
        let first = code.address() % MAX_ALIGN;
        Self {
            os,
            reservation: code,
            data,
            origin: code.start.as_ptr().wrapping_sub(first),
            align: MAX_ALIGN,
            first,
            len: first + code.len,
            given: true,
            page: os.page_size(),
            huge_pages: false,
            executable: Access::ReadExecute,
            frozen: false,
            serializes: false,
            poisons: false,
            generation: sys::generation(),
            counters: Counters::default(),
        }
    }

    /// Returns whether somebody else mapped the memory.
    pub(crate) fn is_given(&self) -> bool {
        self.given
    }

    /// Returns an error if somebody else mapped the memory.
    pub(crate) fn check_not_given(&self, what: &'static str) -> Result<(), Error> {
        match self.given {
            false => Ok(()),
            true => Err(Error::unsupported(what, "the memory was given to the arena: only its owner may do that")),
        }
    }

    pub(crate) fn os(&self) -> &'static dyn Os {
        self.os
    }

    /// Returns all of the reservation, with the pages around the code.
    pub(crate) fn reservation(&self) -> Span {
        self.reservation
    }

    /// Returns the part of the reservation that can be sealed: everything but the data.
    pub(crate) fn to_freeze(&self) -> Span {
        let len = match self.data.len {
            0 => self.reservation.len,
            _ => self.data.address() - self.reservation.address(),
        };
        Span { len, ..self.reservation }
    }

    /// Returns whether indirect branches may arrive at landing pads only.
    #[cfg(feature = "cranelift")]
    pub(crate) fn has_landing_pads(&self) -> bool {
        self.executable == Access::ReadExecuteLanding
    }

    /// Notes that from here on protections do not change, and that the mappings stay.
    pub(crate) fn set_frozen(&mut self) {
        self.frozen = true;
    }

    pub(crate) fn set_serializes(&mut self, yes: bool) {
        self.serializes = yes;
    }

    pub(crate) fn set_poisons(&mut self, yes: bool) {
        self.poisons = yes;
    }

    /// Returns whether everything that is not code is filled with traps, even if that takes a
    /// further call.
    pub(crate) fn poisons(&self) -> bool {
        self.poisons
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Returns the offset where the code ends.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the first offset of code. It is 0, except in given memory, which may begin anywhere.
    pub(crate) fn first(&self) -> usize {
        self.first
    }

    /// Returns the bytes of code that the region can hold.
    pub(crate) fn capacity(&self) -> usize {
        self.len - self.first
    }

    /// Returns the largest alignment of a block.
    pub(crate) fn alignment(&self) -> usize {
        self.align
    }

    pub(crate) fn page_size(&self) -> usize {
        self.page
    }

    /// Returns whether the region belongs to this process, which is then not a forked child.
    pub(crate) fn is_own(&self) -> bool {
        self.generation == sys::generation()
    }

    /// Returns [`Error::Forked`] in a forked child.
    pub(crate) fn check_own(&self, what: &'static str) -> Result<(), Error> {
        if self.is_own() { Ok(()) } else { Err(Error::Forked { what }) }
    }

    /// Returns whether huge pages were asked for.
    pub(crate) fn wants_huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// Returns the executable address of an offset.
    pub(crate) fn address(&self, offset: usize) -> *const u8 {
        self.origin.wrapping_add(offset)
    }

    /// Returns the offset of an executable address.
    pub(crate) fn offset_of(&self, address: *const u8) -> Option<usize> {
        let offset = address.addr().checked_sub(self.origin.addr())?;
        (self.first <= offset && offset < self.len).then_some(offset)
    }

    /// Returns bytes of the executable view.
    pub(crate) fn span(&self, range: Range<usize>) -> Span {
        debug_assert!(self.first <= range.start && range.start <= range.end && range.end <= self.len);
        // SAFETY: from the first byte of the code on, which is not at address 0.
        Span { start: unsafe { NonNull::new_unchecked(self.origin.wrapping_add(range.start)) }, len: range.len() }
    }

    /// Returns whether pages get memory when they are opened instead of when they are written to.
    pub(crate) fn commits(&self) -> bool {
        self.os.commits()
    }

    /// Returns whether `address` lies in the code or in the data.
    pub(crate) fn contains(&self, address: *const u8) -> bool {
        let in_data = address.addr().checked_sub(self.data.address()).is_some_and(|offset| offset < self.data.len);
        in_data || self.offset_of(address).is_some()
    }

    /// Opens whole private pages for writing. After an error some of them may be open, because the
    /// system changes one mapping after another. Seal them before they are used for anything else.
    ///
    /// # Safety
    /// - The pages contain no live code. The caller owns them until they are sealed.
    pub(crate) unsafe fn open(&self, range: Range<usize>) -> Result<(), Error> {
        self.check_not_given("opening pages")?;
        self.counters.flips.add(1);
        // SAFETY: passed on to the caller.
        Ok(unsafe { self.os.protect(self.span(range), Access::ReadWrite) }?)
    }

    /// Makes opened pages executable.
    ///
    /// # Safety
    /// - The caller opened the pages and owns them. Nobody writes to them any more.
    pub(crate) unsafe fn seal(&self, range: Range<usize>) -> Result<(), Error> {
        self.check_not_given("sealing pages")?;
        self.counters.flips.add(1);
        // SAFETY: passed on to the caller.
        Ok(unsafe { self.os.protect(self.span(range), self.executable) }?)
    }

    /// Returns the protection of pages that are executable, or else only readable.
    fn access(&self, executable: bool) -> Access {
        if executable { self.executable } else { Access::Read }
    }

    /// Makes pages that nobody can write to executable, or not executable.
    ///
    /// # Safety
    /// - The caller owns the pages. If they become not executable, no thread runs them.
    pub(crate) unsafe fn set_executable(&self, range: Range<usize>, yes: bool) -> sys::Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { self.os.protect(self.span(range), self.access(yes)) }
    }

    /// Replaces opened pages by fresh ones, which are executable or only readable.
    ///
    /// # Safety
    /// - The caller owns the pages, and nobody needs their content.
    pub(crate) unsafe fn replace(&self, range: Range<usize>, executable: bool) -> Result<(), Error> {
        // SAFETY: passed on to the caller. The view is private where pages are opened at all.
        Ok(unsafe { self.os.replace(self.span(range), self.access(executable)) }?)
    }

    /// Gets memory for opened pages before they are used. Returns whether that succeeded.
    pub(crate) fn populate(&self, range: Range<usize>) -> bool {
        // SAFETY: whole pages of the view.
        !self.given && unsafe { self.os.populate(self.span(range)) }.is_ok()
    }

    /// Asks for huge pages for a table of the arena. It is a hint.
    pub(crate) fn advise_table(&self, table: Span) {
        // SAFETY: whole pages inside the table. Their content stays as it is.
        let _ = unsafe { self.os.advise_huge(table) };
    }

    /// Flushes written bytes from the instruction cache.
    pub(crate) fn flush(&self, range: Range<usize>) -> Result<(), Error> {
        // SAFETY: inside the region. The bytes were written, so they are mapped and readable.
        unsafe { icache::flush(self.address(range.start), range.len()) }
    }

    /// Synchronises other cores, after the last flush of a batch.
    pub(crate) fn sync_cores(&self) -> Result<(), Error> {
        if icache::BARRIERS {
            self.counters.barriers.add(1);
            return icache::sync_cores();
        }
        if self.serializes {
            self.counters.barriers.add(1);
            return icache::serialize_cores();
        }
        Ok(())
    }
}

// SAFETY: the pointers lead to mappings that the region owns. Every access to their bytes is by an
// unsafe call, and its caller owns the bytes.
unsafe impl Send for Region {}
// SAFETY: as for `Send`. Everything else is atomics and locks.
unsafe impl Sync for Region {}
