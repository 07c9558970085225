//! Operation lists against a plain model of the arena: no overlap, no lost byte, contents intact, figures exact.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{asm, call, modes};
use gaia_jit::{Code, CodeArena, CodeBlock, Error, Guard, WxMode};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Publish { len: usize, align: usize },
    Batch { lens: Vec<usize>, publish: bool },
    Drop { pick: usize },
    DropHalf { odd: bool },
    Pin,
    Unpin { pick: usize },
    Trim,
    Raw { pick: usize },
    Check,
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 8..1_032usize, 2 => 1_032..9_000usize, 1 => 60_000..90_000usize]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (len(), 0..8u32).prop_map(|(len, shift)| Op::Publish { len, align: if shift == 7 { 4096 } else { 16 << shift } }),
        3 => (prop::collection::vec(len(), 0..60), prop::bool::weighted(0.8)).prop_map(|(lens, publish)| Op::Batch { lens, publish }),
        6 => any::<usize>().prop_map(|pick| Op::Drop { pick }),
        1 => any::<bool>().prop_map(|odd| Op::DropHalf { odd }),
        1 => Just(Op::Pin),
        2 => any::<usize>().prop_map(|pick| Op::Unpin { pick }),
        1 => Just(Op::Trim),
        1 => any::<usize>().prop_map(|pick| Op::Raw { pick }),
        1 => Just(Op::Check),
    ]
}

const CAPACITY: usize = 2 << 20;

fn granules(len: usize) -> usize {
    len.next_multiple_of(16)
}

/// The arena as plain data: what is live, and what waits for which guards.
struct Model<'a> {
    arena: &'a CodeArena,
    live: Vec<(CodeBlock, Vec<u8>, u32)>,
    /// Start, length and the numbers of the guards that were there when it was dropped.
    pending: Vec<(usize, usize, Vec<u64>)>,
    guards: Vec<(u64, Guard<'a>)>,
    next_guard: u64,
    number: u32,
    fills_holes: bool,
}

impl Model<'_> {
    fn code(&mut self, len: usize) -> (u32, Vec<u8>) {
        self.number = (self.number + 1) % 32_768;
        let code = asm::constant(self.number);
        let mut bytes = asm::padded(self.number, len.max(code.len()));
        for (index, byte) in bytes.iter_mut().enumerate().skip(code.len()) {
            *byte = (self.number as usize).wrapping_mul(31).wrapping_add(index) as u8;
        }
        (self.number, bytes)
    }

    fn drop_block(&mut self, index: usize) {
        let (block, bytes, _) = self.live.swap_remove(index);
        let guards: Vec<u64> = self.guards.iter().map(|(number, _)| *number).collect();
        if !guards.is_empty() {
            self.pending.push((block.as_ptr().addr(), granules(bytes.len()), guards));
        }
    }

    fn check(&mut self) {
        self.settle();
        let stats = self.arena.stats();
        let payload: usize = self.live.iter().map(|(_, bytes, _)| bytes.len()).sum();
        let space: usize = self.live.iter().map(|(_, bytes, _)| granules(bytes.len())).sum();
        let waiting: usize = self.pending.iter().map(|(_, len, _)| len).sum();
        assert_eq!(
            (stats.live_blocks, stats.live_bytes, stats.padding_bytes),
            (self.live.len(), payload, space - payload)
        );
        assert_eq!((stats.pending_blocks, stats.pending_bytes, stats.batch_bytes), (self.pending.len(), waiting, 0));
        assert_eq!(stats.free_bytes, CAPACITY - space - waiting);
        assert_eq!(stats.largest_hole, self.holes().map(|(_, len)| len).max().unwrap_or(0), "holes do not coalesce");
        let pages = self.arena.occupancy();
        assert_eq!(pages.pages.iter().map(|page| page.live as usize).sum::<usize>(), space);
        assert_eq!(pages.pages.iter().map(|page| page.pending as usize).sum::<usize>(), waiting);
        assert_eq!(pages.pages.iter().filter(|page| page.resident).count() * pages.page_size, stats.resident_bytes);
        for (block, bytes, number) in &self.live {
            assert_eq!(&block.as_bytes()[..], &bytes[..]);
            assert_eq!(call(block), *number);
            let hit = self.arena.lookup(block.as_ptr().wrapping_add(bytes.len() - 1)).unwrap();
            assert_eq!((hit.start, hit.len, hit.tag), (block.as_ptr(), bytes.len(), u64::from(*number)));
        }
    }

    /// Start and length of every hole, from what is live or waiting; none of that may overlap.
    fn holes(&self) -> impl Iterator<Item = (usize, usize)> {
        let live = self.live.iter().map(|(block, bytes, _)| (block.as_ptr().addr(), granules(bytes.len())));
        let mut taken: Vec<_> = live.chain(self.pending.iter().map(|&(start, len, _)| (start, len))).collect();
        taken.sort_unstable();
        // Arenas begin at a multiple of 2 MiB, and this one is as long.
        let base = taken.first().map_or(0, |(start, _)| start & !(CAPACITY - 1));
        taken.push((base + CAPACITY, 0));
        let mut at = base;
        taken.into_iter().filter_map(move |(start, len)| {
            let hole = (at, start.checked_sub(at).expect("overlap, or space that waits was used"));
            at = start + len;
            (hole.1 > 0).then_some(hole)
        })
    }

    /// Space that no guard holds back any more is free.
    fn settle(&mut self) {
        let held: Vec<u64> = self.guards.iter().map(|(number, _)| *number).collect();
        self.pending.retain(|(_, _, guards)| guards.iter().any(|guard| held.contains(guard)));
    }

    fn fits(&self, len: usize, align: usize) -> bool {
        self.holes().any(|(start, room)| start.next_multiple_of(align) - start + len <= room)
    }

    fn apply(&mut self, op: Op) {
        self.settle();
        match op {
            Op::Publish { len, align } => {
                let (number, bytes) = self.code(len);
                match self.arena.publish(Code::new(&bytes).align(align).tag(number.into())) {
                    Ok(block) => {
                        assert_eq!(block.as_ptr().addr() % align, 0);
                        self.live.push((block, bytes, number));
                    }
                    Err(Error::ArenaFull { asked, .. }) => {
                        assert_eq!(asked, granules(bytes.len()));
                        assert!(!self.fills_holes || !self.fits(asked, align), "refused what fits");
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            Op::Batch { lens, publish } => {
                let mut batch = self.arena.batch();
                let mut codes = Vec::new();
                for len in lens {
                    let (number, bytes) = self.code(len);
                    match batch.push(Code::new(&bytes).tag(number.into())) {
                        Ok(slot) => {
                            assert_eq!(batch.bytes_mut(slot), bytes);
                            codes.push((bytes, number));
                        }
                        Err(Error::ArenaFull { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
                if publish {
                    let blocks = batch.publish().unwrap();
                    assert_eq!(blocks.len(), codes.len());
                    self.live
                        .extend(blocks.into_iter().zip(codes).map(|(block, (bytes, number))| (block, bytes, number)));
                }
            }
            Op::Drop { pick } if !self.live.is_empty() => self.drop_block(pick % self.live.len()),
            Op::DropHalf { odd } => {
                for index in (0..self.live.len()).rev().filter(|index| index % 2 == usize::from(odd)) {
                    self.drop_block(index);
                }
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
            }
            Op::Raw { pick } if !self.live.is_empty() => {
                let index = pick % self.live.len();
                let (block, bytes, number) = self.live.swap_remove(index);
                let raw = block.into_raw();
                // SAFETY: given up just now.
                self.live.push((unsafe { self.arena.from_raw(raw) }.unwrap(), bytes, number));
            }
            Op::Check => self.check(),
            Op::Drop { .. } | Op::Unpin { .. } | Op::Raw { .. } => {}
        }
    }
}

fn run(mode: WxMode, poison: bool, ops: Vec<Op>) {
    let arena = CodeArena::builder().capacity(CAPACITY).mode(mode).poison(poison).build().unwrap();
    drop(arena.publish(&asm::constant(1)).unwrap());
    let fills_holes = arena.stats().fills_holes;
    let mut model = Model {
        arena: &arena,
        live: Vec::new(),
        pending: Vec::new(),
        guards: Vec::new(),
        next_guard: 0,
        number: 0,
        fills_holes,
    };
    for op in ops {
        model.apply(op);
    }
    model.check();
    model.guards.clear();
    model.check();
    model.live.clear();
    model.check();
    let stats = arena.stats();
    assert_eq!((stats.free_bytes, stats.largest_hole), (CAPACITY, CAPACITY));
    // Where memory does not go back, nothing is said to.
    let given = arena.trim().unwrap();
    assert_eq!(arena.stats().resident_bytes, stats.resident_bytes - given);
    assert!(given == stats.resident_bytes || given == 0 && mode != WxMode::Flip);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_model(ops in prop::collection::vec(op(), 1..150), poison in any::<bool>()) {
        for mode in modes() {
            run(mode, poison, ops.clone());
        }
    }
}
