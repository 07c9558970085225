//! An owned reservation of address space, and what can be done with its pages. Raw pointers stop
//! here: above, code is offsets into the region.
//!
//! How bytes get in without a page that is writable and executable is the business of
//! [`modes`](crate::modes).

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

/// Released by its mode, as there may be more views to release.
pub(crate) struct Region {
    os: &'static dyn Os,
    /// The view that runs, with a page without access (at least) on either side, and the data.
    reservation: Span,
    data: Span,
    /// The address of offset 0, a multiple of `align`. In given memory it lies before the memory
    /// and is never followed.
    origin: *mut u8,
    /// The largest alignment of a block.
    align: usize,
    /// The offset of the first byte, and where the code ends.
    first: usize,
    len: usize,
    /// Somebody else mapped it: no call to the system ever names it.
    given: bool,
    page: usize,
    huge_pages: bool,
    /// What code needs.
    executable: Access,
    /// Protections never change again, and nothing is ever unmapped.
    frozen: bool,
    /// Every core serialises after each batch, where it need not.
    serializes: bool,
    /// What is not code is to be traps, also where that takes a call of its own.
    poisons: bool,
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

    /// A region of memory that somebody else mapped: `code` begins and ends at a granule, `data` is
    /// whole pages.
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

    /// Whether somebody else mapped it.
    pub(crate) fn is_given(&self) -> bool {
        self.given
    }

    /// `Err` in memory that somebody else mapped.
    pub(crate) fn check_not_given(&self, what: &'static str) -> Result<(), Error> {
        match self.given {
            false => Ok(()),
            true => {
                Err(Error::unsupported(what, "the memory was given to the arena: whoever mapped it decides on that"))
            }
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

    pub(crate) fn set_serializes(&mut self, yes: bool) {
        self.serializes = yes;
    }

    pub(crate) fn set_poisons(&mut self, yes: bool) {
        self.poisons = yes;
    }

    /// Whether what is not code is to be traps, also where that takes a call of its own.
    pub(crate) fn poisons(&self) -> bool {
        self.poisons
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Where the code ends, as an offset.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The first offset there is: 0, but in given memory, which may begin anywhere.
    pub(crate) fn first(&self) -> usize {
        self.first
    }

    /// Bytes of code there can be.
    pub(crate) fn capacity(&self) -> usize {
        self.len - self.first
    }

    /// The largest alignment of a block.
    pub(crate) fn alignment(&self) -> usize {
        self.align
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
        self.origin.wrapping_add(offset)
    }

    /// The offset of an executable address.
    pub(crate) fn offset_of(&self, address: *const u8) -> Option<usize> {
        let offset = address.addr().checked_sub(self.origin.addr())?;
        (self.first <= offset && offset < self.len).then_some(offset)
    }

    /// Bytes of the executable view.
    pub(crate) fn span(&self, range: Range<usize>) -> Span {
        debug_assert!(self.first <= range.start && range.start <= range.end && range.end <= self.len);
        // SAFETY: from the first byte of the code on, which is not at address 0.
        Span { start: unsafe { NonNull::new_unchecked(self.origin.wrapping_add(range.start)) }, len: range.len() }
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

    /// Opens whole private pages for writing. When this fails, some of them may be open all the
    /// same: the system changes one mapping after another. Seal them before they are used for
    /// anything else.
    ///
    /// # Safety
    /// - The pages hold no live code, and belong to the caller until sealed.
    pub(crate) unsafe fn open(&self, range: Range<usize>) -> Result<(), Error> {
        self.check_not_given("opening pages")?;
        self.counters.flips.add(1);
        // SAFETY: passed on to the caller.
        Ok(unsafe { self.os.protect(self.span(range), Access::ReadWrite) }?)
    }

    /// Makes opened pages executable.
    ///
    /// # Safety
    /// - The pages are the caller's, opened, and nobody writes to them any more.
    pub(crate) unsafe fn seal(&self, range: Range<usize>) -> Result<(), Error> {
        self.check_not_given("sealing pages")?;
        self.counters.flips.add(1);
        // SAFETY: passed on to the caller.
        Ok(unsafe { self.os.protect(self.span(range), self.executable) }?)
    }

    /// What pages are that are executable, or else readable alone.
    fn access(&self, executable: bool) -> Access {
        if executable { self.executable } else { Access::Read }
    }

    /// Makes pages that nobody can write to executable, or takes that away.
    ///
    /// # Safety
    /// - The pages are the caller's, and no thread runs them if they are to be not executable.
    pub(crate) unsafe fn set_executable(&self, range: Range<usize>, yes: bool) -> sys::Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { self.os.protect(self.span(range), self.access(yes)) }
    }

    /// Puts fresh pages in the place of opened ones, executable or readable alone.
    ///
    /// # Safety
    /// - The pages are the caller's, and nobody needs their contents.
    pub(crate) unsafe fn replace(&self, range: Range<usize>, executable: bool) -> Result<(), Error> {
        // SAFETY: passed on to the caller; the view is private where pages are opened at all.
        Ok(unsafe { self.os.replace(self.span(range), self.access(executable)) }?)
    }

    /// Gets memory for opened pages ahead of use; whether it could.
    pub(crate) fn populate(&self, range: Range<usize>) -> bool {
        // SAFETY: whole pages of the view.
        !self.given && unsafe { self.os.populate(self.span(range)) }.is_ok()
    }

    /// Asks for huge pages behind a table of the arena's own; a hint.
    pub(crate) fn advise_table(&self, table: Span) {
        // SAFETY: whole pages inside the table, whose contents stay as they are.
        let _ = unsafe { self.os.advise_huge(table) };
    }

    /// Flushes written bytes from the instruction cache.
    pub(crate) fn flush(&self, range: Range<usize>) -> Result<(), Error> {
        // SAFETY: inside the region and, as it was written, mapped and readable.
        unsafe { icache::flush(self.address(range.start), range.len()) }
    }

    /// After the last flush of a batch.
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

// SAFETY: the pointers are to mappings that the region owns; every access to their bytes goes
// through unsafe calls whose callers own the bytes.
unsafe impl Send for Region {}
// SAFETY: as for `Send`; everything else is atomics and locks.
unsafe impl Sync for Region {}
