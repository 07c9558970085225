//! `Flip`: private memory at one address. A page is open for writing only while it contains no live
//! code.
//!
//! ```text
//!                        open: rw-, for any thread
//! page without live code -------------------------> written by a batch
//!   r-x                  <-------------------------
//!                        seal: r-x
//!
//! page with live code    holes are written by the kernel (/proc/self/mem); the page stays r-x
//! ```
//!
//! - *Reserved*: one view, all of it executable from the start. (If pages have to be committed, as
//!   on Windows, the view is reserved, and pages become executable after they were opened.) So
//!   there are no page states to keep: a free page is one without live code.
//! - *Writing*: there are two ways. The kernel fills holes in executable pages, where it writes to
//!   pages that the process itself may not write to ([`KernelWriter`]). Whole pages without live
//!   code are opened, written and sealed again. A patch is always a write through the kernel.
//! - *Returning memory*: as for any private memory, while the pages are executable.
//! - *Forked children*: a child has a copy.

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
    /// The writer that fills holes in executable pages, or the reason why there is none.
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
            "the kernel write is refused here, so protections have to change: build without `seal`",
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
            prefaults: false,
            readers: Readers::All,
        }
    }

    unsafe fn write(&self, region: &Region, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        let Ok(writer) = &self.writer else {
            return Err(Error::unsupported(
                "writing to a page with live code",
                "the kernel write is refused: publish it anew",
            ));
        };
        region.counters.kernel_writes.add(1);
        // SAFETY: inside the private view. The rest is passed on to the caller.
        unsafe { region.os().kernel_write(writer, region.span(offset..offset).start, bytes)? };
        Ok(())
    }

    fn kernel_writer(&self) -> Option<&KernelWriter> {
        self.writer.as_ref().ok()
    }

    unsafe fn fill(&self, region: &Region, offset: usize, code: &[u8], padding: &[u8]) -> Result<(), Error> {
        // SAFETY: parts of the range that is passed on to the caller.
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

/// Makes all of a new private region executable, and finds out whether pages can be opened and
/// sealed, and whether holes can be filled.
///
/// If pages have to be committed, only the first is tried out, and the others stay as they are
/// until they are opened. There an executable page counts against the system's memory, used or not.
/// Elsewhere the first page is written while *all* of the region is writable. The kernel then
/// attaches its record of private memory (on Linux the `anon_vma`, and under strict overcommit the
/// accounting) to the one mapping. Runs that are opened and sealed later inherit it, and merge with
/// their neighbours again. Runs with separate records would never merge, and the number of mappings
/// would grow with the number of batches.
fn try_out_pages(memory: &CodeMemory) -> Result<Result<KernelWriter, Unfilled>, Error> {
    let [one, _] = RETURN_1_2;
    let page = 0..memory.page_size();
    let as_refused = |error| match error {
        Error::OperatingSystem { call, bytes, source, .. } => refusal("Flip")(Refused { call, source, bytes }),
        other => other,
    };
    let all = if memory.commits() { page.clone() } else { 0..memory.len() };
    // SAFETY: a new region, which nobody else knows.
    if unsafe { memory.region.open(all.clone()) }.is_err() {
        // Strict overcommit may refuse so much at once. Then the first page is opened alone.
        // SAFETY: as above.
        unsafe { memory.region.seal(all.clone()) }.map_err(as_refused)?;
        // SAFETY: as above.
        unsafe { memory.region.open(page.clone()) }.map_err(as_refused)?;
    }
    // SAFETY: the page is open, and larger than the function.
    unsafe { memory.writable(0).copy_from_nonoverlapping(std::ptr::NonNull::from(one).cast(), one.len()) };
    // SAFETY: opened above, and not written to any more.
    unsafe { memory.region.seal(all) }.map_err(as_refused)?;
    // SAFETY: the whole function was written to the page.
    let got = unsafe { probe::run(memory, one.len())? };
    if got != 1 {
        return Err(probe::stale("Flip", got));
    }
    let writer = kernel_writer(memory)?;
    // Locked memory stays, and is used for the first code.
    // SAFETY: nobody else has the page yet.
    let _ = unsafe { memory.decommit(probe::first_pages(memory)) };
    Ok(writer)
}

/// Returns the kernel writer if the bytes that it writes are the bytes that run. Any doubt counts
/// as refused. A lack of descriptors or memory is an error instead, because it passes, and an arena
/// without the kernel writer stays without it.
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
    // Reading does no harm, wherever it leads. Under an emulator these may be addresses of other
    // memory.
    let mut seen = vec![0; one.len()];
    memory.os().kernel_read(&writer, at, &mut seen).map_err(|_| Unfilled::NotWritten)?;
    if seen != one {
        return Err(Unfilled::OtherMemory);
    }
    // SAFETY: the first page of a new region, which nobody else knows.
    unsafe { memory.os().kernel_write(&writer, at, two) }.map_err(|_| Unfilled::NotWritten)?;
    // SAFETY: the page contains the first function or the second, as a whole.
    match unsafe { probe::run(memory, two.len()) } {
        Ok(2) => Ok(writer),
        _ => Err(Unfilled::OtherMemory),
    }
}
