//! From any address inside a block to the block, wait-free, also in a signal handler.
//!
//! # Structure
//!
//! The region is cut into bins of 128 granules (2 KiB). The blocks that begin in a bin stand in *groups* of seven. A
//! group fills two cache lines: a head, one word with a byte for each block (where in the bin it begins, and that it is
//! live), and a record for each with length and tag. The first group of each bin lies in one table indexed by bin, the
//! second in another, and so on; a table is made when it is first needed, and the system hands out its pages as they
//! are touched. One summary bitmap over the bins finds the last bin before an address where a block begins.
//!
//! # Why it is right
//!
//! A head is one atomic word, so loading it gives all blocks of the group that were live at one moment. Live blocks do
//! not overlap; so if a block is live for the whole lookup and covers the address, no other head byte can point between
//! its start and the address, and it is found. A record can be reused after its head was read; its state word carries a
//! generation and the start within the bin, and is read again after the tag. If it changed, the block was retired during
//! the lookup, and there was a moment when no block covered the address: `None` is a right answer. Nothing is retried
//! and nothing is locked; the steps are bounded by the number of groups in a bin and of words in the bitmap.
//!
//! Bits of the bitmap change under the arena's lock, as space is taken and given back: a bin's bit is set when space is
//! placed at its beginning there, and cleared when all of the bin is free again. So it is clear for every bin that a
//! large block covers beyond its first. It may stay set where only the tail of a block lies; then the search goes on.
//! Groups are written to without the lock: a slot is claimed, its record filled, its byte set.
//!
//! A block is entered when it has its space, a moment before its bytes are there: nobody has its address yet.
//!
//! # Which order of memory accesses it takes
//!
//! The head orders nothing for readers: one may see a key before the record behind it. A writer first changes the state
//! to one without a length, then comes a release fence, then the tag, the state with its length, and the key. A reader
//! looks at the key, the state and the tag, then comes an acquire fence, then the state again. If it saw the key, or the
//! tag, of some generation, the two fences pair up ([atomics.fences] in the C++ standard, which Rust takes over), and its
//! second look at the state sees that generation or a later one. If the first look saw the same, the tag is no older,
//! by the state's own release and acquire; and no newer, or the second look would have seen that generation. So what was
//! retired before the lookup, or stands in parts, is never found. A block that was entered before the lookup, seen from
//! this thread, is there in full. One whose key is seen and whose length is not is being entered, and is not found.
//!
//! What the head does order is writers: a record has one at a time. Freeing a slot releases it and claiming acquires it;
//! whatever else happens to the head in between is a read-modify-write, which does not break that chain (C++,
//! "release sequence").

use std::ptr::NonNull;

use crate::Error;
use crate::space::Run;
use crate::space::bitmap::Bitmap;
use crate::sync::Ordering;
use crate::sync::checked::{AtomicU64, OnceLock, fence};
use crate::table::{Table, Zeroed};
use crate::units::GRANULE;

/// What is known of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockInfo {
    /// Its first byte.
    pub start: *const u8,
    /// Its bytes of code.
    pub len: usize,
    /// What [`Code::tag`](crate::Code::tag) said.
    pub tag: u64,
}

// SAFETY: an address and numbers; to follow the pointer takes `unsafe` code of its own.
unsafe impl Send for BlockInfo {}
// SAFETY: as for `Send`.
unsafe impl Sync for BlockInfo {}

/// Granules in a bin: as many as seven bits can tell apart.
const BIN: u32 = 128;
/// Blocks in a group.
const SLOTS: usize = 7;
/// Groups that a bin of 16-byte blocks fills.
const GROUPS: usize = (BIN as usize).div_ceil(SLOTS);

/// In the last byte of a head: this bin has a further group.
const MORE: u64 = 1 << 63;
/// In the last byte of a head: slot `slot` belongs to a block that is live, or about to be.
const fn claimed(slot: usize) -> u64 {
    1 << (CLAIMS + slot)
}
/// Where the claims begin.
const CLAIMS: usize = 56;
/// In byte `i` of a head: a live block begins at this granule of the bin.
const fn key(start: u32, slot: usize) -> u64 {
    (0x80 | (start % BIN) as u64) << (8 * slot)
}
const KEY_MASK: u64 = 0xff;

#[derive(Default)]
#[repr(C, align(128))]
struct Group {
    head: AtomicU64,
    _spare: AtomicU64,
    records: [Record; SLOTS],
}

#[derive(Default)]
#[repr(C)]
struct Record {
    /// Generation (25 bits), start within the bin (7 bits), length in bytes (32 bits; 0 while it changes, and no address
    /// is within that).
    state: AtomicU64,
    tag: AtomicU64,
    /// A record has one writer at a time, each after the last: else an older tag could come out on top of a newer one.
    #[cfg(loom)]
    writer: crate::sync::checked::Exclusive,
}

// SAFETY: atomic integers through and through.
unsafe impl Zeroed for Group {}

const LEN_BITS: u32 = 32;
const START_BITS: u32 = 7;

fn state(generation: u64, start: u32, len: u32) -> u64 {
    generation << (LEN_BITS + START_BITS) | u64::from(start % BIN) << LEN_BITS | u64::from(len)
}

/// The largest key in a head that is at most that of granule `at`, and its slot; 0 if there is none. All seven bytes at
/// once and without a branch, as nothing about them can be predicted.
fn last_key(head: u64, at: u32) -> (u8, usize) {
    const EACH: u64 = 0x0001_0101_0101_0101;
    let live = head & (0x80 * EACH);
    let starts = head & (0x7f * EACH);
    // Bit 7 of each byte: whether it begins at or before `at`. Nothing is borrowed from the next byte.
    let before = u64::from(0x80 | at) * EACH - starts;
    let counts = ((live & before) >> 7) * 0xff;
    let keys = head & counts;
    let last = keys.to_le_bytes().into_iter().fold(0, u8::max);
    // The byte that is `last`: the lowest that is zero after the comparison.
    let same = keys ^ (u64::from(last) * EACH);
    let zero = same.wrapping_sub(EACH) & !same & (0x80 * EACH);
    (last, zero.trailing_zeros() as usize / 8)
}

/// Where a block is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    group: u8,
    slot: u8,
}

/// A block as it was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) start: u32,
    pub(crate) len: u32,
    pub(crate) tag: u64,
    pub(crate) slot: Slot,
}

impl Entry {
    /// A block that is not entered yet.
    pub(crate) fn new(start: u32, len: u32, tag: u64) -> Self {
        Self { start, len, tag, slot: Slot::default() }
    }

    /// The granules of the block.
    pub(crate) fn run(self) -> Run {
        Run::new(self.start, self.len.div_ceil(GRANULE as u32))
    }
}

pub(crate) struct Lookup {
    occupied: Bitmap,
    groups: [OnceLock<Table<Group>>; GROUPS],
    bins: usize,
}

impl Lookup {
    pub(crate) fn new(granules: u32) -> Result<Self, Error> {
        let bins = granules.div_ceil(BIN) as usize;
        Ok(Self { occupied: Bitmap::new(bins)?, groups: std::array::from_fn(|_| OnceLock::new()), bins })
    }

    /// Makes the first table, and returns its whole pages: where code is packed it is used from end to end, so it may
    /// well lie in huge pages.
    pub(crate) fn first_table(&self, page: usize) -> Result<Option<(NonNull<u8>, usize)>, Error> {
        let table = Table::new(self.bins)?;
        let pages = table.pages(page);
        let _ = self.groups[0].set(table);
        Ok(pages)
    }

    fn group(&self, index: usize, bin: u32) -> Option<&Group> {
        self.groups.get(index)?.get()?.get(bin as usize)
    }

    /// Space was taken at `run`. Under the arena's lock.
    pub(crate) fn occupy(&self, run: Run) {
        let bin = (run.start / BIN) as usize;
        self.occupied.set(bin, bin + 1);
    }

    /// Space was taken at `run`, to hold blocks anywhere. Under the arena's lock.
    pub(crate) fn occupy_all(&self, run: Run) {
        self.occupied.set((run.start / BIN) as usize, run.end.div_ceil(BIN) as usize);
    }

    /// Space was given back at `run` and is part of `hole` now. Under the arena's lock.
    pub(crate) fn vacate(&self, run: Run, hole: Run) {
        let first = (run.start / BIN).max(hole.start.div_ceil(BIN));
        let end = run.end.div_ceil(BIN).min(hole.end / BIN);
        self.occupied.clear(first as usize, end as usize);
    }

    /// Makes a block findable.
    pub(crate) fn enter(&self, start: u32, len: u32, tag: u64) -> Result<Entry, Error> {
        let mut block = [Entry::new(start, len, tag)];
        self.enter_all(&mut block)?;
        let [entry] = block;
        Ok(entry)
    }

    /// Makes blocks findable and notes where they stand: all of them, or none. Those that follow each other in a bin are
    /// entered together, with two locked instructions for all.
    pub(crate) fn enter_all(&self, blocks: &mut [Entry]) -> Result<(), Error> {
        let mut done = 0;
        while let Some(first) = blocks.get(done) {
            let bin = first.start / BIN;
            let count = blocks[done..].iter().take_while(|block| block.start / BIN == bin).count();
            match self.enter_some(bin, &mut blocks[done..done + count]) {
                Ok(entered) => done += entered,
                Err(error) => {
                    blocks[..done].iter().for_each(|block| self.remove(*block));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Enters the first of these blocks of a bin, as many as find room together: one at the least.
    fn enter_some(&self, bin: u32, blocks: &mut [Entry]) -> Result<usize, Error> {
        loop {
            for (index, table) in self.groups.iter().enumerate() {
                if table.get().is_none() {
                    // Two threads may both make one; the second is dropped untouched.
                    let _ = table.set(Table::new(self.bins)?);
                }
                let entered = self.group(index, bin).map_or(0, |group| group.enter(index as u8, blocks));
                if entered > 0 {
                    return Ok(entered);
                }
            }
            // There are more slots than granules in a bin, so one is free: it came free behind the search.
        }
    }

    /// Makes a block unfindable and its slot free.
    pub(crate) fn remove(&self, entry: Entry) {
        if let Some(group) = self.group(entry.slot.group.into(), entry.start / BIN) {
            let slot = usize::from(entry.slot.slot);
            // Release: the record is the next one's.
            group.head.fetch_and(!(KEY_MASK << (8 * slot) | claimed(slot)), Ordering::Release);
        }
    }

    /// The live block that holds the byte at `offset`.
    pub(crate) fn find(&self, offset: usize) -> Option<Entry> {
        let granule = (offset / GRANULE) as u32;
        let (mut bin, mut at) = (granule / BIN, granule % BIN);
        loop {
            if let Some(candidate) = self.last_start(bin, at) {
                let entry = candidate?;
                let begin = entry.start as usize * GRANULE;
                return (offset - begin < entry.len as usize).then_some(entry);
            }
            bin = self.occupied.prev_set(bin as usize)? as u32;
            at = BIN - 1;
        }
    }

    /// The block that begins last in `bin`, at or before granule `at` of it; `Some(None)` if it was retired meanwhile.
    fn last_start(&self, bin: u32, at: u32) -> Option<Option<Entry>> {
        let (mut best, mut place) = (0, (0, 0));
        for index in 0..GROUPS {
            let Some(group) = self.group(index, bin) else { break };
            let head = group.head.load(Ordering::Relaxed);
            let (key, slot) = last_key(head, at);
            if key > best {
                (best, place) = (key, (index, slot));
            }
            if head & MORE == 0 {
                break;
            }
        }
        let start = best.checked_sub(0x80)?;
        Some(self.read(bin, u32::from(start), place.0, place.1))
    }

    fn read(&self, bin: u32, start: u32, index: usize, slot: usize) -> Option<Entry> {
        let record = self.group(index, bin)?.records.get(slot)?;
        let before = record.state.load(Ordering::Acquire);
        let tag = record.tag.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let after = record.state.load(Ordering::Relaxed);
        let len = before as u32;
        if before != after || (before >> LEN_BITS) as u32 % BIN != start {
            return None;
        }
        Some(Entry { start: bin * BIN + start, len, tag, slot: Slot { group: index as u8, slot: slot as u8 } })
    }
}

impl Group {
    /// Enters the first of these blocks, as many as there are slots for; `index` is this group's own.
    fn enter(&self, index: u8, blocks: &mut [Entry]) -> usize {
        let mut slots = self.claim(blocks.len());
        let count = slots.count_ones() as usize;
        let mut keys = 0;
        for block in &mut blocks[..count] {
            let slot = slots.trailing_zeros() as usize;
            slots &= slots - 1;
            if let Some(record) = self.records.get(slot) {
                record.fill(block);
            }
            keys |= key(block.start, slot);
            block.slot = Slot { group: index, slot: slot as u8 };
        }
        if count > 0 {
            self.head.fetch_or(keys, Ordering::Relaxed);
        }
        count
    }

    /// Claims up to `count` slots; a bit for each. If all are taken, notes that there is a further group.
    fn claim(&self, count: usize) -> u64 {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            let (mut free, mut mine) = (!(head >> CLAIMS) & ((1 << SLOTS) - 1), 0);
            for _ in 0..count.min(SLOTS) {
                let lowest = free & free.wrapping_neg();
                mine |= lowest;
                free ^= lowest;
            }
            let new = head | if mine == 0 { MORE } else { mine << CLAIMS };
            if new == head {
                return 0;
            }
            // Acquire: the records were those of others.
            match self.head.compare_exchange_weak(head, new, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return mine,
                Err(now) => head = now,
            }
        }
    }
}

impl Record {
    fn fill(&self, block: &Entry) {
        #[cfg(loom)]
        self.writer.check();
        let generation = (self.state.load(Ordering::Relaxed) >> (LEN_BITS + START_BITS)) + 1;
        // A reader that sees the new tag sees, behind its own fence, at least this state, and gives up.
        self.state.store(state(generation, block.start, 0), Ordering::Relaxed);
        fence(Ordering::Release);
        self.tag.store(block.tag, Ordering::Relaxed);
        self.state.store(state(generation, block.start, block.len), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_key_is_found_whatever_the_order() {
        let mut rng = fastrand::Rng::with_seed(4);
        for _ in 0..20_000 {
            let mut head = rng.u64(..) & (0xff << 56);
            let mut keys = Vec::new();
            for slot in 0..SLOTS {
                let start = rng.u32(..BIN);
                if rng.bool() && keys.iter().all(|&(other, _)| other != start) {
                    head |= key(start, slot);
                    keys.push((start, slot));
                }
            }
            for at in [0, 1, rng.u32(..BIN), 126, 127] {
                let expected = keys.iter().filter(|(start, _)| *start <= at).max();
                match expected {
                    Some(&(start, slot)) => assert_eq!(last_key(head, at), (0x80 | start as u8, slot)),
                    None => assert_eq!(last_key(head, at).0, 0),
                }
            }
        }
    }
}
