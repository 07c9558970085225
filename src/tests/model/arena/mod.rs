//! The arena: no overlap, no lost byte, contents intact, figures exact, whatever the order of
//! operations. Batches stay open across other operations, several at a time; the capacity is small,
//! so that it is full again and again.
//!
//! The model is the list of live blocks with their bytes, of open batches and of waiting blocks.
//! After each operation it compares:
//!
//! - the figures of the arena with its own,
//! - the bytes and the lookup of each live block,
//! - an `ArenaFull` with the holes that it knows itself.
//!
//! A system call may be refused at any step. Then the operation returns an error and the model
//! stays as it was.

mod cut;
mod op;
mod refused;

use arbitrary::{Arbitrary, Result, Unstructured};
use op::Op;

use super::{Setting, call_at, code, granules, ops};
use crate::tests::gives_back;
use crate::{Batch, BlockInfo, Code, CodeArena, CodeBlock, Error, Guard, Slot};

#[derive(Clone, Debug)]
pub struct Program {
    setting: Setting,
    /// The blocks are dropped after every handle.
    outlive: bool,
    ops: Vec<Op>,
}

impl<'a> Arbitrary<'a> for Program {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let setting = Setting::arbitrary(u, &[64 << 10, 256 << 10, 2 << 20])?;
        Ok(Self { setting, outlive: u.arbitrary()?, ops: ops(u)? })
    }
}

enum Owner {
    Block(CodeBlock),
    Raw(*const u8),
}

impl Owner {
    fn address(&self) -> *const u8 {
        match self {
            Self::Block(block) => block.as_ptr(),
            Self::Raw(address) => *address,
        }
    }
}

struct Live {
    owner: Owner,
    bytes: Vec<u8>,
    /// What it returns; `None` if it was never given code.
    number: Option<u32>,
    tag: u64,
}

impl Live {
    fn call(&self) {
        if let Some(number) = self.number {
            assert_eq!(call_at(self.owner.address()), number);
        }
    }
}

/// What was dropped under guards.
struct Waiting {
    start: usize,
    len: usize,
    /// The guards that there were.
    guards: Vec<u64>,
}

struct Open {
    batch: Batch,
    slots: Vec<(Slot, Vec<u8>, Option<u32>)>,
}

/// The arena as plain data.
struct Model<'a> {
    arena: &'a CodeArena,
    clones: Vec<CodeArena>,
    capacity: usize,
    live: Vec<Live>,
    open: Vec<Open>,
    waiting: Vec<Waiting>,
    guards: Vec<(u64, Guard<'a>)>,
    next_guard: u64,
    number: u32,
    fills_holes: bool,
}

impl Program {
    pub fn run(&self) {
        let (arena, system) = self.setting.build();
        let capacity = arena.capacity();
        let mut model = Model {
            arena: &arena,
            clones: Vec::new(),
            capacity,
            live: Vec::new(),
            open: Vec::new(),
            waiting: Vec::new(),
            guards: Vec::new(),
            next_guard: 0,
            number: 0,
            fills_holes: arena.stats().fills_holes,
        };
        for op in &self.ops {
            model.apply(op);
        }
        model.check();
        model.open.clear();
        model.guards.clear();
        model.clones.clear();
        model.check();
        for pick in 0..model.live.len() {
            model.take_back(pick);
        }
        if self.outlive {
            let live = std::mem::take(&mut model.live);
            drop(model);
            drop(arena);
            live.iter().for_each(Live::call);
        } else {
            model.live.clear();
            model.check();
            let stats = arena.stats();
            assert_eq!((stats.free_bytes, stats.largest_hole), (capacity, capacity), "{stats}");
            arena.trim().unwrap();
            assert!(arena.stats().resident_bytes == 0 || !gives_back(&arena));
            drop(model);
            drop(arena);
        }
        assert_eq!(system.mapped(), 0);
    }
}

impl Model<'_> {
    /// A number that returns soon, and code of at least its size.
    fn code(&mut self, len: usize) -> (u32, Vec<u8>) {
        self.number = (self.number + 1) % 32_768;
        (self.number, code(self.number, len))
    }

    /// Every handle in turn.
    fn handle(&self) -> &CodeArena {
        let pick = self.number as usize % (self.clones.len() + 1);
        self.clones.get(pick).unwrap_or(self.arena)
    }

    /// The region's first byte, if anything lies in it.
    fn base(&self) -> Option<usize> {
        let live = self.live.iter().map(|live| live.owner.address().addr());
        let any = live.chain(self.waiting.iter().map(|waiting| waiting.start)).next();
        // Arenas begin at a multiple of their size as a power of two up to 2 MiB, and none of these
        // is longer.
        let align = self.capacity.next_power_of_two();
        assert!(align <= 2 << 20);
        any.map(|address| address & !(align - 1))
    }

    /// Start and length of every hole, from what is live or waiting; none of that may overlap. Only
    /// without batches.
    fn holes(&self) -> Vec<(usize, usize)> {
        let live = self.live.iter().map(|live| (live.owner.address().addr(), granules(live.bytes.len())));
        let mut taken: Vec<_> = live.chain(self.waiting.iter().map(|waiting| (waiting.start, waiting.len))).collect();
        taken.sort_unstable();
        let base = self.base().unwrap_or(0);
        taken.push((base + self.capacity, 0));
        let mut at = base;
        let mut holes = Vec::new();
        for (start, len) in taken {
            let room = start.checked_sub(at).expect("overlap, or space that waits was used");
            if room > 0 {
                holes.push((at, room));
            }
            at = start + len;
        }
        holes
    }

    /// Whether it was right to say that the arena is full.
    fn check_full(&self, asked: usize, align: usize, error: &Error) {
        let Error::ArenaFull { asked: said, free, largest_hole, waiting } = *error else { panic!("{error}") };
        // Whole pages where holes are not filled.
        assert!(said >= asked && largest_hole <= free && free <= self.capacity);
        if self.fills_holes && self.open.is_empty() {
            assert_eq!(said, asked);
            let holes = self.holes();
            assert_eq!(free, holes.iter().map(|(_, len)| len).sum::<usize>());
            assert_eq!(largest_hole, holes.iter().map(|&(_, len)| len).max().unwrap_or(0));
            assert_eq!(waiting, self.waiting.iter().map(|waiting| waiting.len).sum::<usize>());
            let fits = |&(start, room): &(usize, usize)| start.next_multiple_of(align) - start + asked <= room;
            assert!(!holes.iter().any(fits), "refused what fits: {asked} at {align} of {holes:x?}: {error}");
        }
    }

    /// Space that no guard holds back any more is free.
    fn settle(&mut self) {
        let held: Vec<u64> = self.guards.iter().map(|(number, _)| *number).collect();
        self.waiting.retain(|waiting| waiting.guards.iter().any(|guard| held.contains(guard)));
    }

    fn check(&mut self) {
        self.settle();
        let stats = self.arena.stats();
        let payload: usize = self.live.iter().map(|live| live.bytes.len()).sum();
        let space: usize = self.live.iter().map(|live| granules(live.bytes.len())).sum();
        let waiting: usize = self.waiting.iter().map(|waiting| waiting.len).sum();
        let slots = self.open.iter().flat_map(|open| &open.slots);
        let placed: usize = slots.map(|(_, bytes, _)| granules(bytes.len())).sum();
        assert_eq!(
            (stats.live_blocks, stats.live_bytes, stats.padding_bytes),
            (self.live.len(), payload, space - payload)
        );
        assert_eq!((stats.pending_blocks, stats.pending_bytes), (self.waiting.len(), waiting));
        assert_eq!(stats.free_bytes, self.capacity - space - waiting - stats.batch_bytes);
        assert!(stats.largest_hole <= stats.free_bytes && stats.batch_bytes >= placed, "{stats}");
        if self.open.is_empty() {
            assert_eq!(stats.batch_bytes, 0);
            let largest = self.holes().iter().map(|&(_, len)| len).max().unwrap_or(0);
            assert_eq!(stats.largest_hole, largest, "holes do not coalesce");
        }
        let pages = self.arena.map().pages;
        let sum = |part: fn(&crate::PageUse) -> u32| pages.iter().map(|page| part(page) as usize).sum::<usize>();
        assert_eq!(sum(|page| page.live), space + stats.batch_bytes);
        assert_eq!(sum(|page| page.pending), waiting);
        let page_size = region::page::size();
        assert_eq!(pages.iter().filter(|page| page.resident).count() * page_size, stats.resident_bytes);
        for live in &self.live {
            self.check_live(live);
        }
        // All first and last bytes, and those around, at once and one by one.
        let ends = self.live.iter().flat_map(|live| {
            let (start, len) = (live.owner.address(), live.bytes.len());
            [start.wrapping_sub(1), start, start.wrapping_add(len - 1), start.wrapping_add(len)]
        });
        let ends: Vec<*const u8> = ends.collect();
        let mut found = vec![None; ends.len() + 1];
        found[ends.len()] = self.live.first().and_then(|live| self.arena.lookup(live.owner.address()));
        self.arena.lookup_many(&ends, &mut found);
        assert_eq!(found.pop(), Some(None));
        assert!(ends.iter().zip(found).all(|(address, found)| self.arena.lookup(*address) == found));
        for open in &mut self.open {
            assert_eq!((open.batch.len(), open.batch.is_empty()), (open.slots.len(), open.slots.is_empty()));
            for (slot, bytes, _) in &open.slots {
                assert_eq!(open.batch.bytes_mut(*slot), bytes);
                assert!(self.arena.lookup(open.batch.address(*slot)).is_none(), "found before it was published");
            }
        }
    }

    fn check_live(&self, live: &Live) {
        let address = live.owner.address();
        if let Owner::Block(block) = &live.owner {
            assert_eq!(
                (&block.as_bytes()[..], block.len(), block.tag()),
                (&live.bytes[..], live.bytes.len(), live.tag)
            );
        }
        live.call();
        for offset in [0, live.bytes.len() - 1] {
            let hit = self.arena.lookup(address.wrapping_add(offset)).unwrap();
            assert_eq!((hit.start, hit.len, hit.tag), (address, live.bytes.len(), live.tag));
        }
    }

    fn push(&mut self, batch: usize, len: usize, align: usize, filled: bool) {
        let (number, bytes) = self.code(len);
        let len = bytes.len();
        if self.open.is_empty() {
            return;
        }
        let pick = batch % self.open.len();
        let open = &mut self.open[pick];
        let pushed = match filled {
            true => open.batch.push(Code::new(&bytes).align(align)),
            false => open.batch.reserve(len, align),
        };
        match pushed {
            Ok(slot) => {
                assert_eq!((slot.index(), open.batch.address(slot).addr() % align), (open.slots.len(), 0));
                let held = open.batch.bytes_mut(slot).to_vec();
                assert_eq!(held.len(), len);
                assert!(!filled || held == bytes);
                open.slots.push((slot, held, filled.then_some(number)));
            }
            Err(Error::TooLarge { .. }) => assert!(len > self.capacity),
            Err(error) => {
                // This batch itself may hold what is missing.
                assert!(matches!(error, Error::ArenaFull { .. }), "{error}");
            }
        }
    }

    fn finish(&mut self, batch: usize, publish: bool) {
        if self.open.is_empty() {
            return;
        }
        let open = self.open.swap_remove(batch % self.open.len());
        if !publish {
            return;
        }
        let addresses: Vec<_> = open.slots.iter().map(|(slot, ..)| open.batch.address(*slot)).collect();
        let blocks = open.batch.publish().unwrap();
        assert_eq!(blocks.iter().map(CodeBlock::as_ptr).collect::<Vec<_>>(), addresses);
        let slots = open.slots.into_iter().map(|(_, bytes, number)| (bytes, number));
        self.live.extend(blocks.into_iter().zip(slots).map(|(block, (bytes, number))| Live {
            owner: Owner::Block(block),
            bytes,
            number,
            tag: 0,
        }));
    }

    fn drop_block(&mut self, index: usize) {
        if matches!(self.live[index].owner, Owner::Raw(_)) {
            return;
        }
        let live = self.live.swap_remove(index);
        let guards: Vec<u64> = self.guards.iter().map(|(number, _)| *number).collect();
        let address = live.owner.address();
        drop(live.owner);
        assert!(self.arena.lookup(address).is_none(), "found after it was dropped");
        if !guards.is_empty() {
            self.waiting.push(Waiting { start: address.addr(), len: granules(live.bytes.len()), guards });
        }
    }

    fn take_back(&mut self, pick: usize) {
        let Some(live) = self.live.get_mut(pick) else { return };
        if let Owner::Raw(address) = live.owner {
            // SAFETY: given up before, and not taken back since: it would not be `Raw`.
            live.owner = Owner::Block(unsafe { self.arena.from_raw(address) }.unwrap());
        }
    }

    fn lookup(&self, offset: usize) {
        let Some(base) = self.base() else { return };
        // One before the region, one behind it, and all between.
        let address = std::ptr::without_provenance::<u8>((base - 1).wrapping_add(offset % (self.capacity + 2)));
        assert_eq!(self.arena.contains(address), (base..base + self.capacity).contains(&address.addr()));
        let found = self.live.iter().find(|live| {
            let start = live.owner.address().addr();
            (start..start + live.bytes.len()).contains(&address.addr())
        });
        let expected =
            found.map(|live| BlockInfo { start: live.owner.address(), len: live.bytes.len(), tag: live.tag });
        assert_eq!(self.arena.lookup(address), expected);
    }

    fn patch(&mut self, pick: usize, offset: usize, len: usize) {
        let Some(live) = self.live.get_mut(pick) else { return };
        let Owner::Block(block) = &live.owner else { return };
        let bytes = vec![len as u8; len];
        // SAFETY: nobody runs it.
        let outcome = unsafe { block.patch(offset, &bytes) };
        if offset + len > live.bytes.len() {
            assert!(matches!(outcome, Err(Error::PastCapacity { .. })));
        } else if len > 0 && !self.fills_holes {
            assert!(matches!(outcome, Err(Error::Unsupported { .. })));
        } else {
            outcome.unwrap();
            live.bytes[offset..offset + len].copy_from_slice(&bytes);
            // What is left of the function's own bytes can be run no more.
            let head = crate::tests::common::asm::constant(0).len();
            live.number = live.number.filter(|_| offset >= head || len == 0);
        }
    }

    fn apply(&mut self, op: &Op) {
        self.settle();
        match *op {
            Op::Publish { len, align, tag } => {
                let (number, bytes) = self.code(len);
                match self.handle().publish(Code::new(&bytes).align(align).tag(tag)) {
                    Ok(block) => {
                        assert_eq!(block.as_ptr().addr() % align, 0);
                        self.live.push(Live { owner: Owner::Block(block), bytes, number: Some(number), tag });
                    }
                    Err(Error::TooLarge { .. }) => assert!(bytes.len() > self.capacity),
                    Err(error) => self.check_full(granules(bytes.len()), align, &error),
                }
            }
            Op::Open => {
                if self.open.len() < 4 {
                    let batch = self.handle().batch();
                    self.open.push(Open { batch, slots: Vec::new() });
                }
            }
            Op::Push { batch, len, align } => self.push(batch, len, align, true),
            Op::PushMany { batch, count, len } => (0..count).for_each(|_| self.push(batch, len, 16, true)),
            Op::Reserve { batch, len, align } => self.push(batch, len, align, false),
            Op::Finish { batch, publish } => self.finish(batch, publish),
            Op::Drop { pick } if !self.live.is_empty() => self.drop_block(pick % self.live.len()),
            Op::DropSome { keep } => {
                (0..self.live.len()).rev().filter(|index| index % keep != 0).for_each(|index| self.drop_block(index));
            }
            Op::Pin => {
                self.next_guard += 1;
                self.guards.push((self.next_guard, self.arena.pin()));
            }
            Op::Unpin { pick } if !self.guards.is_empty() => drop(self.guards.swap_remove(pick % self.guards.len())),
            Op::Trim => {
                let before = self.arena.stats().resident_bytes;
                let given = self.arena.trim().unwrap();
                assert_eq!(self.arena.stats().resident_bytes, before - given);
                let empty = |page: &crate::PageUse| page.resident && page.live + page.pending == 0;
                let kept = self.arena.map().pages.iter().any(empty);
                assert!(!kept || !gives_back(self.arena), "an empty page was kept");
            }
            // Not every system can, nor every amount of memory.
            Op::Collapse => drop(self.arena.collapse()),
            Op::IntoRaw { pick } if !self.live.is_empty() => {
                let mut live = self.live.swap_remove(pick % self.live.len());
                if let Owner::Block(block) = live.owner {
                    live.owner = Owner::Raw(block.into_raw());
                }
                self.live.push(live);
            }
            Op::FromRaw { pick } => self.take_back(pick % self.live.len().max(1)),
            Op::Patch { pick, offset, len } => self.patch(pick % self.live.len().max(1), offset, len),
            Op::Shrink { pick, len } => self.shrink(pick % self.live.len().max(1), len),
            Op::PublishWith { len, align, used } => self.publish_with(len, align, used),
            Op::Lookup { offset } => self.lookup(offset),
            Op::Refused { kind } => self.refused(kind),
            Op::Clone => {
                if self.clones.len() < 4 {
                    self.clones.push(self.handle().clone());
                }
            }
            Op::DropClone => drop(self.clones.pop()),
            Op::Heap { index } => self.arena.go_to_heap(index),
            Op::Check => self.check(),
            Op::Drop { .. } | Op::Unpin { .. } | Op::IntoRaw { .. } => {}
        }
    }
}
