//! AArch64: the caches are kept coherent by instructions.
//!
//! Arm ARM (DDI 0487), B2.4.4 "Concurrent modification and execution of instructions" and the
//! example sequences of its appendix K: clean each data line to the point of unification, wait,
//! invalidate each instruction line, wait. CTR_EL0 contains the line sizes, and in IDC and DIC
//! which half is not needed. It is read each time, because it may differ between the cores of one
//! system, and the thread may have moved. The invalidation reaches all cores of the inner shareable
//! domain. Another core drops what it fetched before only at a context synchronization event, see
//! [`super::membarrier`].

use std::arch::asm;

use super::membarrier;
use crate::Error;

pub(crate) const BARRIERS: bool = true;

pub(super) fn check() -> Result<(), Error> {
    membarrier::check()
}

/// Makes written bytes visible to instruction fetches.
///
/// # Safety
/// - `len` bytes at `start` are mapped and readable.
pub(crate) unsafe fn flush(start: *const u8, len: usize) -> Result<(), Error> {
    let control: u64;
    // SAFETY: CTR_EL0 is readable in user mode. On Linux the kernel traps and answers if cores
    // differ.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) control, options(nomem, nostack, preserves_flags)) };
    let (from, to) = (start.addr(), start.addr() + len);
    let lines = |log_words: u64| {
        let line = 4usize << (log_words & 0xf);
        (from & !(line - 1)..to).step_by(line)
    };
    if control >> 28 & 1 == 0 {
        for line in lines(control >> 16) {
            // SAFETY: cleans a line of mapped, readable memory. Its contents stay as they are.
            unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack, preserves_flags)) };
        }
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
    if control >> 29 & 1 == 0 {
        for line in lines(control) {
            // SAFETY: invalidates a line of the instruction cache, which is filled again from
            // memory.
            unsafe { asm!("ic ivau, {}", in(reg) line, options(nostack, preserves_flags)) };
        }
    }
    // SAFETY: barriers.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
    Ok(())
}

pub(crate) fn sync_cores() -> Result<(), Error> {
    membarrier::sync_cores()
}
