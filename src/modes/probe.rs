//! A trial on the first page of a new region: write code, run it, write other code over it, run
//! that. Versions and names of systems say less about what they allow, because policies, sandboxes
//! and emulators differ.

use super::memory::CodeMemory;
use crate::Error;
use crate::icache::RETURN_1_2;
use crate::units::MAX_ALIGN;

/// Runs the first page, which contains one of [`RETURN_1_2`].
///
/// # Safety
/// - The region begins with the whole of one of these functions, in an executable page.
pub(super) unsafe fn run(memory: &CodeMemory, len: usize) -> Result<u32, Error> {
    memory.flush(memory.first()..memory.first() + len)?;
    memory.sync_cores()?;
    // SAFETY: the caller promises that a function of this type is at the address.
    let function = unsafe { std::mem::transmute::<*const u8, extern "C" fn() -> u32>(memory.address(memory.first())) };
    Ok(function())
}

pub(super) fn stale(mode: &'static str, got: u32) -> Error {
    Error::unsupported(mode, format!("rewritten code ran as {got}: an emulator or sandbox runs stale instructions"))
}

/// Checks that bytes that are written over code are the bytes that run.
pub(super) fn rewriting(memory: &CodeMemory, mode: &'static str) -> Result<(), Error> {
    for (code, value) in RETURN_1_2.into_iter().zip(1..) {
        // SAFETY: a new region, which nobody else knows.
        unsafe { memory.write(memory.first(), code)? };
        // SAFETY: the whole function was written to the page.
        let got = unsafe { run(memory, code.len())? };
        if got != value {
            return Err(stale(mode, got));
        }
    }
    if memory.can_shrink() {
        // Locked memory stays, and is used for the first code.
        // SAFETY: nobody else has the page yet.
        let _ = unsafe { memory.decommit(first_pages(memory)) };
    }
    Ok(())
}

/// Returns the pages for which the trial may have got memory: the first page, or the huge page
/// around it.
pub(super) fn first_pages(memory: &CodeMemory) -> std::ops::Range<usize> {
    0..if memory.os().commits() { memory.page_size() } else { memory.len().min(MAX_ALIGN) }
}
