//! `PerThread`: private memory at one address. It is writable for the writing thread only, and only
//! while it copies code.
//!
//! ```text
//! view   rwx in the page tables      window closed (all threads)          read and execute
//!                                    window open (this thread's copy)     write
//! ```
//!
//! - *Reserved*: one view, which the page tables call writable and executable. A window
//!   ([`WriteWindow`]: a protection key on x86-64, `MAP_JIT` on Apple Silicon) decides which thread
//!   may write. Outside of a copy no thread may.
//! - *Writing*: by a copy inside the window. A batch is copied at once as its functions are pushed.
//!   Functions that were changed since are copied once more when the batch is published. So no code
//!   of the caller runs while the window is open.
//! - *Returning memory*: as for any private memory.
//! - *Forked children*: a child has a copy.

use std::ops::Range;

use super::memory::CodeMemory;
use super::mode::Mode;
use super::rules::{Readers, Rules, Trims, WayIn};
use super::wx_mode::WxMode;
use super::{padded, probe};
use crate::Error;
use crate::region::{Plan, Region, refusal};
use crate::sys::{self, Os, Word, WriteWindow};

struct PerThread {
    /// The window. `None` after it was handed over, to be dropped after the pages.
    window: Option<WriteWindow>,
}

pub(super) fn build(os: &'static dyn Os, plan: &Plan) -> Result<CodeMemory, Error> {
    let place = plan.place(os)?;
    let reservation = os.reserve_window(&place).map_err(|refused| plan.no_place("PerThread", &place, refused))?;
    let region = Region::new(os, plan, &place, reservation);
    let mut memory = CodeMemory::new(region, Box::new(PerThread { window: None }));
    memory.advise(plan);
    let span = memory.span(0..memory.len());
    // SAFETY: whole pages of the reservation, which nobody uses yet. `release` releases them before
    // the window.
    let window = unsafe { os.make_window(span) }.map_err(refusal("PerThread"))?;
    memory.set_mode(Box::new(PerThread { window: Some(window) }));
    probe::rewriting(&memory, "PerThread")?;
    Ok(memory)
}

impl Mode for PerThread {
    fn mode(&self) -> WxMode {
        WxMode::PerThread
    }

    fn rules(&self, _region: &Region) -> Rules {
        Rules {
            fills_holes: true,
            opens_pages: false,
            way_in: WayIn::WriteAtOnce,
            trims: Trims::UnlessSealed,
            collapses_in_steps: false,
            prefaults: false,
            readers: Readers::EachThreadByItself,
        }
    }

    unsafe fn write(&self, region: &Region, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        let Some(window) = &self.window else {
            return Err(Error::unsupported("writing", "the window was released with the memory"));
        };
        // SAFETY: inside the pages of the window. The rest is passed on to the caller.
        unsafe { region.os().window_write(window, region.span(offset..offset).start, bytes)? };
        Ok(())
    }

    unsafe fn write_word(&self, region: &Region, offset: usize, word: Word) -> Result<(), Error> {
        let Some(window) = &self.window else {
            return Err(Error::unsupported("writing", "the window was released with the memory"));
        };
        // SAFETY: inside the pages of the window. The rest is passed on to the caller.
        unsafe { region.os().window_store(window, region.span(offset..offset).start, word)? };
        Ok(())
    }

    unsafe fn fill(&self, region: &Region, offset: usize, code: &[u8], padding: &[u8]) -> Result<(), Error> {
        // SAFETY: parts of the range that is passed on to the caller.
        padded::write(offset, code, padding, true, |at, bytes| unsafe { self.write(region, at, bytes) })
    }

    unsafe fn set_executable(&self, region: &Region, range: Range<usize>, yes: bool) -> sys::Result<()> {
        let Some(window) = &self.window else { return Ok(()) };
        // SAFETY: pages of the window. The rest is passed on to the caller.
        unsafe { region.os().protect_window(window, region.span(range), yes) }
    }

    unsafe fn decommit(&self, region: &Region, range: Range<usize>) -> sys::Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { region.os().decommit_window(region.span(range)) }
    }

    fn let_read(&self) {
        if let Some(window) = &self.window {
            window.let_read();
        }
    }

    unsafe fn release(&mut self, region: &Region) {
        // SAFETY: the whole reservation. The rest is passed on to the caller.
        unsafe { sys::release_before(region.os(), region.reservation(), self.window.take()) };
    }

    /// Keeps the window, because the mappings stay and have its tag.
    unsafe fn abandon(&mut self, _region: &Region) {
        let _stays = std::mem::ManuallyDrop::new(self.window.take());
    }
}
