//! What an arena holds.

use jit::Unfilled as Reason;

use crate::arena::Arena;
use crate::failure::status;
use crate::handle::{out, shared};
use crate::status::Status;

/// Why holes in pages with live code are not filled.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfilled {
    /// They are.
    Filled = 0,
    /// This system has no such call.
    NoSuchCall = 1,
    /// `/proc/self/mem` could not be opened.
    NotOpened = 2,
    /// A write to an executable page is refused.
    NotWritten = 3,
    /// What was written is not what runs: an emulator, as a rule.
    OtherMemory = 4,
    /// A reason that this version has no number for.
    Other = 99,
}

/// Figures of an arena at one moment; bytes unless said otherwise. When no other thread is at work,
/// `live_bytes + padding_bytes + pending_bytes + batch_bytes + free_bytes == capacity`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// Address space for code.
    capacity: usize,
    /// Published blocks that were not freed.
    live_blocks: usize,
    /// Their code.
    live_bytes: usize,
    /// What rounding to 16 bytes adds to it.
    padding_bytes: usize,
    /// Freed blocks whose space waits for a guard.
    pending_blocks: usize,
    /// The space they take.
    pending_bytes: usize,
    /// Space taken by batches that are open now, and by pages that wait to be made executable
    /// again.
    batch_bytes: usize,
    /// Space that can be placed in.
    free_bytes: usize,
    /// The largest piece of it.
    largest_hole: usize,
    /// Memory of pages that code was placed in since they were last trimmed.
    resident_bytes: usize,
    /// Address space for data beside the code.
    data_capacity: usize,
    /// What of it is in use, with what waits for a guard.
    data_bytes: usize,
    /// Blocks of data that were not freed.
    data_blocks: usize,
    /// Space of freed blocks of data that waits for a guard.
    pending_data_bytes: usize,
    /// Memory of pages that data was placed in since they were last trimmed.
    data_resident_bytes: usize,
    /// Whether holes in pages with live code are filled, and if not, why.
    unfilled: Unfilled,
    /// Protection changes of runs of pages, as calls.
    flips: u64,
    /// Writes through the kernel to executable pages, as calls.
    kernel_writes: u64,
    /// Returns of memory to the system, as calls.
    decommits: u64,
    /// Code passed to the instruction-cache flush.
    flushed_bytes: u64,
    /// Barriers on other cores, as calls.
    barriers: u64,
}

/// What the arena holds now, and what it has asked of the system.
///
/// # Safety
/// - The arena is NULL, which is an error, or a live handle.
/// - A `gaia_jit_stats` can be written to `stats`, or it is NULL, which is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gaia_jit_arena_stats(arena: *const Arena, stats: *mut Stats) -> Status {
    status(|| {
        // SAFETY: passed on to the caller.
        let arena = unsafe { shared(arena, "arena")? };
        // SAFETY: passed on to the caller.
        let stats = unsafe { out(stats, "stats")? };
        let now = arena.0.stats();
        let unfilled = match now.unfilled {
            None => Unfilled::Filled,
            Some(Reason::NoSuchCall) => Unfilled::NoSuchCall,
            Some(Reason::NotOpened) => Unfilled::NotOpened,
            Some(Reason::NotWritten) => Unfilled::NotWritten,
            Some(Reason::OtherMemory) => Unfilled::OtherMemory,
            Some(_) => Unfilled::Other,
        };
        stats.write(Stats {
            capacity: now.capacity,
            live_blocks: now.live_blocks,
            live_bytes: now.live_bytes,
            padding_bytes: now.padding_bytes,
            pending_blocks: now.pending_blocks,
            pending_bytes: now.pending_bytes,
            batch_bytes: now.batch_bytes,
            free_bytes: now.free_bytes,
            largest_hole: now.largest_hole,
            resident_bytes: now.resident_bytes,
            data_capacity: now.data_capacity,
            data_bytes: now.data_bytes,
            data_blocks: now.data_blocks,
            pending_data_bytes: now.pending_data_bytes,
            data_resident_bytes: now.data_resident_bytes,
            unfilled,
            flips: now.flips,
            kernel_writes: now.kernel_writes,
            decommits: now.decommits,
            flushed_bytes: now.flushed_bytes,
            barriers: now.barriers,
        });
        Ok(())
    })
}
