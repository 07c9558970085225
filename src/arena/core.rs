//! The state that all handles, blocks and batches of an arena share.
//!
//! # The cost of one publication
//!
//! Publishing locks one heap, which usually no other thread uses, to place a block and to enter it
//! in the lookup. Dropping locks it once more. In `DualMap` publishing makes no system call. In
//! `Flip` it makes one (the kernel write) for a single function, and two (open, seal) for each run
//! of pages of a batch.

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
    /// Notes on live functions, if they are kept.
    pub(super) kept: Option<Kept>,
    pub(super) heaps: Heaps,
    pub(super) data: DataArea,
    /// Whether freed code is overwritten with traps before its space is used again.
    pub(super) poison: bool,
    /// The largest number of free pages in whole spans that may hold memory. It is larger after the
    /// system refused to take some back.
    pub(super) keep_free: AtomicU64,
    /// The value of `keep_free` that the builder set.
    pub(super) least_kept: u64,
    /// The bytes of the last two batches, 32 bits each. They predict the size of the next one.
    pub(super) recent: AtomicU64,
    /// A lock that is held while free granules are marked as taken because the system or an
    /// observer is called about them. It is taken before any heap is locked.
    pub(super) system: Mutex<()>,
    /// The number of these granules. It changes while `system` is held. It grows only while a heap
    /// that owns them, or the pool, is locked too.
    pub(super) in_flight: AtomicU64,
    /// The number of blocks that are left, valid after the last handle was dropped.
    pub(super) left: AtomicU64,
    /// Modes that were asked for before this one and refused.
    pub(super) refused: Vec<(WxMode, Error)>,
}

/// Returns the byte offsets of a run.
pub(crate) fn bytes_of(run: Run) -> std::ops::Range<usize> {
    run.start as usize * GRANULE..run.end as usize * GRANULE
}

impl Core {
    pub(crate) fn new(memory: CodeMemory, poison: bool, keep_free: usize, observers: Observers) -> Result<Self, Error> {
        let granules = (memory.first() / GRANULE) as u32..(memory.len() / GRANULE) as u32;
        let lookup = Lookup::new(granules.end)?;
        // A smaller table would need more memory for huge pages than it can use.
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

    /// Checks a size against the capacity, and returns it in granules.
    pub(crate) fn granules(&self, bytes: usize) -> Result<u32, Error> {
        units::granules(bytes, self.memory.capacity().min(u32::MAX as usize))
    }

    /// Checks an alignment, and returns it in granules.
    pub(crate) fn align(&self, bytes: usize) -> Result<u32, Error> {
        units::align_granules(bytes, self.memory.alignment())
    }

    /// Returns whether a direct branch reaches from all of the code to `address`, and back.
    pub(crate) fn reaches(&self, address: *const u8) -> bool {
        // Its own code is in reach, whatever its size.
        self.memory.offset_of(address).is_some()
            || [self.memory.first(), self.memory.len()]
                .into_iter()
                .all(|offset| units::branch_reaches(self.memory.address(offset).addr(), address.addr()))
    }

    /// Returns the number of granules in a page of the system.
    pub(super) fn page(&self) -> u32 {
        self.heaps.granules().page()
    }

    /// Frees taken granules, in a heap that owns their spans.
    #[inline]
    pub(super) fn free(&self, heap: &mut State, run: Run) {
        let spans = heap.space.free(&self.heaps.tables, run);
        if !spans.is_empty() {
            self.heaps.put(spans);
        }
    }

    /// Frees space that never held a published block.
    pub(crate) fn release(&self, runs: impl IntoIterator<Item = Run>) {
        for run in runs {
            self.free(&mut self.heaps.of(run.start), run);
        }
    }

    /// Notes that pages hold memory although no block was published in them.
    pub(super) fn note_resident(&self, run: Run) {
        self.heaps.of(run.start).space.touch(&self.heaps.tables, run);
    }

    /// Keeps pages that are open and cannot be sealed out of the free space, until they can be
    /// sealed.
    pub(crate) fn keep_stuck(&self, run: Run) {
        let mut heap = self.heaps.of(run.start);
        if self.memory.bars() {
            // Their content may be zeros by now, so they have to be barred instead of being made
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
