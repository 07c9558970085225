//! Pages that get memory before functions are placed there (`FileWrite`).
//!
//! | what | mistake that it finds |
//! |---|---|
//! | functions one after another in fresh memory | a call for each page, or more memory ahead than a sixteenth |
//! | staged functions, holes and other threads in the same span | zeros over code |
//! | a system that refuses the call | a publication that fails with it, pages that a trim does not find |
//!
//! The tests print `NOT RUN` on systems without the mode. The calls are counted by a system that
//! passes them on. With pages of 64 KiB there is nothing to get at once.

use std::thread;

use fastrand::Rng;

use super::SPAN_BYTES;
use crate::space::Run;
use crate::space::granules::span_of;
use crate::tests::common::{asm, call, not_run, often};
#[cfg(target_os = "linux")]
use crate::tests::common::{child, fork, maps};
use crate::tests::faulty::Faulty;
use crate::{ArenaBuilder, CodeArena, CodeBlock, Error, WxMode};

const CAPACITY: usize = 8 << 20;
/// As many functions as take some megabytes.
const COUNT: u32 = 8_000;
const LEN: usize = 500;
/// The space that each takes.
const SPACE: usize = 512;

/// Returns an arena, and the system that counts its calls from now on.
fn arena(test: &str) -> Option<(CodeArena, &'static Faulty)> {
    build(test, CodeArena::builder().capacity(CAPACITY))
}

fn build(test: &str, builder: ArenaBuilder) -> Option<(CodeArena, &'static Faulty)> {
    let os = Faulty::leaked();
    match builder.mode(WxMode::FileWrite).os(os).build() {
        Ok(arena) => {
            os.take_log();
            Some((arena, os))
        }
        Err(Error::Unsupported { why, .. }) => {
            not_run(test, &why);
            None
        }
        Err(other) => panic!("{other}"),
    }
}

fn publish(arena: &CodeArena, n: u32) -> CodeBlock {
    arena.publish(&asm::padded(n, LEN)).unwrap()
}

fn count(log: &[&str], what: &str) -> usize {
    log.iter().filter(|call| **call == what).count()
}

fn page_size(arena: &CodeArena) -> usize {
    arena.core().memory.page_size()
}

/// Checks that memory was got ahead several times.
fn check_prefaulted(arena: &CodeArena, os: &Faulty) {
    assert!(count(&os.take_log(), "prefault") > 10 || page_size(arena) > 32 << 10);
}

/// Checks that everything runs, and that nothing is left when it is dropped.
fn check(arena: &CodeArena, blocks: Vec<(u32, CodeBlock)>) {
    assert!(blocks.iter().all(|(n, block)| call(block) == *n));
    drop(blocks);
    arena.trim().unwrap();
    let stats = arena.stats();
    assert_eq!((stats.free_bytes, stats.resident_bytes), (stats.capacity, 0), "{stats}");
    // So the system says too, also of pages that no function was written to.
    #[cfg(target_os = "linux")]
    assert_eq!(maps::resident(arena.core().memory.address(0).addr(), stats.capacity), 0);
}

#[test]
fn fresh_pages_come_by_few_calls_and_are_few() {
    let Some((arena, os)) = arena("fresh_pages_come_by_few_calls_and_are_few") else { return };
    let mut blocks = Vec::new();
    for n in 0..COUNT {
        blocks.push((n, publish(&arena, n)));
        let stats = arena.stats();
        let used = (n as usize + 1) * SPACE;
        let most = used + used / 16 + page_size(&arena);
        assert!(stats.resident_bytes <= most, "{n}: {used} used, {stats}");
    }
    let log = os.take_log();
    // One call for 16 KiB at most. In the beginning it is less, and up to two pages it is no call.
    let (calls, pieces) = (count(&log, "prefault"), arena.stats().resident_bytes / (16 << 10));
    let expected = if page_size(&arena) > 32 << 10 { 0..=0 } else { pieces / 2..=2 * pieces };
    assert!(expected.contains(&calls), "{calls} calls for {pieces} pieces");
    assert_eq!(count(&log, "write"), COUNT as usize);
    check(&arena, blocks);
}

/// A small arena has no memory ahead.
#[test]
fn a_few_functions_have_their_own_pages_only() {
    let Some((arena, os)) = arena("a_few_functions_have_their_own_pages_only") else { return };
    let blocks: Vec<_> = (0..200).map(|n| (n, publish(&arena, n))).collect();
    assert_eq!(count(&os.take_log(), "prefault"), 0);
    assert_eq!(arena.stats().resident_bytes, (200 * SPACE).next_multiple_of(page_size(&arena)));
    check(&arena, blocks);
}

#[test]
fn zeros_never_cover_code() {
    let Some((arena, os)) = arena("zeros_never_cover_code") else { return };
    let mut blocks: Vec<_> = (0..COUNT / 2).map(|n| (n, publish(&arena, n))).collect();
    for round in 0..40 {
        // Placed before the functions below, and published after them.
        let mut batch = arena.batch();
        let staged = 0..1 + round * 3;
        staged.clone().for_each(|n| assert!(batch.push(&asm::padded(n, 700)).is_ok()));
        blocks.extend((0..20).map(|n| (n, publish(&arena, n))));
        let dropped = batch_of_one(&arena, 90_000);
        blocks.extend(staged.zip(batch.publish().unwrap()));
        blocks.extend((0..20).map(|n| (n, publish(&arena, n))));
        drop(dropped);
    }
    check_prefaulted(&arena, os);
    check(&arena, blocks);
}

fn batch_of_one(arena: &CodeArena, len: usize) -> CodeBlock {
    let mut batch = arena.batch();
    batch.push(&asm::padded(1, len)).unwrap();
    batch.publish().unwrap().pop().unwrap()
}

/// The pages are those that a search of granule by granule finds: free but for the function,
/// without memory, in its span. Batches that are not published yet have space without memory.
#[test]
fn only_free_pages_without_memory_are_got() {
    const NAME: &str = "only_free_pages_without_memory_are_got";
    // The last span is a part of one.
    let Some((arena, _)) = build(NAME, CodeArena::builder().capacity((2 << 20) + (20 << 10))) else { return };
    let (core, mut rng) = (arena.core(), Rng::with_seed(7));
    let (granules, page) = (core.heaps.granules(), core.page());
    let (mut blocks, mut batches, mut found) = (Vec::new(), Vec::new(), [0; 17]);
    for step in 0..often(3_000) as u32 {
        match rng.u32(..8) {
            0 | 1 => blocks.push((step, arena.publish(&asm::padded(step, 32 + rng.usize(..9_000))).unwrap())),
            2 | 3 => {
                let mut batch = arena.batch();
                (0..rng.u32(..20)).for_each(|_| assert!(batch.push(&asm::padded(1, 32 + rng.usize(..4_000))).is_ok()));
                batches.push(batch);
            }
            4 | 5 if !batches.is_empty() => drop(batches.swap_remove(rng.usize(..batches.len()))),
            _ if !blocks.is_empty() => drop(blocks.swap_remove(rng.usize(..blocks.len()))),
            _ => {}
        }
        while blocks.len() > 100 || batches.len() > 30 {
            blocks.truncate(50);
            batches.truncate(20);
            arena.trim().unwrap();
        }
        let at = rng.u32(..granules.len() - 1);
        let (start, most) = (granules.next_free(at, granules.len() - 1), rng.u32(1..=16));
        let run =
            Run { start, end: granules.next_taken(start, (start + 1 + at % 300).min(granules.len())).max(start + 1) };
        let first = run.start.next_multiple_of(page);
        let is_ours = |at: &u32| {
            let within = Run::new(*at, page);
            let inside = within.end <= granules.len() && span_of(*at) == span_of(run.start);
            let free = |at: u32| (run.start..run.end).contains(&at) || !granules.is_taken(at);
            inside && granules.count_resident(within) == 0 && (within.start..within.end).all(free)
        };
        let count = (first..).step_by(page as usize).take_while(is_ours).take(most as usize).count() as u32;
        assert_eq!(core.free_pages(run, most), Run::new(first, count * page), "{step}: {run:?}, {most}");
        found[count as usize] += 1;
    }
    // As many as a span has pages, if these are not few.
    let kinds = found.iter().filter(|times| **times > 0).count();
    assert!(found[0] > 0 && found[1] > 0 && kinds >= 4.min(SPAN_BYTES / page_size(&arena) + 1), "{found:?}");
    drop(batches);
    check(&arena, blocks);
}

/// Threads place functions in one heap, so that one writes where the other gets memory. The space
/// of a batch has no memory until it is written, and does not count as resident until the batch is
/// published.
#[test]
fn zeros_never_cover_code_of_another_thread() {
    let Some((arena, os)) = arena("zeros_never_cover_code_of_another_thread") else { return };
    let work = |seed: u32| {
        arena.go_to_heap(0);
        let mut blocks = Vec::new();
        for round in 0..COUNT / 80 {
            let mut batch = arena.batch();
            let numbers = seed + 100 * round..seed + 100 * round + 20;
            numbers.clone().for_each(|n| assert!(batch.push(&asm::padded(n, 600)).is_ok()));
            blocks.extend((0..20).map(|n| (n, publish(&arena, n))));
            blocks.extend(numbers.zip(batch.publish().unwrap()));
        }
        blocks
    };
    let blocks = thread::scope(|scope| {
        let other = scope.spawn(|| work(20_000));
        let mut blocks = work(0);
        blocks.extend(other.join().unwrap());
        blocks
    });
    check_prefaulted(&arena, os);
    check(&arena, blocks);
}

#[test]
fn a_refusal_costs_no_publication() {
    let Some((arena, os)) = arena("a_refusal_costs_no_publication") else { return };
    os.refuse(&["prefault"]);
    let mut blocks: Vec<_> = (0..COUNT).map(|n| (n, publish(&arena, n))).collect();
    check_prefaulted(&arena, os);
    // Behind the last function a page got memory before the refusal. It counts.
    while page_size(&arena) <= 32 << 10 && count(&os.take_log(), "prefault") == 0 {
        blocks.push((7, publish(&arena, 7)));
    }
    #[cfg(target_os = "linux")]
    {
        let stats = arena.stats();
        let resident = maps::resident(arena.core().memory.address(0).addr(), stats.capacity);
        assert!(resident <= stats.resident_bytes, "{resident}, {stats}");
    }
    check(&arena, blocks);
}

/// A forked child that is in the middle of it, because a handler of signals forked there, leaves
/// its parent's code alone.
#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_prefaults_nothing() {
    const NAME: &str = "a_forked_child_prefaults_nothing";
    child::run(NAME, || {
        let Some((arena, _)) = arena(NAME) else { return };
        let block = publish(&arena, 7);
        let code = block.as_bytes().to_vec();
        let memory = &arena.core().memory;
        // SAFETY: the child runs no code of the arena. The parent's stays as it is.
        assert!(fork::fork(|| unsafe { memory.prefault(0..memory.page_size()) }));
        assert_eq!(block.as_bytes(), code);
        // The control: in this process it writes zeros.
        // SAFETY: nobody runs the block or needs its content any more.
        unsafe { memory.prefault(0..memory.page_size()) };
        assert!(block.as_bytes().iter().all(|byte| *byte == 0));
    });
}

/// Functions that lie far from each other leave their span empty, and nothing behind them is used.
#[test]
fn functions_far_from_each_other_have_little_ahead() {
    let Some((arena, _)) = arena("functions_far_from_each_other_have_little_ahead") else { return };
    let code = asm::constant(5);
    let far = |_| arena.publish(crate::Code::new(&code).align(SPAN_BYTES)).unwrap();
    let blocks: Vec<_> = (0..CAPACITY / SPAN_BYTES - 1).map(|n| (5, far(n))).collect();
    let pages = arena.stats().resident_bytes / page_size(&arena);
    assert!(pages <= blocks.len() + blocks.len() / 16 + 2, "{pages} pages for {} functions", blocks.len());
    check(&arena, blocks);
}

/// Poison fills what is free with traps, so there are no zeros to be had.
#[test]
fn poison_gets_nothing_ahead() {
    let builder = CodeArena::builder().capacity(CAPACITY).poison(true);
    let Some((arena, os)) = build("poison_gets_nothing_ahead", builder) else { return };
    let blocks: Vec<_> = (0..COUNT).map(|n| (n, publish(&arena, n))).collect();
    assert_eq!(count(&os.take_log(), "prefault"), 0);
    check(&arena, blocks);
}
