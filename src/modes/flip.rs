//! `Flip`: private memory, one address. A page is open for writing only while there is no live code
//! in it.
//!
//! - *Reserved*: one view, all of it executable from the start. (Where pages have to be committed,
//!   as on Windows: reserved, and executable once it was opened.) So there are no states of pages
//!   to keep: a free page is one without live code.
//! - *Bytes get in* in two ways. Holes in executable pages are filled through the kernel, where it
//!   writes to pages that the process itself may not write to ([`KernelWriter`]: `/proc/self/mem`);
//!   whole pages without live code are opened, written to, and sealed again. A patch is always a
//!   write through the kernel.
//! - *Pages come back* as private memory does, while they are executable.
//! - *A forked child* has a copy of its own.

use std::ops::Range;

use super::memory::CodeMemory;
use super::mode::Mode;
use super::rules::{Readers, Rules, Trims, WayIn};
use super::wx_mode::{Unfilled, WxMode};
use super::{padded, probe};
use crate::Error;
use crate::icache::RETURN_1_2;
use crate::region::{Plan, Region, refusal};
use crate::sys::{self, KernelWriter, Os, Refused};

struct Flip {
    /// How holes in executable pages are filled, or why they are not.
    writer: Result<KernelWriter, Unfilled>,
}

pub(super) fn build(os: &'static dyn Os, plan: &Plan) -> Result<CodeMemory, Error> {
    let place = plan.place(os)?;
    let reservation = os.reserve(&place).map_err(plan.out_of_reach(&place))?;
    let region = Region::new(os, plan, &place, reservation);
    let mut memory = CodeMemory::new(region, Box::new(Flip { writer: Err(Unfilled::NoSuchCall) }));
    memory.advise(plan);
    let writer = try_out_pages(&memory)?;
    if plan.freeze && writer.is_err() {
        return Err(Error::unsupported(
            "seal in Flip",
            "the kernel write is refused here, so pages have to be flipped",
        ));
    }
    memory.set_mode(Box::new(Flip { writer }));
    Ok(memory)
}

impl Mode for Flip {
    fn mode(&self) -> WxMode {
        WxMode::Flip
    }

    fn rules(&self, region: &Region) -> Rules {
        Rules {
            fills_holes: self.writer.is_ok(),
            opens_pages: !region.is_frozen(),
            way_in: WayIn::WriteAtLast,
            trims: Trims::UnlessSealed,
            collapses_in_steps: false,
            readers: Readers::All,
        }
    }

    unsafe fn write(&self, region: &Region, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        let Ok(writer) = &self.writer else {
            return Err(Error::unsupported("writing to a page with live code", "the kernel write is refused here"));
        };
        region.counters.kernel_writes.add(1);
        // SAFETY: inside the private view; the rest is passed on to the caller.
        unsafe { region.os().kernel_write(writer, region.span(offset..offset).start, bytes)? };
        Ok(())
    }

    fn kernel_writer(&self) -> Option<&KernelWriter> {
        self.writer.as_ref().ok()
    }

    unsafe fn fill(&self, region: &Region, offset: usize, code: &[u8], padding: &[u8]) -> Result<(), Error> {
        // SAFETY: parts of what is passed on to the caller.
        padded::write(offset, code, padding, region.poisons(), |at, bytes| unsafe { self.write(region, at, bytes) })
    }

    fn unfilled(&self) -> Option<Unfilled> {
        self.writer.as_ref().err().copied()
    }

    unsafe fn decommit(&self, region: &Region, range: Range<usize>) -> sys::Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { region.os().decommit(region.span(range)) }
    }
}

/// Makes all of a new private region executable, and finds out whether pages can be flipped and
/// holes filled.
///
/// Where pages have to be committed, only the first is tried out, and the others stay as they are
/// until they are opened: there a page that is executable counts against the system's memory, used
/// or not. Elsewhere the first page is written to while *all* of the region is writable, so that
/// the kernel hangs its bookkeeping of private memory (on Linux the `anon_vma`, and under strict
/// overcommit the accounting) on the one mapping there is. Runs that are opened and sealed later
/// inherit it, and merge with their neighbours again; from separate beginnings they never would,
/// and the number of mappings would grow with the number of batches.
fn try_out_pages(memory: &CodeMemory) -> Result<Result<KernelWriter, Unfilled>, Error> {
    let [one, _] = RETURN_1_2;
    let page = 0..memory.page_size();
    let as_refused = |error| match error {
        Error::OperatingSystem { call, bytes, source, .. } => refusal("Flip")(Refused { call, source, bytes }),
        other => other,
    };
    let all = if memory.commits() { page.clone() } else { 0..memory.len() };
    // SAFETY: a new region, nobody else knows it.
    if unsafe { memory.region.open(all.clone()) }.is_err() {
        // Strict overcommit may refuse that much at once: then the first page alone.
        // SAFETY: as above.
        unsafe { memory.region.seal(all.clone()) }.map_err(as_refused)?;
        // SAFETY: as above.
        unsafe { memory.region.open(page.clone()) }.map_err(as_refused)?;
    }
    // SAFETY: the page is open, and larger than the function.
    unsafe { memory.writable(0).copy_from_nonoverlapping(std::ptr::NonNull::from(one).cast(), one.len()) };
    // SAFETY: opened above, and written to no more.
    unsafe { memory.region.seal(all) }.map_err(as_refused)?;
    // SAFETY: the function was written whole to the page.
    let got = unsafe { probe::run(memory, one.len())? };
    if got != 1 {
        return Err(probe::stale("Flip", got));
    }
    let writer = kernel_writer(memory)?;
    // Locked memory stays, and is used for the first code.
    // SAFETY: the page is still nobody else's.
    let _ = unsafe { memory.decommit(probe::first_pages(memory)) };
    Ok(writer)
}

/// The kernel writer, if what it writes is what runs. Any doubt counts as refused; but want of
/// descriptors or memory is an error, as it passes, and an arena without the kernel writer stays
/// without.
fn kernel_writer(memory: &CodeMemory) -> Result<Result<KernelWriter, Unfilled>, Error> {
    match memory.os().open_kernel_writer() {
        Ok(writer) => Ok(try_out(memory, writer)),
        Err(refused) if refused.passes() => Err(refused.into()),
        Err(refused) if refused.source.kind() == std::io::ErrorKind::Unsupported => Ok(Err(Unfilled::NoSuchCall)),
        Err(_) => Ok(Err(Unfilled::NotOpened)),
    }
}

fn try_out(memory: &CodeMemory, writer: KernelWriter) -> Result<KernelWriter, Unfilled> {
    let [one, two] = RETURN_1_2;
    let at = memory.span(0..0).start;
    // Reading is harmless wherever it leads; under an emulator these may be the wrong memory's
    // addresses.
    let mut seen = vec![0; one.len()];
    memory.os().kernel_read(&writer, at, &mut seen).map_err(|_| Unfilled::NotWritten)?;
    if seen != one {
        return Err(Unfilled::OtherMemory);
    }
    // SAFETY: the first page of a new region, which nobody else knows.
    unsafe { memory.os().kernel_write(&writer, at, two) }.map_err(|_| Unfilled::NotWritten)?;
    // SAFETY: the page holds the first function, or the second, whole.
    match unsafe { probe::run(memory, two.len()) } {
        Ok(2) => Ok(writer),
        _ => Err(Unfilled::OtherMemory),
    }
}
