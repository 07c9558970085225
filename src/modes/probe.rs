//! What the system allows, found out by doing it on the first page of a new region: write code, run
//! it, write other code over it, run that. Versions and names of systems tell less: policies,
//! sandboxes and emulators differ.

use super::memory::CodeMemory;
use crate::Error;
use crate::icache::RETURN_1_2;
use crate::units::MAX_ALIGN;

/// Runs the first page, which holds one of [`RETURN_1_2`].
///
/// # Safety
/// - The region begins with the whole of one of these functions, in an executable page.
pub(super) unsafe fn run(memory: &CodeMemory, len: usize) -> Result<u32, Error> {
    memory.flush(memory.first()..memory.first() + len)?;
    memory.sync_cores()?;
    // SAFETY: by the caller, the address is that of a function of this type.
    let function = unsafe { std::mem::transmute::<*const u8, extern "C" fn() -> u32>(memory.address(memory.first())) };
    Ok(function())
}

pub(super) fn stale(mode: &'static str, got: u32) -> Error {
    Error::unsupported(mode, format!("rewritten code ran as {got}: an emulator or sandbox runs stale instructions"))
}

/// Whether what is written over code is what runs.
pub(super) fn rewriting(memory: &CodeMemory, mode: &'static str) -> Result<(), Error> {
    for (code, value) in RETURN_1_2.into_iter().zip(1..) {
        // SAFETY: a new region, nobody else knows it.
        unsafe { memory.write(memory.first(), code)? };
        // SAFETY: the function was written whole to the page.
        let got = unsafe { run(memory, code.len())? };
        if got != value {
            return Err(stale(mode, got));
        }
    }
    if memory.can_shrink() {
        // Locked memory stays, and is used for the first code.
        // SAFETY: the page is still nobody else's.
        let _ = unsafe { memory.decommit(first_pages(memory)) };
    }
    Ok(())
}

/// What the probe may have got memory for: the first page, or the huge page that came for it.
pub(super) fn first_pages(memory: &CodeMemory) -> std::ops::Range<usize> {
    0..if memory.os().commits() { memory.page_size() } else { memory.len().min(MAX_ALIGN) }
}
