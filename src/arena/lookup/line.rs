//! A line of the lookup: the starts and lengths of up to seven blocks of a bin, in 64 bytes.
//!
//! ```text
//!         byte 7    byte 6    byte 5          byte 0
//! head    | MORE  | start 6 | start 5 | ... | start 0 |   0: the slot is empty; else 0x80 + granule within the bin
//!
//!          63        40  39      38   32 31      0
//! state 0 | generation | tagged | start | length |        length 0: the block was retired
//! ...
//! state 6
//! ```
//!
//! The head is written under the lock of the heap. A state belongs to the block's owner as long as
//! the block is live. The order of accesses that makes this right is described in the
//! [lookup](super).
#![forbid(unsafe_code)]

use super::Entry;
use crate::sync::Ordering;
use crate::sync::checked::{AtomicU64, fence};

/// The granules of a bin: as many as seven bits can tell apart.
pub(super) const BIN: u32 = 128;
/// The blocks of a line.
pub(super) const SLOTS: usize = 7;

/// A bit in the last byte of a head: the bin has a further line.
pub(super) const MORE: u64 = 1 << 63;
/// A one in each byte that is a start.
const EACH: u64 = 0x0001_0101_0101_0101;
const LIVE: u64 = 0x80 * EACH;

const LEN_BITS: u32 = 32;
const LENGTH: u64 = (1 << LEN_BITS) - 1;
const START_BITS: u32 = 7;
const TAGGED: u64 = 1 << (LEN_BITS + START_BITS);
const GENERATION: u32 = LEN_BITS + START_BITS + 1;

#[derive(Default)]
#[repr(C, align(64))]
pub(super) struct Line {
    pub(super) head: AtomicU64,
    states: [AtomicU64; SLOTS],
}

/// The tags of a line's blocks.
#[derive(Default)]
#[repr(C, align(8))]
pub(super) struct Tags([AtomicU64; SLOTS]);

fn state(generation: u64, block: &Entry) -> u64 {
    let tagged = if block.tag == 0 { 0 } else { TAGGED };
    generation << GENERATION | tagged | u64::from(block.start % BIN) << LEN_BITS | u64::from(block.len)
}

/// Returns the lowest slot whose byte in `bytes` is zero, or eight if there is none. The last byte
/// does not count.
fn zero_slot(bytes: u64) -> usize {
    let zero = bytes.wrapping_sub(EACH) & !bytes & LIVE;
    zero.trailing_zeros() as usize / 8
}

/// Returns the largest start in a head that is at most granule `at` of the bin, with its slot. It
/// compares all seven bytes at once and without a branch, because a branch on them could not be
/// predicted.
#[inline]
pub(super) fn last_start(head: u64, at: u32) -> Option<(u32, usize)> {
    let (live, starts) = (head & LIVE, head & (0x7f * EACH));
    // Bit 7 of each byte says whether its start is at or before `at`. No byte borrows from the next
    // one.
    let before = u64::from(0x80 | at) * EACH - starts;
    let keys = head & (((live & before) >> 7) * 0xff);
    let last = keys.to_le_bytes().into_iter().fold(0, u8::max);
    let slot = zero_slot(keys ^ (u64::from(last) * EACH));
    Some((u32::from(last.checked_sub(0x80)?), slot))
}

/// Returns the slot of the block that begins at a granule.
#[inline]
pub(super) fn slot_of(head: u64, start: u32) -> Option<usize> {
    let key = u64::from(0x80 | (start % BIN));
    Some(zero_slot((head ^ (key * EACH)) & !(0xff << 56))).filter(|slot| *slot < SLOTS)
}

/// Returns the starts in a head, with their slots.
pub(super) fn starts(head: u64) -> impl Iterator<Item = (u32, usize)> {
    let bytes = head.to_le_bytes().into_iter().take(SLOTS).enumerate();
    bytes.filter(|(_, byte)| byte & 0x80 != 0).map(|(slot, byte)| (u32::from(byte & 0x7f), slot))
}

/// Returns whether no block begins in a line.
pub(super) fn is_empty(head: u64) -> bool {
    head & LIVE == 0
}

/// The length and tag that were read of a block.
pub(super) struct Read {
    pub(super) len: u32,
    pub(super) tag: u64,
}

impl Line {
    /// Enters as many of these blocks of one bin as there are empty slots, the first ones first.
    /// Returns how many. Only the writer may call it.
    #[inline]
    pub(super) fn enter(&self, tags: &Tags, blocks: &[Entry]) -> usize {
        let mut head = self.head.load(Ordering::Relaxed);
        let mut entered = 0;
        for block in blocks {
            let free = !head & LIVE;
            if free == 0 {
                break;
            }
            let slot = free.trailing_zeros() as usize / 8;
            if let (Some(state), Some(tag)) = (self.states.get(slot), tags.0.get(slot)) {
                fill(state, tag, block);
            }
            head |= u64::from(0x80 | (block.start % BIN)) << (8 * slot);
            entered += 1;
        }
        if entered > 0 {
            self.head.store(head, Ordering::Relaxed);
        }
        entered
    }

    /// Enters one block. Returns whether there was an empty slot. Only the writer may call it.
    #[inline]
    pub(super) fn enter_one(&self, tags: &Tags, block: &Entry) -> bool {
        let head = self.head.load(Ordering::Relaxed);
        let slot = (!head & LIVE).trailing_zeros() as usize / 8;
        let (Some(state), Some(tag)) = (self.states.get(slot), tags.0.get(slot)) else { return false };
        fill(state, tag, block);
        self.head.store(head | u64::from(0x80 | (block.start % BIN)) << (8 * slot), Ordering::Relaxed);
        true
    }

    /// Makes a block unfindable, by setting its length to zero. Only the block's owner may call it,
    /// because the state belongs to the owner as long as the block is live.
    #[inline]
    pub(super) fn retire(&self, slot: usize) {
        if let Some(state) = self.states.get(slot) {
            state.store(state.load(Ordering::Relaxed) & !LENGTH, Ordering::Relaxed);
        }
    }

    /// Changes the length of a live block. Only the block's owner may call it.
    pub(super) fn set_len(&self, slot: usize, len: u32) {
        if let Some(state) = self.states.get(slot) {
            state.store(state.load(Ordering::Relaxed) & !LENGTH | u64::from(len), Ordering::Relaxed);
        }
    }

    /// Frees the slot of a block. Returns the head without it. Only the writer may call it.
    #[inline]
    pub(super) fn remove(&self, slot: usize) -> u64 {
        let left = self.head.load(Ordering::Relaxed) & !(0xff << (8 * slot));
        self.head.store(left, Ordering::Relaxed);
        left
    }

    /// Reads the block that a head showed. The answer is `None` if the block was removed meanwhile.
    #[inline]
    pub(super) fn read(&self, tags: &Tags, start: u32, slot: usize) -> Option<Read> {
        let state = self.states.get(slot)?;
        let before = state.load(Ordering::Acquire);
        let tag = if before & TAGGED == 0 { 0 } else { tags.0.get(slot)?.load(Ordering::Relaxed) };
        fence(Ordering::Acquire);
        let after = state.load(Ordering::Relaxed);
        // A block that is live throughout may become shorter meanwhile. Either length is right.
        let is_same = before == after || before & !LENGTH == after & !LENGTH && after & LENGTH != 0;
        if !is_same || (before >> LEN_BITS) as u32 % BIN != start {
            return None;
        }
        Some(Read { len: before as u32, tag })
    }
}

#[inline]
fn fill(place: &AtomicU64, tag: &AtomicU64, block: &Entry) {
    let generation = (place.load(Ordering::Relaxed) >> GENERATION) + 1;
    // The state has no length now, because the last block here was retired or there was none. A
    // reader that sees the new tag sees at least that after its own fence, and finds nothing.
    fence(Ordering::Release);
    if block.tag != 0 {
        tag.store(block.tag, Ordering::Relaxed);
    }
    place.store(state(generation, block), Ordering::Release);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_last_start_is_found_whatever_the_order() {
        let mut rng = fastrand::Rng::with_seed(4);
        for _ in 0..20_000 {
            let mut head = rng.u64(..) & (0xff << 56);
            let mut starts: Vec<(u32, usize)> = Vec::new();
            for slot in 0..SLOTS {
                let start = rng.u32(..BIN);
                if rng.bool() && starts.iter().all(|&(other, _)| other != start) {
                    head |= u64::from(0x80 | start) << (8 * slot);
                    starts.push((start, slot));
                }
            }
            for at in [0, 1, rng.u32(..BIN), 126, 127] {
                assert_eq!(last_start(head, at), starts.iter().copied().filter(|(start, _)| *start <= at).max());
                let exact = starts.iter().find(|(start, _)| *start == at);
                assert_eq!(slot_of(head, at), exact.map(|(_, slot)| *slot));
            }
            assert_eq!(is_empty(head), starts.is_empty());
        }
    }
}
