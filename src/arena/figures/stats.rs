//! Numbers: the use of an arena, and its calls of the system.
//!
//! [`Stats`] is made with all heaps locked and everything reclaimed, so its figures belong to one
//! moment:
//!
//! ```text
//! capacity = live_bytes + padding_bytes + pending_bytes + batch_bytes + free_bytes
//! ```
//!
//! Only `batch_bytes` is not counted. It is the rest, so it includes granules that are in flight.
#![forbid(unsafe_code)]

use std::fmt;

use crate::arena::core::Core;
use crate::arena::heaps::{All, Counts};
use crate::modes::Unfilled;
use crate::units::GRANULE;

/// Figures of an arena at one moment, in bytes unless said otherwise. `{}` prints the most
/// important ones as a line, `{:#}` prints more of them as a short table.
///
/// `live_bytes + padding_bytes + pending_bytes + batch_bytes + free_bytes == capacity` holds
/// exactly if no other thread uses the arena. Otherwise space in flight counts to `batch_bytes`.
///
/// ```
/// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
/// let block = arena.publish(&[0xc3; 20])?;
/// let stats = arena.stats();
/// assert_eq!((stats.live_blocks, stats.live_bytes, stats.padding_bytes), (1, 20, 12));
/// println!("{stats}"); // 1 blocks, 20 B live of ...
/// # Ok::<(), gaia_jit::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct Stats {
    /// The address space for code.
    pub capacity: usize,
    /// The number of published blocks that were not dropped.
    pub live_blocks: usize,
    /// The code of these blocks.
    pub live_bytes: usize,
    /// The space that rounding to granules adds to the code.
    pub padding_bytes: usize,
    /// The number of dropped blocks that wait for a guard.
    pub pending_blocks: usize,
    /// The space of these blocks.
    pub pending_bytes: usize,
    /// The space of batches that are open now, and of pages that wait to be made executable again.
    pub batch_bytes: usize,
    /// The space that is free.
    pub free_bytes: usize,
    /// The largest hole of the free space.
    pub largest_hole: usize,
    /// The memory of pages that code was placed in since they were last trimmed. Memory that huge
    /// pages add is not counted.
    pub resident_bytes: usize,
    /// The address space for data beside the code.
    pub data_capacity: usize,
    /// The part of it that is in use or waits for a guard.
    pub data_bytes: usize,
    /// The number of blocks of data that were not dropped ([`DataBlock`](crate::DataBlock)).
    pub data_blocks: usize,
    /// The space of dropped blocks of data that waits for a guard.
    pub pending_data_bytes: usize,
    /// The memory of pages that data was placed in since they were last trimmed.
    pub data_resident_bytes: usize,
    /// Whether holes in pages with live code are filled. In `Flip` this needs the kernel write. In
    /// all other modes it is always so.
    pub fills_holes: bool,
    /// The reason why holes are not filled.
    pub unfilled: Option<Unfilled>,
    /// The number of calls to change the protection of a run of pages, including calls that the
    /// system refused.
    pub flips: u64,
    /// The number of writes to pages that are not writable, through `/proc/self/mem`: to code in
    /// `Flip`, and to read-only data in every mode. Those of `FileWrite` to its file are not
    /// counted.
    pub kernel_writes: u64,
    /// The number of calls that returned memory to the system, those of the build included.
    pub decommits: u64,
    /// The bytes of code that the instruction-cache flush was called for.
    pub flushed_bytes: u64,
    /// The number of barriers on other cores.
    pub barriers: u64,
}

impl Core {
    pub(crate) fn stats(&self) -> Stats {
        let counters = &self.memory.counters;
        let mut stats = Stats {
            capacity: self.memory.capacity(),
            data_capacity: self.memory.data_len(),
            fills_holes: self.memory.fills_holes(),
            unfilled: self.memory.unfilled(),
            flips: counters.flips.get(),
            kernel_writes: counters.kernel_writes.get(),
            decommits: counters.decommits.get(),
            barriers: counters.barriers.get(),
            ..Stats::default()
        };
        if let Some(data) = self.data_figures() {
            stats.data_bytes = data.taken * GRANULE;
            stats.data_blocks = data.blocks;
            stats.pending_data_bytes = data.waiting * GRANULE;
            stats.data_resident_bytes = data.resident * self.memory.page_size();
        }
        let Some(mut all) = self.all_to_read() else { return stats };
        let (mut live, mut waiting) = (Counts::default(), Counts::default());
        let mut resident = all.pool.resident_pages() as usize;
        for heap in &all.heaps {
            live.merge(heap.live);
            waiting.merge(heap.waiting);
            resident += heap.space.resident_pages() as usize;
        }
        stats.live_blocks = live.blocks();
        stats.live_bytes = live.bytes();
        stats.padding_bytes = (live.granules() * GRANULE).saturating_sub(stats.live_bytes);
        stats.pending_blocks = waiting.blocks();
        stats.pending_bytes = waiting.granules() * GRANULE;
        stats.free_bytes = all.free_granules() as usize * GRANULE;
        let known = stats.live_bytes + stats.padding_bytes + stats.pending_bytes + stats.free_bytes;
        stats.batch_bytes = stats.capacity.saturating_sub(known);
        stats.flushed_bytes = live.flushed() + counters.flushed.get();
        stats.largest_hole = self.largest_hole(&mut all) as usize * GRANULE;
        // Memory that others mapped may begin or end in the middle of a page.
        stats.resident_bytes = (resident * self.memory.page_size()).min(stats.capacity);
        stats
    }

    /// Reclaims everything and locks all heaps. Returns `None` if a lock may be held for ever: in a
    /// child that was forked while another thread held it.
    pub(in crate::arena) fn all_to_read(&self) -> Option<All<'_>> {
        if !self.memory.is_own() {
            return self.heaps.try_all();
        }
        self.reclaim_all().ok()?;
        Some(self.heaps.all())
    }
}

/// Bytes, printed in a unit that keeps the number short.
struct Bytes(usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n < 10 << 10 => write!(f, "{n} B"),
            n if n < 10 << 20 => write!(f, "{:.1} KiB", n as f64 / 1024.0),
            n => write!(f, "{:.1} MiB", n as f64 / (1 << 20) as f64),
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { live_blocks, pending_blocks, flips, kernel_writes, decommits, barriers, .. } = self;
        if !f.alternate() {
            return write!(
                f,
                "{live_blocks} blocks, {} live of {} resident, {} free, largest hole {}, {} pending",
                Bytes(self.live_bytes),
                Bytes(self.resident_bytes),
                Bytes(self.free_bytes),
                Bytes(self.largest_hole),
                Bytes(self.pending_bytes)
            );
        }
        let holes = match self.unfilled {
            None => "are filled",
            Some(Unfilled::NoSuchCall) => "wait for an empty page (this system has no kernel write)",
            Some(Unfilled::NotOpened) => "wait for an empty page (/proc/self/mem cannot be opened)",
            Some(Unfilled::NotWritten) => "wait for an empty page (the kernel write is refused)",
            Some(Unfilled::OtherMemory) => "wait for an empty page (the kernel write goes elsewhere)",
        };
        writeln!(f, "capacity   {}; holes {holes}", Bytes(self.capacity))?;
        writeln!(
            f,
            "live       {live_blocks} blocks, {} + {} padding",
            Bytes(self.live_bytes),
            Bytes(self.padding_bytes)
        )?;
        writeln!(f, "pending    {pending_blocks} blocks, {}", Bytes(self.pending_bytes))?;
        writeln!(f, "in batches {}", Bytes(self.batch_bytes))?;
        if self.data_bytes > 0 {
            writeln!(f, "data       {} of {} resident", Bytes(self.data_bytes), Bytes(self.data_resident_bytes))?;
        }
        writeln!(f, "free       {}, largest hole {}", Bytes(self.free_bytes), Bytes(self.largest_hole))?;
        writeln!(f, "resident   {}", Bytes(self.resident_bytes))?;
        write!(
            f,
            "calls      {flips} flips, {kernel_writes} kernel writes, {decommits} decommits, {barriers} barriers; "
        )?;
        write!(f, "{} flushed", Bytes(usize::try_from(self.flushed_bytes).unwrap_or(usize::MAX)))
    }
}
