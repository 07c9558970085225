//! Random work through several heaps of one arena, with all figures taken again from the tables
//! after each step; and threads in an arena that is full all the time.
//!
//! | what | how it is checked | mistake that it finds |
//! |---|---|---|
//! | counts of heaps and pool | `check_figures` counts the tables under all locks | a count that is wrong after some order of steps |
//! | waiting blocks | each is in the heap that owns its span, by ascending epoch | a block that is never reclaimed |
//! | live blocks | each is full of a byte of its own | two blocks that overlap |
//! | `Stats` and lookup | the parts add up to the capacity, and each last byte is found | bytes that are counted twice or not at all |
//! | `ArenaFull` | the hole it reports is too small | an error although the block fits |
//! | six threads | no other error than `ArenaFull`, and an empty arena at the end | a race between search, drop and trim |
//!
//! A seed chooses the page size, the mode, `poison` and `keep_free`. With every third seed calls of
//! the system are refused at random.

use std::thread;

use fastrand::Rng;

use crate::arena::heaps::last;
use crate::space::granules::{FREE, SPAN};
use crate::tests::common::often;
use crate::tests::faulty::Faulty;
use crate::units::GRANULE;
use crate::{Batch, Code, CodeArena, CodeBlock, Error, Guard, WxMode};

/// Checks what heaps and pool count against the tables, and that what waits does so in the heap
/// that owns it.
pub(super) fn check_figures(arena: &CodeArena) {
    let core = arena.core();
    let all = core.heaps.all();
    let granules = core.heaps.granules();
    let of = |owner: u16| (0..granules.spans()).filter(move |span| granules.owner_at(span * SPAN) == Some(owner));
    let resident = |owner: u16| of(owner).map(|span| granules.count_resident(granules.span(span))).sum::<u32>();
    for heap in &all.heaps {
        let owner = heap.index as u16 + 1;
        let free: u32 = of(owner).map(|span| granules.span(span).len() - granules.count_taken(span)).sum();
        assert_eq!((heap.space.free_granules(), heap.space.resident_pages()), (free, resident(owner)), "heap {owner}");
        assert!(heap.pending.iter().all(|pending| granules.owner_at(pending.entry.start) == Some(owner)));
        assert!(heap.pending.iter().zip(heap.pending.iter().skip(1)).all(|(a, b)| a.epoch <= b.epoch));
    }
    assert_eq!(all.pool.granules(), of(FREE).map(|span| granules.span(span).len()).sum::<u32>());
    assert_eq!(all.pool.resident_pages(), resident(FREE));
    assert_eq!(core.heaps.free_resident(), u64::from(all.pool.resident_pages()));
}

/// A block with the byte that it is full of.
type Live = (CodeBlock, u8);

fn check((block, byte): &Live) {
    assert!(block.as_bytes().iter().all(|other| other == byte), "overwritten");
}

fn len(rng: &mut Rng) -> usize {
    let granules = match rng.u32(..10) {
        0..5 => rng.usize(1..200),
        5..7 => rng.usize(1..2_048),
        7..9 => rng.usize(1..6_000),
        _ => rng.usize(1..20_000),
    };
    granules * GRANULE - rng.usize(..GRANULE)
}

struct Work<'a> {
    arena: &'a CodeArena,
    rng: Rng,
    /// Calls of the system are refused.
    failing: bool,
    live: Vec<Live>,
    guards: Vec<Guard<'a>>,
    batches: Vec<(Batch, Vec<u8>)>,
}

impl Work<'_> {
    fn publish(&mut self) {
        let (len, byte) = (len(&mut self.rng), self.rng.u8(..));
        let align = GRANULE << if self.rng.bool() { 0 } else { self.rng.u32(..14) };
        match self.arena.publish(Code::new(&vec![byte; len]).align(align)) {
            Ok(block) => self.live.push((block, byte)),
            Err(Error::ArenaFull { largest_hole, free, .. }) => {
                // Larger ones need whole pages.
                let fills = self.arena.stats().fills_holes;
                let plain = fills && align == GRANULE && len <= 64 << 10 && self.batches.is_empty() && !self.failing;
                assert!(free <= self.arena.capacity() && (!plain || largest_hole < len), "full though it fits");
            }
            Err(error) => assert!(self.failing, "{error}"),
        }
    }

    fn drop_one(&mut self) {
        let gone = self.live.swap_remove(self.rng.usize(..self.live.len()));
        check(&gone);
    }

    fn push(&mut self) {
        let pick = self.rng.usize(..self.batches.len());
        let byte = self.rng.u8(..);
        for _ in 0..self.rng.usize(1..20) {
            let code = vec![byte; self.rng.usize(1..9_000)];
            if self.batches[pick].0.push(&code).is_ok() {
                self.batches[pick].1.push(byte);
            }
        }
    }

    fn finish(&mut self) {
        let (batch, bytes) = self.batches.swap_remove(self.rng.usize(..self.batches.len()));
        if self.rng.bool() {
            match batch.publish() {
                Ok(blocks) => self.live.extend(blocks.into_iter().zip(bytes)),
                Err(error) => assert!(self.failing, "{error}"),
            }
        }
    }

    fn look(&self) {
        let stats = self.arena.stats();
        let bytes = self.live.iter().map(|(block, _)| block.len()).sum::<usize>();
        assert_eq!((stats.live_blocks, stats.live_bytes), (self.live.len(), bytes));
        let sum = bytes + stats.padding_bytes + stats.pending_bytes + stats.batch_bytes + stats.free_bytes;
        assert_eq!(sum, self.arena.capacity());
        assert!(self.failing || stats.batch_bytes == 0 || !self.batches.is_empty());
        assert!(self.failing || stats.pending_bytes == 0 || !self.guards.is_empty());
        for (block, _) in &self.live {
            let hit = self.arena.lookup(block.as_ptr().wrapping_add(block.len() - 1)).unwrap();
            assert_eq!((hit.start, hit.len), (block.as_ptr(), block.len()));
        }
    }

    fn step(&mut self) {
        last::set(self.rng.usize(..4));
        match self.rng.u32(..100) {
            0..40 => self.publish(),
            40..70 if !self.live.is_empty() => self.drop_one(),
            70..74 => {
                let (keep, mut n) = (self.rng.usize(1..4), 0);
                self.live.retain(|_| {
                    n += 1;
                    n % keep != 0
                });
            }
            74..78 if self.guards.len() < 20 => self.guards.push(self.arena.pin()),
            78..82 if !self.guards.is_empty() => drop(self.guards.swap_remove(self.rng.usize(..self.guards.len()))),
            82..85 if self.batches.len() < 3 => self.batches.push((self.arena.batch(), Vec::new())),
            85..92 if !self.batches.is_empty() => self.push(),
            92..95 if !self.batches.is_empty() => self.finish(),
            95..97 => assert!(self.arena.trim().is_ok() || self.failing),
            97 => drop(self.arena.collapse()),
            98.. => self.look(),
            _ => {}
        }
        check_figures(self.arena);
    }
}

/// Modes that place functions in pages with live code.
const FILLING: [WxMode; 3] = [WxMode::Flip, WxMode::DualMap, WxMode::FileWrite];

#[test]
fn figures_are_exact_after_each_step() {
    for seed in 0..often(40) as u64 {
        let mut rng = Rng::with_seed(seed);
        let page = *rng.choice([4096, 16384, 65536].as_slice()).unwrap();
        let (mode, poison) = (FILLING[rng.usize(..FILLING.len())], rng.u8(..) < 60);
        let keep = *rng.choice([0, 256 << 10, usize::MAX].as_slice()).unwrap();
        let system = Faulty::leaked_with_pages(page);
        let capacity = (2 << 20) + rng.usize(..40) * page;
        let builder = CodeArena::builder().capacity(capacity).mode(mode).keep_free(keep).poison(poison);
        let Ok(arena) = builder.os(system).build() else { continue };
        (0..4).for_each(|heap| arena.go_to_heap(heap));
        let failing = seed % 3 == 0;
        if failing {
            system.fail_randomly(seed, 20);
        }
        let mut work = Work { arena: &arena, rng, failing, live: Vec::new(), guards: Vec::new(), batches: Vec::new() };
        (0..600).for_each(|_| work.step());
        system.heal();
        let Work { live, guards, batches, .. } = work;
        drop((guards, batches));
        let _ = arena.trim();
        live.iter().for_each(check);
        drop(live);
        super::check_empty(&arena);
        arena.trim().unwrap();
        assert!(arena.stats().resident_bytes == 0 || mode == WxMode::DualMap, "seed {seed}");
        check_figures(&arena);
        arena.go_to_heap(0);
    }
}

/// Threads that fill the arena, evict, trim and count at one time.
#[test]
fn threads_in_a_full_arena() {
    for (mode, keep, poison) in [
        (WxMode::DualMap, 0, false),
        (WxMode::Flip, 256 << 10, false),
        (WxMode::DualMap, usize::MAX, true),
        (WxMode::Flip, 64 << 10, true),
        (WxMode::FileWrite, 64 << 10, true),
    ] {
        let builder = CodeArena::builder().capacity(2 << 20).mode(mode).keep_free(keep).poison(poison);
        let Ok(arena) = builder.build() else { continue };
        thread::scope(|scope| {
            for seed in 0..6 {
                let arena = &arena;
                scope.spawn(move || in_full(arena, Rng::with_seed(seed)));
            }
        });
        super::check_empty(&arena);
        arena.trim().unwrap();
        check_figures(&arena);
    }
}

fn in_full(arena: &CodeArena, mut rng: Rng) {
    let mut live: Vec<Live> = Vec::new();
    for _ in 0..often(3_000) {
        if rng.u8(..) < 3 {
            arena.go_to_heap(rng.usize(..4));
        }
        match rng.u32(..1_000) {
            0..500 => {
                let (code, byte) = (len(&mut rng).min(rng.usize(1..9_000) * GRANULE), rng.u8(..));
                match arena.publish(&vec![byte; code]) {
                    Ok(block) => live.push((block, byte)),
                    Err(Error::ArenaFull { free, largest_hole, .. }) => {
                        assert!(largest_hole <= free && free <= arena.capacity());
                        for _ in 0..live.len().min(4) {
                            check(&live.swap_remove(rng.usize(..live.len())));
                        }
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            500..900 if !live.is_empty() => {
                let gone = live.swap_remove(rng.usize(..live.len()));
                check(&gone);
                let guard = (rng.u8(..) < 30).then(|| arena.pin());
                drop(gone);
                drop(guard);
            }
            900..920 => drop(arena.trim().unwrap()),
            920..930 => live.clear(),
            930..960 => assert!(arena.stats().free_bytes <= arena.capacity()),
            960..990 => {
                let (mut batch, mut bytes) = (arena.batch(), Vec::new());
                for _ in 0..rng.usize(1..30) {
                    let byte = rng.u8(..);
                    if batch.push(&vec![byte; rng.usize(1..6_000)]).is_ok() {
                        bytes.push(byte);
                    }
                }
                if rng.bool() {
                    live.extend(batch.publish().unwrap().into_iter().zip(bytes));
                }
            }
            _ => {}
        }
    }
    live.iter().for_each(check);
    arena.go_to_heap(0);
}
