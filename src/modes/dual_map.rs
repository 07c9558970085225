//! `DualMap`: shared memory that is mapped twice, executable inside the region and writable at an
//! unrelated address.
//!
//! ```text
//! view 1   r-x  <--.                nobody writes here
//!                   one memory
//! view 2   rw-  <--'                any thread that knows this address writes here
//! ```
//!
//! - *Reserved*: all of the memory, mapped in both views as long as the arena lives. Some systems
//!   provide shared memory only when asked ([`Backing`]). They are asked for 64 KiB at a time.
//! - *Writing*: functions, batches and patches are stored to the writable view. No page ever
//!   changes its protection.
//! - *Returning memory*: only on Linux, where the system takes memory back while it is mapped.
//! - *Forked children*: a child inherits the executable view, and with it the memory to which its
//!   parent continues to write. It does not inherit the writable view.

use std::ops::Range;
use std::ptr::NonNull;

use super::backing::Backing;
use super::memory::CodeMemory;
use super::mode::Mode;
use super::probe;
use super::rules::{Readers, Rules, Trims, WayIn};
use super::wx_mode::WxMode;
use crate::Error;
use crate::region::{Plan, Region, refusal};
use crate::sys::{self, Os, Span, Word};

struct DualMap {
    writable: Span,
    /// The parts that have memory, if the system has to be asked.
    backing: Option<Backing>,
}

pub(super) fn build(os: &'static dyn Os, plan: &Plan) -> Result<CodeMemory, Error> {
    let place = plan.place(os)?;
    let backing = if os.commits() { Some(Backing::new(plan.len)?) } else { None };
    let memory = os.share(plan.len).map_err(refusal("DualMap"))?;
    let writable = os.map_writable(&memory, plan.len).map_err(refusal("DualMap"))?;
    let mapped = os
        .map_executable(&memory, &place, plan.executable())
        .map_err(|refused| plan.no_place("DualMap", &place, refused));
    let reservation = mapped.inspect_err(|_| {
        // SAFETY: it was mapped above, and nobody else has it.
        unsafe { sys::release_or_park(os, writable) };
    })?;
    let region = Region::new(os, plan, &place, reservation);
    let memory = CodeMemory::new(region, Box::new(DualMap { writable, backing }));
    memory.advise(plan);
    probe::rewriting(&memory, "DualMap")?;
    Ok(memory)
}

impl DualMap {
    /// Returns the same bytes in the writable view.
    fn span(&self, range: Range<usize>) -> Span {
        debug_assert!(range.start <= range.end && range.end <= self.writable.len);
        // SAFETY: inside the view, which is as long as the region.
        Span { start: unsafe { self.writable.start.add(range.start) }, len: range.len() }
    }
}

impl Mode for DualMap {
    fn mode(&self) -> WxMode {
        WxMode::DualMap
    }

    fn rules(&self, region: &Region) -> Rules {
        Rules {
            fills_holes: true,
            opens_pages: false,
            way_in: WayIn::Stores,
            trims: if region.os().returns_shared() { Trims::Always } else { Trims::Nothing },
            // The two views are collapsed one after the other.
            collapses_in_steps: true,
            prefaults: false,
            readers: Readers::SharedWithParent,
        }
    }

    unsafe fn write(&self, region: &Region, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        let range = offset..offset + bytes.len();
        self.back(region, range.clone())?;
        // SAFETY: inside the writable view. The caller promises that nobody else uses the bytes.
        unsafe { self.span(range).start.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        Ok(())
    }

    unsafe fn fill(&self, region: &Region, offset: usize, code: &[u8], padding: &[u8]) -> Result<(), Error> {
        let range = offset..offset + code.len() + padding.len();
        self.back(region, range.clone())?;
        let start = self.span(range).start;
        // SAFETY: inside the writable view. The caller promises that nobody else uses the bytes.
        unsafe { start.copy_from_nonoverlapping(NonNull::from(code).cast(), code.len()) };
        // SAFETY: inside the view, as the code and the padding are.
        let behind = unsafe { start.add(code.len()) };
        // SAFETY: as for the code.
        unsafe { behind.copy_from_nonoverlapping(NonNull::from(padding).cast(), padding.len()) };
        Ok(())
    }

    unsafe fn write_word(&self, _region: &Region, offset: usize, word: Word) -> Result<(), Error> {
        let at = self.span(offset..offset + word.len()).start;
        // SAFETY: inside the writable view, which has memory there and begins at a page. The rest
        // is passed on to the caller.
        unsafe { word.store(at) };
        Ok(())
    }

    fn writable(&self, _region: &Region, offset: usize) -> NonNull<u8> {
        self.span(offset..offset).start
    }

    fn back(&self, region: &Region, bytes: Range<usize>) -> Result<(), Error> {
        let Some(backing) = &self.backing else { return Ok(()) };
        backing.ensure(bytes, |piece| {
            let (executable, writable) = (region.span(piece.clone()), self.span(piece));
            // SAFETY: the same whole pages in both views.
            Ok(unsafe { region.os().commit_shared(executable, writable) }?)
        })
    }

    unsafe fn decommit(&self, region: &Region, range: Range<usize>) -> sys::Result<()> {
        let span = self.span(range);
        // SAFETY: passed on to the caller.
        let Err(refused) = (unsafe { region.os().decommit_shared(span) }) else { return Ok(()) };
        // The process may lock its memory. Then the executable view stays locked, and with it the
        // memory that both views share.
        // SAFETY: the whole view.
        if unsafe { region.os().unlock_shared(self.writable) }.is_err() {
            return Err(refused);
        }
        // SAFETY: passed on to the caller.
        unsafe { region.os().decommit_shared(span) }
    }

    fn second_view(&self) -> Option<Span> {
        Some(self.writable)
    }

    unsafe fn release(&mut self, region: &Region) {
        // A child did not inherit the view. Something else may be mapped at its address.
        if region.is_own() {
            // SAFETY: the whole view. The rest is passed on to the caller.
            unsafe { sys::release_or_park(region.os(), self.writable) };
        }
        // SAFETY: the whole reservation. The rest is passed on to the caller.
        unsafe { sys::release_or_park(region.os(), region.reservation()) };
    }

    /// Gives the memory back, because that needs no change of the mappings.
    unsafe fn abandon(&mut self, region: &Region) {
        if region.is_own() && region.os().returns_shared() {
            region.counters.decommits.add(1);
            // SAFETY: passed on to the caller.
            let _ = unsafe { self.decommit(region, 0..region.len()) };
        }
    }
}
