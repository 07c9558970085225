//! What the system allows, found out by doing it on the first page of a new region: write code, run it, write other
//! code over it, run that. Versions and names of systems tell less: policies, sandboxes and emulators differ.

use std::io;

use super::Region;
use crate::Error;
use crate::icache::RETURN_1_2;
use crate::sys::{KernelWriter, Refused};
use crate::units::MAX_ALIGN;

/// A refusal while a mode is set up: a policy's doing is `Unsupported`, all else is the system's error as it is.
pub(super) fn refusal(mode: &'static str) -> impl Fn(Refused) -> Error {
    move |refused| match refused.source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput => {
            Error::unsupported(mode, format!("{} is refused: {}", refused.call, refused.source))
        }
        _ => refused.into(),
    }
}

/// Runs the first page, which holds one of [`RETURN_1_2`].
///
/// # Safety
/// - The region begins with the whole of one of these functions, in an executable page.
unsafe fn run(region: &Region, len: usize) -> Result<u32, Error> {
    region.flush(0..len);
    region.sync_cores()?;
    // SAFETY: by the caller, the address is that of a function of this type.
    let function = unsafe { std::mem::transmute::<*const u8, extern "C" fn() -> u32>(region.address(0)) };
    Ok(function())
}

fn stale(mode: &'static str, got: u32) -> Error {
    Error::unsupported(mode, format!("rewritten code ran as {got}: an emulator or sandbox runs stale instructions"))
}

/// Makes all of a new private region executable, and finds out whether pages can be flipped and holes filled.
///
/// Where pages have to be committed, only the first is tried out, and the others stay as they are until they are opened:
/// there a page that is executable counts against the system's memory, used or not. Elsewhere the first page is written to while *all* of the region is writable, so that the kernel hangs its bookkeeping of
/// private memory (on Linux the `anon_vma`, and under strict overcommit the accounting) on the one mapping there is.
/// Runs that are opened and sealed later inherit it, and merge with their neighbours again; from separate beginnings
/// they never would, and the number of mappings would grow with the number of batches.
pub(super) fn private(region: &Region) -> Result<Option<KernelWriter>, Error> {
    let [one, _] = RETURN_1_2;
    let page = 0..region.page;
    let as_refused = |error| match error {
        Error::OperatingSystem { call, source } => refusal("Flip")(Refused::new(call, source)),
        other => other,
    };
    let all = if region.commits() { page.clone() } else { 0..region.len };
    // SAFETY: a new region, nobody else knows it.
    if unsafe { region.open(all.clone()) }.is_err() {
        // Strict overcommit may refuse that much at once: then the first page alone.
        // SAFETY: as above.
        unsafe { region.seal(all.clone()) }.map_err(as_refused)?;
        // SAFETY: as above.
        unsafe { region.open(page.clone()) }.map_err(as_refused)?;
    }
    // SAFETY: the page is open, and larger than the function.
    unsafe { region.writable(0).copy_from_nonoverlapping(std::ptr::NonNull::from(one).cast(), one.len()) };
    // SAFETY: opened above, and written to no more.
    unsafe { region.seal(all) }.map_err(as_refused)?;
    // SAFETY: the function was written whole to the page.
    let got = unsafe { run(region, one.len())? };
    if got != 1 {
        return Err(stale("Flip", got));
    }
    let writer = kernel_writer(region)?;
    // Locked memory stays, and is used for the first code.
    // SAFETY: the page is still nobody else's.
    let _ = unsafe { region.decommit(first_pages(region)) };
    Ok(writer)
}

/// What the probe may have got memory for: the first page, or the huge page that came for it.
fn first_pages(region: &Region) -> std::ops::Range<usize> {
    0..if region.os.commits() { region.page } else { region.len.min(MAX_ALIGN) }
}

/// The kernel writer, if what it writes is what runs. Any doubt counts as refused; but want of descriptors or memory
/// is an error, as it passes, and an arena without the kernel writer stays without.
fn kernel_writer(region: &Region) -> Result<Option<KernelWriter>, Error> {
    match region.os.open_kernel_writer() {
        Ok(writer) => Ok(try_out(region, writer)),
        Err(refused) if PASSING.contains(&refused.source.raw_os_error().unwrap_or(0)) => Err(refused.into()),
        Err(_) => Ok(None),
    }
}

/// Errors that say nothing about what the system allows.
#[cfg(unix)]
const PASSING: &[i32] = &[libc::EMFILE, libc::ENFILE, libc::ENOMEM];
#[cfg(not(unix))]
const PASSING: &[i32] = &[];

fn try_out(region: &Region, writer: KernelWriter) -> Option<KernelWriter> {
    let [one, two] = RETURN_1_2;
    let at = region.span(0..0).start;
    // Reading is harmless wherever it leads; under an emulator these may be the wrong memory's addresses.
    let mut seen = vec![0; one.len()];
    region.os.kernel_read(&writer, at, &mut seen).ok()?;
    if seen != one {
        return None;
    }
    // SAFETY: the first page of a new region, which nobody else knows.
    unsafe { region.os.kernel_write(&writer, at, two).ok()? };
    // SAFETY: the page holds the first function, or the second, whole.
    (unsafe { run(region, two.len()).ok()? } == 2).then_some(writer)
}

/// Whether what is written over code is what runs.
pub(super) fn rewriting(region: &Region, mode: &'static str) -> Result<(), Error> {
    for (code, value) in RETURN_1_2.into_iter().zip(1..) {
        // SAFETY: a new region, nobody else knows it.
        unsafe { region.write(0, code)? };
        // SAFETY: the function was written whole to the page.
        let got = unsafe { run(region, code.len())? };
        if got != value {
            return Err(stale(mode, got));
        }
    }
    if region.gives_back() {
        // Locked memory stays, and is used for the first code.
        // SAFETY: the page is still nobody else's.
        let _ = unsafe { region.decommit(first_pages(region)) };
    }
    Ok(())
}
