//! What an arena holds, and what it has asked of the system.
#![forbid(unsafe_code)]

use std::fmt;

use crate::arena::core::Core;
use crate::arena::heaps::{All, Counts};
use crate::modes::Unfilled;
use crate::units::GRANULE;

/// Figures of an arena at one moment; bytes unless said otherwise. `{}` prints the most important
/// ones in a line, `{:#}` all of them as a short table.
///
/// `live_bytes + padding_bytes + pending_bytes + batch_bytes + free_bytes == capacity`, exactly,
/// when no other thread is at work; else what is on its way is counted to `batch_bytes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct Stats {
    /// Address space for code.
    pub capacity: usize,
    /// Published blocks that were not dropped.
    pub live_blocks: usize,
    /// Their code.
    pub live_bytes: usize,
    /// What rounding to granules adds to it.
    pub padding_bytes: usize,
    /// Dropped blocks whose space waits for a guard.
    pub pending_blocks: usize,
    /// The space they take.
    pub pending_bytes: usize,
    /// Space taken by batches that are open now, and by pages that wait to be made executable
    /// again.
    pub batch_bytes: usize,
    /// Space that can be placed in.
    pub free_bytes: usize,
    /// The largest piece of it.
    pub largest_hole: usize,
    /// Memory of pages that code was placed in since they were last trimmed; without what huge
    /// pages bring with them.
    pub resident_bytes: usize,
    /// Address space for data beside the code.
    pub data_capacity: usize,
    /// What of it is in use, with what waits for a guard.
    pub data_bytes: usize,
    /// Blocks of data that were not dropped ([`DataBlock`](crate::DataBlock)).
    pub data_blocks: usize,
    /// Space of dropped blocks of data that waits for a guard.
    pub pending_data_bytes: usize,
    /// Memory of pages that data was placed in since they were last trimmed.
    pub data_resident_bytes: usize,
    /// Whether holes in pages with live code are filled: in `Flip` where the system allows the
    /// kernel write, in all other modes always.
    pub fills_holes: bool,
    /// Why they are not.
    pub unfilled: Option<Unfilled>,
    /// Protection changes of runs of pages, as calls.
    pub flips: u64,
    /// Writes through the kernel to executable pages, as calls.
    pub kernel_writes: u64,
    /// Returns of memory to the system, as calls.
    pub decommits: u64,
    /// Code passed to the instruction-cache flush.
    pub flushed_bytes: u64,
    /// Barriers on other cores, as calls.
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
        // Memory that others mapped may be part of a page at its ends.
        stats.resident_bytes = (resident * self.memory.page_size()).min(stats.capacity);
        stats
    }

    /// Locks all heaps with everything reclaimed; `None` where a lock may be held for ever: in a
    /// child forked while another thread held it.
    pub(in crate::arena) fn all_to_read(&self) -> Option<All<'_>> {
        if !self.memory.is_own() {
            return self.heaps.try_all();
        }
        self.reclaim_all().ok()?;
        Some(self.heaps.all())
    }
}

/// Bytes in a unit that keeps them short.
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
