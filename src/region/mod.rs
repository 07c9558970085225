//! An owned reservation of address space and its views. Raw pointers stop here: above, code is offsets into the region.
//!
//! A region is *private* (one view; a page is readable and executable, or open for writing, never both), *dual* (shared
//! memory mapped twice: executable inside the reservation, writable at an unrelated address), or *windowed* (one view,
//! writable for a thread only while that thread copies code in).

use std::ops::Range;
use std::ptr::NonNull;

use crate::Error;
use crate::icache;
use crate::sys::{self, Access, KernelWriter, Os, Place, Span, WriteWindow};

mod backing;
mod counters;
mod plan;
mod probe;

use backing::Backing;
pub(crate) use counters::Counters;
pub(crate) use plan::Plan;
use plan::executable;

pub(crate) struct Region {
    os: &'static dyn Os,
    /// The view that runs, with a page without access (at least) on either side.
    reservation: Span,
    base: NonNull<u8>,
    len: usize,
    view: View,
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

enum View {
    Private {
        /// How holes in executable pages are filled, if the system allows it.
        writer: Option<KernelWriter>,
    },
    Dual {
        writable: Span,
        /// What of it has memory, where the system wants to be asked.
        backing: Option<Backing>,
    },
    Windowed {
        window: WriteWindow,
    },
}

impl Region {
    /// A private region; tried out before it is returned.
    pub(crate) fn private(os: &'static dyn Os, plan: &Plan) -> Result<Self, Error> {
        let place = plan.place(os)?;
        let reservation = os.reserve(&place).map_err(plan.out_of_reach(&place))?;
        let mut region = Self::new(os, plan, &place, reservation, View::Private { writer: None });
        region.advise(plan);
        let found = probe::private(&region)?;
        if plan.freeze && found.is_none() {
            return Err(Error::unsupported(
                "seal in Flip",
                "the kernel write is refused here, so pages have to be flipped",
            ));
        }
        region.view = View::Private { writer: found };
        region.freeze(plan)
    }

    /// A region of shared memory with two views; tried out before it is returned.
    pub(crate) fn dual(os: &'static dyn Os, plan: &Plan) -> Result<Self, Error> {
        let place = plan.place(os)?;
        let backing = if os.commits() { Some(Backing::new(plan.len)?) } else { None };
        let memory = os.share(plan.len).map_err(probe::refusal("DualMap"))?;
        let writable = os.map_writable(&memory, plan.len).map_err(probe::refusal("DualMap"))?;
        let mapped = os
            .map_executable(&memory, &place, executable(plan))
            .map_err(|refused| plan.no_place("DualMap", &place, refused));
        let reservation = mapped.inspect_err(|_| {
            // SAFETY: mapped above and given to nobody.
            unsafe { sys::release_or_park(os, writable) };
        })?;
        let region = Self::new(os, plan, &place, reservation, View::Dual { writable, backing });
        region.advise(plan);
        probe::rewriting(&region, "DualMap")?;
        region.freeze(plan)
    }

    /// A region that a thread can write to only while it copies code in; tried out before it is returned.
    pub(crate) fn windowed(os: &'static dyn Os, plan: &Plan) -> Result<Self, Error> {
        let place = plan.place(os)?;
        let reservation = os.reserve_window(&place).map_err(|refused| plan.no_place("PerThread", &place, refused))?;
        let mut region = Self::new(os, plan, &place, reservation, View::Private { writer: None });
        region.advise(plan);
        let span = region.span(0..region.len);
        // SAFETY: whole pages of the reservation, which nobody uses yet; `drop` releases them before the window.
        let window = unsafe { os.make_window(span) }.map_err(probe::refusal("PerThread"))?;
        region.view = View::Windowed { window };
        probe::rewriting(&region, "PerThread")?;
        region.freeze(plan)
    }

    /// What the system may heed or not: a refusal leaves small pages, or no name.
    fn advise(&self, plan: &Plan) {
        let writable = if let View::Dual { writable, .. } = self.view { Some(writable) } else { None };
        for span in std::iter::once(self.span(0..self.len)).chain(writable) {
            if plan.huge_pages {
                // SAFETY: whole pages of a view.
                let _ = unsafe { self.os.advise_huge(span) };
            }
            if let Some(name) = &plan.name {
                // SAFETY: as above.
                let _ = unsafe { self.os.name(span, name) };
            }
        }
    }

    /// Lets nobody change the protections any more, if that was asked for.
    fn freeze(mut self, plan: &Plan) -> Result<Self, Error> {
        if !plan.freeze {
            return Ok(self);
        }
        let writable = if let View::Dual { writable, .. } = self.view { Some(writable) } else { None };
        for span in [Some(self.reservation), writable].into_iter().flatten() {
            // SAFETY: whole mappings of this region, and `drop` leaves frozen ones where they are.
            let frozen = unsafe { self.os.freeze(span) };
            // The first may be frozen when the second is refused.
            self.frozen |= frozen.is_ok();
            frozen.map_err(probe::refusal("seal"))?;
        }
        Ok(self)
    }

    fn new(os: &'static dyn Os, plan: &Plan, place: &Place, reservation: Span, view: View) -> Self {
        Self {
            os,
            reservation,
            base: reservation.code(place).start,
            len: plan.len,
            view,
            page: os.page_size(),
            huge_pages: plan.huge_pages,
            executable: executable(plan),
            frozen: false,
            generation: sys::generation(),
            counters: Counters::default(),
        }
    }

    /// The window, to outlive the region.
    fn take_window(&mut self) -> Option<WriteWindow> {
        if !self.is_windowed() {
            return None;
        }
        match std::mem::replace(&mut self.view, View::Private { writer: None }) {
            View::Windowed { window } => Some(window),
            _ => None,
        }
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

    /// Whether bytes can be placed in pages that are executable already.
    pub(crate) fn fills_holes(&self) -> bool {
        !matches!(self.view, View::Private { writer: None })
    }

    /// Whether all of the region is writable, at another address.
    pub(crate) fn is_dual(&self) -> bool {
        matches!(self.view, View::Dual { .. })
    }

    /// Whether whole pages are opened for writing and sealed again.
    pub(crate) fn opens_pages(&self) -> bool {
        !self.frozen && matches!(self.view, View::Private { .. })
    }

    /// Whether pages are writable only inside of a write.
    pub(crate) fn is_windowed(&self) -> bool {
        matches!(self.view, View::Windowed { .. })
    }

    /// Before this thread reads code: where rights differ from thread to thread, it may have none yet.
    pub(crate) fn let_read(&self) {
        if let View::Windowed { window } = &self.view {
            window.let_read();
        }
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

    fn span(&self, range: Range<usize>) -> Span {
        debug_assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the reservation, which reaches past `base + len`.
        Span { start: unsafe { self.base.add(range.start) }, len: range.len() }
    }

    /// The span of the writable view.
    fn writable_span(&self, writable: Span, range: Range<usize>) -> Span {
        debug_assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: the view is `self.len` bytes long.
        Span { start: unsafe { writable.start.add(range.start) }, len: range.len() }
    }

    /// Where the bytes at `offset` are written: in the second view, or in place once the pages are open.
    pub(crate) fn writable(&self, offset: usize) -> NonNull<u8> {
        match &self.view {
            View::Private { .. } | View::Windowed { .. } => self.span(offset..offset).start,
            View::Dual { writable, .. } => self.writable_span(*writable, offset..offset).start,
        }
    }

    /// Sees to it that bytes of the writable view have memory behind them.
    pub(crate) fn back(&self, bytes: Range<usize>) -> Result<(), Error> {
        let View::Dual { writable, backing: Some(backing) } = &self.view else { return Ok(()) };
        backing.ensure(bytes, |stretch| {
            let (executable, writable) = (self.span(stretch.clone()), self.writable_span(*writable, stretch));
            // SAFETY: the same whole pages in both views.
            Ok(unsafe { self.os.commit_shared(executable, writable) }?)
        })
    }

    /// Whether opened pages have memory from then on, and not as they are written to.
    pub(crate) fn commits(&self) -> bool {
        self.os.commits()
    }

    /// Whether memory of empty pages can be given back.
    pub(crate) fn gives_back(&self) -> bool {
        !self.is_dual() || self.os.returns_shared()
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

    /// Writes `bytes` at `offset` of pages that are executable; no thread is disturbed.
    ///
    /// A forked child is refused, here once more than where its calls come in: the kernel writer it inherited leads to
    /// its parent, and the writable view is not there.
    ///
    /// # Safety
    /// - The bytes are the caller's: inside the region, and nobody runs, reads or writes them meanwhile.
    pub(crate) unsafe fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        self.check_own("write")?;
        match &self.view {
            View::Dual { writable, .. } => {
                self.back(offset..offset + bytes.len())?;
                let to = self.writable_span(*writable, offset..offset + bytes.len()).start;
                // SAFETY: inside the writable view; by the caller nobody else uses the bytes.
                unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
                Ok(())
            }
            View::Private { writer: Some(writer) } => {
                self.counters.kernel_writes.add(1);
                // SAFETY: inside the private view; the rest is passed on to the caller.
                unsafe { self.os.kernel_write(writer, self.span(offset..offset).start, bytes)? };
                Ok(())
            }
            View::Windowed { window } => {
                // SAFETY: inside the pages of the window; the rest is passed on to the caller.
                unsafe { self.os.window_write(window, self.span(offset..offset).start, bytes)? };
                Ok(())
            }
            View::Private { writer: None } => {
                Err(Error::unsupported("writing to a page with live code", "the kernel write is refused here"))
            }
        }
    }

    /// Gives the memory of whole pages back to the system, where [`Region::gives_back`]. They can be written to as before:
    /// private ones after they were opened, or through the kernel.
    ///
    /// # Safety
    /// - The pages hold nothing that anybody needs, and belong to the caller.
    pub(crate) unsafe fn decommit(&self, range: Range<usize>) -> Result<(), Error> {
        if self.frozen && !self.is_dual() {
            return Err(Error::unsupported("giving memory back", "the arena's mappings are sealed"));
        }
        self.counters.decommits.add(1);
        match &self.view {
            // SAFETY: passed on to the caller.
            View::Private { .. } => unsafe { self.os.decommit(self.span(range))? },
            // SAFETY: passed on to the caller.
            View::Windowed { .. } => unsafe { self.os.decommit_window(self.span(range))? },
            // SAFETY: passed on to the caller.
            View::Dual { writable, .. } => unsafe { self.os.decommit_shared(self.writable_span(*writable, range))? },
        }
        Ok(())
    }

    /// Puts the memory of whole pages into huge pages.
    pub(crate) fn collapse(&self, range: Range<usize>) -> Result<(), Error> {
        if let View::Dual { writable, .. } = &self.view {
            // SAFETY: whole pages of the view.
            unsafe { self.os.collapse(self.writable_span(*writable, range.clone()))? };
        }
        // SAFETY: whole pages of the view.
        unsafe { self.os.collapse(self.span(range))? };
        Ok(())
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

impl Drop for Region {
    fn drop(&mut self) {
        if self.frozen {
            // The mappings stay until the process ends, and so does what they are tagged with. The memory need not.
            if self.is_own() && self.is_dual() && self.gives_back() {
                // SAFETY: nobody is left to use it.
                let _ = unsafe { self.decommit(0..self.len) };
            }
            let _stays = std::mem::ManuallyDrop::new(self.take_window());
            return;
        }
        if let View::Dual { writable, .. } = self.view {
            // A child did not inherit it: at its address may be something else.
            if self.is_own() {
                // SAFETY: the whole view, and nobody is left to use it.
                unsafe { sys::release_or_park(self.os, writable) };
            }
        }
        let window = self.take_window();
        // SAFETY: the whole reservation, and nobody is left to use it.
        unsafe { sys::release_before(self.os, self.reservation, window) };
    }
}

// SAFETY: the pointers are to mappings that the region owns; every access to their bytes goes through unsafe calls
// whose callers own the bytes.
unsafe impl Send for Region {}
// SAFETY: as for `Send`; everything else is atomics and locks.
unsafe impl Sync for Region {}
