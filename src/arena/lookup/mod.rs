//! The lookup: from any address inside a block to the block. It is wait-free, and works in a signal
//! handler.
//!
//! # Structure
//!
//! The region is divided into bins of 128 granules (2 KiB), 32 in a span. Each bin has a
//! [line](mod@line) of 64 bytes with the starts and lengths of the blocks that begin in it. Tags
//! lie in a separate table of the same order, because many runtimes use none. A block without a tag
//! neither reads nor writes there. Bins with more than seven blocks have [further
//! lines](mod@overflow).
//!
//! ```text
//! address --> span's word --> bin's line (7 blocks, their tags) --> further line (7 blocks, their tags) --> ...
//! ```
//!
//! One word for each span says in which of its bins blocks begin. It also says where a block begins
//! that reaches into the span from an earlier one:
//!
//! ```text
//! 63                       32 31             0
//! | start of that block + 1  | a bit a bin    |
//! ```
//!
//! A search looks at the bin of the address, then at the last bin before it that has a block, then
//! at the block that reaches in.
//!
//! # Who may write
//!
//! Everything that concerns a span is written under the lock of the heap that owns it, with plain
//! stores. The exception is the state of a live block. It belongs to the block's owner, who makes
//! the block unfindable by one store to it, before the heap is locked. The lock is a
//! read-modify-write between that store and the look at the guards. So (on x86) no other fence is
//! needed, and a thread that takes a guard and then finds the block can rely on it. A reader takes
//! no lock. It may be a signal handler that interrupted the writer between any two stores.
//!
//! `docs/design.md`, "Lookup", says why it is right.

mod line;
mod overflow;

use std::ptr::NonNull;
use std::sync::atomic::compiler_fence;

use line::{BIN, Line, MORE, Read, SLOTS, Tags};
use overflow::Overflow;

use crate::Error;
use crate::icache;
use crate::space::Run;
use crate::space::granules::{SPAN, span_of};
use crate::sync::Ordering;
use crate::sync::checked::{AtomicU32, AtomicU64};
use crate::table::{Table, Zeroed};
use crate::units::GRANULE;

/// The address, length and tag of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockInfo {
    /// The address of its first byte.
    pub start: *const u8,
    /// The bytes of its code.
    pub len: usize,
    /// The number that [`Code::tag`](crate::Code::tag) set.
    pub tag: u64,
}

// SAFETY: an address and numbers. Following the pointer takes `unsafe` code elsewhere.
unsafe impl Send for BlockInfo {}
// SAFETY: as for `Send`.
unsafe impl Sync for BlockInfo {}

// SAFETY: it consists of atomic integers only.
unsafe impl Zeroed for Line {}
// SAFETY: as above.
unsafe impl Zeroed for Tags {}

/// The bins of a span.
const BINS: u32 = SPAN / BIN;
/// The bit of a span's word at which the start of the block that reaches in begins.
const LEAD: u32 = 32;
/// The number of addresses that are looked up side by side.
const ABREAST: usize = 64;

/// A block as it is entered: its first granule, its bytes and its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) start: u32,
    pub(crate) len: u32,
    pub(crate) tag: u64,
}

impl Entry {
    pub(crate) fn new(start: u32, len: u32, tag: u64) -> Self {
        Self { start, len, tag }
    }

    /// Returns the granules of the block.
    pub(crate) fn run(self) -> Run {
        Run::new(self.start, self.len.div_ceil(GRANULE as u32))
    }
}

pub(crate) struct Lookup {
    spans: Table<AtomicU64>,
    /// The first line of each bin. The next two tables are by bin too.
    lines: Table<Line>,
    tags: Table<Tags>,
    /// The next line of a bin: its number in `overflow`, plus one.
    more: Table<AtomicU32>,
    overflow: Overflow,
}

/// The slot of a block that was retired.
pub(crate) struct Retired<'a> {
    line: &'a Line,
    slot: usize,
}

/// One line of a bin, with its tags and the number of the next line.
#[derive(Clone, Copy)]
struct Place<'a> {
    line: &'a Line,
    tags: &'a Tags,
    next: &'a AtomicU32,
}

impl Lookup {
    pub(crate) fn new(granules: u32) -> Result<Self, Error> {
        let bins = granules.div_ceil(BIN) as usize;
        Ok(Self {
            spans: Table::new(granules.div_ceil(SPAN) as usize)?,
            lines: Table::new(bins)?,
            tags: Table::new(bins)?,
            more: Table::new(bins)?,
            overflow: Overflow::new(),
        })
    }

    /// Returns the whole pages of the table of lines. Where code is packed, the table is used from
    /// end to end, so it may lie in huge pages.
    pub(crate) fn table(&self, page: usize) -> Option<(NonNull<u8>, usize)> {
        self.lines.pages(page)
    }

    /// Returns the first line of a bin.
    #[inline]
    fn first(&self, bin: u32) -> Option<Place<'_>> {
        let bin = bin as usize;
        Some(Place { line: self.lines.get(bin)?, tags: self.tags.get(bin)?, next: self.more.get(bin)? })
    }

    fn after(&self, place: Place<'_>) -> Option<Place<'_>> {
        self.overflow.follow(place.next).map(|more| Place { line: &more.line, tags: &more.tags, next: &more.next })
    }

    /// Makes blocks findable: all of them, or none. The caller holds the lock of the heap that owns
    /// their spans.
    #[inline]
    pub(crate) fn enter(&self, blocks: &[Entry]) -> Result<(), Error> {
        let mut done = 0;
        while let Some(first) = blocks.get(done) {
            let bin = first.start / BIN;
            let count = blocks[done..].iter().take_while(|block| block.start / BIN == bin).count();
            if let Err(error) = self.enter_in_bin(bin, &blocks[done..done + count]) {
                blocks[..done].iter().for_each(|block| self.take_out(block.run()));
                return Err(error);
            }
            done += count;
        }
        Ok(())
    }

    /// Makes one block findable. The caller holds the lock of the heap that owns its spans.
    #[inline]
    pub(crate) fn enter_one(&self, block: Entry) -> Result<(), Error> {
        let bin = block.start / BIN;
        match self.first(bin) {
            Some(first) if first.line.enter_one(first.tags, &block) => {
                self.note(bin);
                self.set_lead(block.run(), block.start + 1);
                Ok(())
            }
            _ => self.enter_in_bin(bin, &[block]),
        }
    }

    fn enter_in_bin(&self, bin: u32, blocks: &[Entry]) -> Result<(), Error> {
        let Some(mut place) = self.first(bin) else { return Ok(()) };
        let mut done = 0;
        loop {
            done += place.line.enter(place.tags, &blocks[done..]);
            if done == blocks.len() {
                break;
            }
            if let Some(next) = self.after(place) {
                place = next;
                continue;
            }
            if let Err(error) = self.overflow.add(place.next) {
                self.note(bin);
                blocks[..done].iter().for_each(|block| self.take_out(block.run()));
                return Err(error);
            }
            let head = place.line.head.load(Ordering::Relaxed);
            place.line.head.store(head | MORE, Ordering::Relaxed);
        }
        self.note(bin);
        blocks.iter().for_each(|block| self.set_lead(block.run(), block.start + 1));
        Ok(())
    }

    /// Notes that blocks begin in a bin.
    #[inline]
    fn note(&self, bin: u32) {
        if let Some(span) = self.spans.get((bin / BINS) as usize) {
            let (old, bit) = (span.load(Ordering::Relaxed), 1 << (bin % BINS));
            if old & bit == 0 {
                span.store(old | bit, Ordering::Relaxed);
            }
        }
    }

    /// Notes in each span of `run` after the first that the block reaches into it.
    #[inline]
    fn set_lead(&self, run: Run, lead: u32) {
        for index in span_of(run.start) + 1..=span_of(run.end - 1) {
            if let Some(span) = self.spans.get(index as usize) {
                let bins = span.load(Ordering::Relaxed) & ((1 << LEAD) - 1);
                span.store(bins | u64::from(lead) << LEAD, Ordering::Relaxed);
            }
        }
    }

    /// Makes a live block unfindable, without a lock. Only the block's owner may call it. The owner
    /// then has the slot [freed](Lookup::remove).
    #[inline]
    pub(crate) fn retire(&self, start: u32) -> Option<Retired<'_>> {
        let mut next = self.first(start / BIN);
        while let Some(place) = next {
            if let Some(slot) = line::slot_of(place.line.head.load(Ordering::Relaxed), start) {
                place.line.retire(slot);
                // The lock of the heap that comes next is an acquire, and the compiler could move
                // this store behind it.
                compiler_fence(Ordering::SeqCst);
                return Some(Retired { line: place.line, slot });
            }
            next = self.after(place);
        }
        None
    }

    /// Changes the length of a live block, by one store. Only the block's owner may call it.
    pub(crate) fn set_len(&self, start: u32, len: u32) {
        let mut next = self.first(start / BIN);
        while let Some(place) = next {
            if let Some(slot) = line::slot_of(place.line.head.load(Ordering::Relaxed), start) {
                place.line.set_len(slot, len);
                // The lock of the heap comes next, as in `retire`.
                compiler_fence(Ordering::SeqCst);
                return;
            }
            next = self.after(place);
        }
    }

    /// Frees the slot of a retired block. The caller holds the lock of the heap that owns its
    /// spans.
    #[inline]
    pub(crate) fn remove(&self, run: Run, retired: Option<Retired<'_>>) {
        let Some(Retired { line, slot }) = retired else { return };
        if line::is_empty(line.remove(slot)) {
            self.forget(run.start / BIN);
        }
        self.set_lead(run, 0);
    }

    /// Removes a block that nobody got. The caller holds the lock of the heap that owns its spans.
    pub(crate) fn take_out(&self, run: Run) {
        self.remove(run, self.retire(run.start));
    }

    /// Notes that no block begins in a bin any more, if that is so.
    #[cold]
    fn forget(&self, bin: u32) {
        let mut next = self.first(bin);
        while let Some(place) = next {
            if !line::is_empty(place.line.head.load(Ordering::Relaxed)) {
                return;
            }
            next = self.after(place);
        }
        if let Some(span) = self.spans.get((bin / BINS) as usize) {
            let bit = 1 << (bin % BINS);
            span.store(span.load(Ordering::Relaxed) & !bit, Ordering::Relaxed);
        }
    }

    /// Returns the live blocks that begin in a span, in the order of their addresses.
    pub(crate) fn of_span(&self, span: u32) -> Vec<Entry> {
        let mut found = Vec::new();
        let bins = self.spans.get(span as usize).map_or(0, |word| word.load(Ordering::Relaxed) as u32);
        for bin in (0..BINS).filter(|bin| bins >> bin & 1 == 1).map(|bin| span * BINS + bin) {
            let mut next = self.first(bin);
            while let Some(place) = next {
                for (start, slot) in line::starts(place.line.head.load(Ordering::Relaxed)) {
                    let read = place.line.read(place.tags, start, slot).filter(|read| read.len > 0);
                    found.extend(read.map(|Read { len, tag }| Entry { start: bin * BIN + start, len, tag }));
                }
                next = self.after(place);
            }
        }
        found.sort_unstable_by_key(|entry| entry.start);
        found
    }

    /// Returns the live block that contains the byte at `offset`.
    #[inline]
    pub(crate) fn find(&self, offset: usize) -> Option<Entry> {
        let granule = (offset / GRANULE) as u32;
        let bin = granule / BIN;
        let found = match self.last(bin, granule % BIN) {
            Some(found) => found?,
            None => self.find_before(bin)?,
        };
        let begin = found.start as usize * GRANULE;
        (offset - begin < found.len as usize).then_some(found)
    }

    /// Returns the last block that begins before a bin, if it may reach into the bin.
    fn find_before(&self, bin: u32) -> Option<Entry> {
        let (span, within) = (bin / BINS, bin % BINS);
        let word = self.spans.get(span as usize)?.load(Ordering::Relaxed);
        let mut bins = word as u32 & ((1 << within) - 1);
        while let Some(last) = bins.checked_ilog2() {
            if let Some(found) = self.last(span * BINS + last, BIN - 1) {
                return found;
            }
            bins ^= 1 << last;
        }
        self.at((word >> LEAD).checked_sub(1)? as u32)
    }

    /// Returns the block that begins at a granule.
    pub(crate) fn at(&self, start: u32) -> Option<Entry> {
        self.last(start / BIN, start % BIN)?.filter(|found| found.start == start)
    }

    /// Returns the last block of `bin` that begins at or before granule `at`. The answer is
    /// `Some(None)` if that block was retired meanwhile.
    #[inline]
    fn last(&self, bin: u32, at: u32) -> Option<Option<Entry>> {
        let place = self.first(bin)?;
        let head = place.line.head.load(Ordering::Relaxed);
        let (mut best, mut of) = (line::last_start(head, at), place);
        if head & MORE != 0 {
            let mut next = self.after(place);
            while let Some(place) = next {
                let found = line::last_start(place.line.head.load(Ordering::Relaxed), at);
                // Compared by the start first. `None` is less than any.
                if found > best {
                    (best, of) = (found, place);
                }
                next = self.after(place);
            }
        }
        let (start, slot) = best?;
        let read = of.line.read(of.tags, start, slot);
        Some(read.map(|Read { len, tag }| Entry { start: bin * BIN + start, len, tag }))
    }

    /// Looks up many offsets as [`Lookup::find`] does. Their cache misses overlap. `None` stays
    /// `None`.
    pub(crate) fn find_many(&self, offsets: &[Option<usize>], found: &mut [Option<Entry>]) {
        for (offsets, found) in offsets.chunks(ABREAST).zip(found.chunks_mut(ABREAST)) {
            // First everything that the heads and tags need is fetched. Then all heads are read,
            // and none of these reads waits for another.
            for offset in offsets.iter().flatten() {
                let bin = offset / GRANULE / BIN as usize;
                if let (Some(line), Some(tags)) = (self.lines.get(bin), self.tags.get(bin)) {
                    icache::prefetch(line);
                    icache::prefetch(tags);
                }
            }
            let mut heads = [0; ABREAST];
            for (head, offset) in heads.iter_mut().zip(offsets) {
                let bin = offset.and_then(|offset| self.lines.get(offset / GRANULE / BIN as usize));
                *head = bin.map_or(0, |line| line.head.load(Ordering::Relaxed));
            }
            for ((head, offset), found) in heads.iter().zip(offsets).zip(found) {
                *found = offset.and_then(|offset| self.find_by(*head, offset));
            }
        }
    }

    /// Looks up an offset as [`Lookup::find`] does, with the head of its bin.
    #[inline]
    fn find_by(&self, head: u64, offset: usize) -> Option<Entry> {
        let granule = (offset / GRANULE) as u32;
        let bin = granule / BIN;
        let own = if head & MORE == 0 { line::last_start(head, granule % BIN) } else { None };
        let Some((start, slot)) = own else { return self.find(offset) };
        let place = self.first(bin)?;
        let Read { len, tag } = place.line.read(place.tags, start, slot)?;
        let found = Entry { start: bin * BIN + start, len, tag };
        (offset - found.start as usize * GRANULE < len as usize).then_some(found)
    }
}

const _: () = assert!(SLOTS * 8 < 64 && BINS <= 32);
