//! What all handles, blocks and batches of an arena share.
//!
//! # What one publication costs
//!
//! One lock of a heap nobody else uses, to place a block and to enter it in the lookup; the same
//! once more to drop it. In `DualMap` publishing makes no system call; in `Flip` it makes one (the
//! kernel write) for a single function, and two (open, seal) for each run of pages of a batch.

use super::data::DataArea;
use super::events::kept::Kept;
use super::events::observers::Observers;
use super::guards::Guards;
use super::heaps::{Heaps, State};
use super::lookup::{BlockInfo, Entry, Lookup};
use crate::Error;
use crate::modes::{CodeMemory, WxMode};
use crate::space::Run;
use crate::sync::checked::{AtomicU64, Mutex};
use crate::sys::Span;
use crate::units::{self, GRANULE};

pub(crate) struct Core {
    pub(crate) memory: CodeMemory,
    pub(crate) lookup: Lookup,
    pub(crate) guards: Guards,
    pub(super) observers: Observers,
    /// What was said of live functions, if that is kept.
    pub(super) kept: Option<Kept>,
    pub(super) heaps: Heaps,
    pub(super) data: DataArea,
    /// Freed code is overwritten with traps before its space is used again.
    pub(super) poison: bool,
    /// The most free pages in whole spans that may hold memory; more where the system refused to
    /// take some back.
    pub(super) keep_free: AtomicU64,
    /// As the builder said.
    pub(super) least_kept: u64,
    /// Bytes of the last two batches, 32 bits each: what the next one may come to.
    pub(super) recent: AtomicU64,
    /// Held while free granules are marked as taken because the system or an observer is called
    /// about them, and taken before any heap is locked.
    pub(super) system: Mutex<()>,
    /// How many granules that concerns. Changes while `system` is held; grows while a heap that
    /// owns them, or the pool, is locked too.
    pub(super) in_flight: AtomicU64,
    /// Blocks that are left, once no handle is.
    pub(super) left: AtomicU64,
    /// Modes that were asked for before this one.
    pub(super) refused: Vec<(WxMode, Error)>,
}

/// Byte offsets of a run.
pub(crate) fn bytes_of(run: Run) -> std::ops::Range<usize> {
    run.start as usize * GRANULE..run.end as usize * GRANULE
}

impl Core {
    pub(crate) fn new(memory: CodeMemory, poison: bool, keep_free: usize, observers: Observers) -> Result<Self, Error> {
        let granules = (memory.first() / GRANULE) as u32..(memory.len() / GRANULE) as u32;
        let lookup = Lookup::new(granules.end)?;
        // Smaller tables would take more memory for it than they have use for.
        if let Some((start, len)) = lookup.table(memory.page_size()).filter(|(_, len)| *len > 4 * units::MAX_ALIGN) {
            memory.advise_table(Span { start, len });
        }
        Ok(Self {
            heaps: Heaps::new(granules, (memory.page_size() / GRANULE) as u32)?,
            lookup,
            data: DataArea::new(),
            guards: Guards::new(),
            observers,
            kept: None,
            poison,
            keep_free: AtomicU64::new((keep_free / memory.page_size()) as u64),
            least_kept: (keep_free / memory.page_size()) as u64,
            recent: AtomicU64::new(0),
            system: Mutex::new(()),
            in_flight: AtomicU64::new(0),
            left: AtomicU64::new(0),
            refused: Vec::new(),
            memory,
        })
    }

    /// Checks a size against what the arena could hold empty.
    pub(crate) fn granules(&self, bytes: usize) -> Result<u32, Error> {
        units::granules(bytes, self.memory.capacity().min(u32::MAX as usize))
    }

    /// Checks an alignment; returns it in granules.
    pub(crate) fn align(&self, bytes: usize) -> Result<u32, Error> {
        units::align_granules(bytes, self.memory.alignment())
    }

    /// Whether a direct branch reaches from all of the code to `address`, and back.
    pub(crate) fn reaches(&self, address: *const u8) -> bool {
        // Its own code is in reach, whatever its size.
        self.memory.offset_of(address).is_some()
            || [self.memory.first(), self.memory.len()]
                .into_iter()
                .all(|offset| units::branch_reaches(self.memory.address(offset).addr(), address.addr()))
    }

    /// Granules in a page of the system.
    pub(super) fn page(&self) -> u32 {
        self.heaps.granules().page()
    }

    /// Makes taken granules free, in a heap that owns their spans.
    #[inline]
    pub(super) fn free(&self, heap: &mut State, run: Run) {
        let spans = heap.space.free(&self.heaps.tables, run);
        if !spans.is_empty() {
            self.heaps.put(spans);
        }
    }

    /// Gives back space that never held a published block.
    pub(crate) fn release(&self, runs: impl IntoIterator<Item = Run>) {
        for run in runs {
            self.free(&mut self.heaps.of(run.start), run);
        }
    }

    /// Notes that pages hold memory that no block was published in.
    pub(super) fn note_resident(&self, run: Run) {
        self.heaps.of(run.start).space.touch(&self.heaps.tables, run);
    }

    /// Keeps pages that are open and cannot be sealed out of the free space until they can.
    pub(crate) fn keep_stuck(&self, run: Run) {
        let mut heap = self.heaps.of(run.start);
        if self.memory.bars() {
            // What they hold may be zeros by now, so they are to be barred, and not to be made
            // executable.
            heap.space.gone(&self.heaps.tables, run);
        }
        heap.stuck.push(run);
    }

    pub(crate) fn info(&self, entry: Entry) -> BlockInfo {
        BlockInfo {
            start: self.memory.address(entry.start as usize * GRANULE),
            len: entry.len as usize,
            tag: entry.tag,
        }
    }
}
