//! A policy that comes after the arena was built: from some call on, one kind of call is refused
//! for good. What the arena held it holds, and all of it can be used by the way in that is left.
//!
//! ```text
//! build --> life --> from call n on, calls of that kind fail --> fill the arena --> heal --> all is free
//! ```
//!
//! - *Which calls*: a first run of `life` records them. Then there is one run for each of them (for
//!   about a tenth of them on an emulated processor).
//! - *Which arenas*: each mode, with and without `poison`, and `Flip` also without the kernel
//!   write. Each is in a child process, so that they run at once.
//! - *Expected*: the arena can be filled to seven tenths, or the error has the kind
//!   `PermissionDenied` and no other way was left. Space that must be overwritten first may wait.
//!
//! The tests find space that is lost after a refusal, an arena that tries the refused way for ever,
//! and an `ArenaFull` that hides the refusal.

use std::collections::HashSet;

use super::common::{child, modes, often};
use super::faulty::Faulty;
use super::gives_back;
use super::refusals::{function, life};
use crate::{CodeArena, CodeBlock, Error, WxMode, icache};

const CAPACITY: usize = 1 << 20;

/// Publishes by turns alone and in batches until there is no more room. An error is one of the
/// system.
fn fill(arena: &CodeArena) -> Result<Vec<CodeBlock>, Error> {
    let mut blocks: Vec<CodeBlock> = Vec::new();
    loop {
        match arena.publish(&function(1, 3_000)) {
            Ok(block) => blocks.push(block),
            Err(Error::ArenaFull { .. }) => return Ok(blocks),
            Err(refused) => return Err(refused),
        }
        let mut batch = arena.batch();
        let pushed = (0..30).try_for_each(|n| batch.push(&function(n, 4_000)).map(drop));
        match pushed.and_then(|()| batch.publish()) {
            Ok(batch) => blocks.extend(batch),
            Err(Error::ArenaFull { .. }) => {}
            Err(refused) => return Err(refused),
        }
    }
}

/// The calls that a whole life makes after the arena was built.
fn calls(mode: WxMode, poison: bool, always: &[&'static str]) -> Vec<&'static str> {
    let os = Faulty::leaked();
    os.refuse(always);
    let arena = build(mode, poison, os).unwrap();
    os.take_log();
    life(&arena).unwrap();
    os.take_log()
}

fn build(mode: WxMode, poison: bool, os: &'static Faulty) -> Result<CodeArena, Error> {
    CodeArena::builder().capacity(CAPACITY).mode(mode).poison(poison).huge_pages(true).os(os).build()
}

/// `always` are calls that are refused from the start.
fn run(mode: WxMode, poison: bool, always: &[&'static str]) {
    let calls = calls(mode, poison, always);
    // On an emulated processor, from the first of each kind and every tenth.
    let step = 10 / often(10);
    let mut kinds = HashSet::new();
    // From each call on that is made, that kind of call is refused.
    for (n, call) in calls.into_iter().enumerate().filter(|(n, call)| kinds.insert(*call) || n % step == 0) {
        let os = Faulty::leaked();
        os.refuse(always);
        let arena = build(mode, poison, os).unwrap();
        let fills_holes = arena.stats().fills_holes;
        os.forbid(call, n);
        let _ = life(&arena);
        let stats = arena.stats();
        // What cannot be overwritten waits.
        let waits = poison && (call == "write" && mode == WxMode::FileWrite || call == "window write");
        // Pages that were open stay so where no others can take their place.
        let stuck = call == "seal" && !fills_holes && cfg!(not(any(target_os = "linux", target_os = "android")));
        let all = stats.free_bytes + if waits { stats.pending_bytes } else { 0 };
        assert!(stuck || all == CAPACITY, "{mode:?}: {call} from {n} on: {stats}");
        assert!(stuck || waits || stats.largest_hole == CAPACITY, "{mode:?}: {call} from {n} on");
        // The first that meets the refusal may fail; from then on the other way is taken.
        let mut filled = fill(&arena);
        for _ in 0..2 {
            if filled.is_err() {
                filled = fill(&arena);
            }
        }
        let what = format!("{mode:?}: {call} from {n} on: {:?}", filled.as_ref().map(Vec::len));
        let only_way = match call {
            "write" => mode == WxMode::FileWrite,
            // (A window is never refused; here it is.)
            "window write" => true,
            "open" | "seal" => !fills_holes,
            // Memory that is not committed cannot be written to.
            "commit shared" => true,
            _ => false,
        };
        // With poison, pages that hold no memory cannot be made executable, where no other way
        // leads there.
        let barred = poison && call == "seal" && mode != WxMode::Flip && !icache::ZEROS_TRAP;
        match filled {
            Err(Error::OperatingSystem { source, .. }) => {
                assert!((only_way || barred) && source.kind() == std::io::ErrorKind::PermissionDenied, "{what}");
            }
            Err(_) => panic!("{what}"),
            Ok(blocks) => {
                assert!(!only_way, "{what}");
                let used: usize = blocks.iter().map(CodeBlock::len).sum();
                assert!(used > CAPACITY / 10 * 7, "{what}: {used}");
                for block in &blocks {
                    // SAFETY: the code is of this type.
                    assert!(matches!(unsafe { block.as_fn::<extern "C" fn() -> u32>() }(), 1 | 2), "{what}");
                }
            }
        }
        os.heal();
        assert!(arena.trim().is_ok());
        assert_eq!(arena.stats().free_bytes, CAPACITY, "{mode:?}: {call} from {n} on");
        assert!(arena.trim().is_ok());
        assert!(arena.stats().resident_bytes == 0 || !gives_back(&arena));
    }
}

/// For one mode, if the system has it: a process of its own for each, so that they run at once.
fn in_a_child(test: &str, mode: WxMode, poison: bool) {
    in_a_child_without(test, mode, poison, &[]);
}

fn in_a_child_without(test: &str, mode: WxMode, poison: bool, always: &[&'static str]) {
    child::run(test, || {
        if modes().any(|there| there == mode) {
            run(mode, poison, always);
        }
    });
}

#[test]
fn flip_loses_nothing() {
    in_a_child("flip_loses_nothing", WxMode::Flip, false);
}

#[test]
fn flip_with_poison_loses_nothing() {
    in_a_child("flip_with_poison_loses_nothing", WxMode::Flip, true);
}

#[test]
fn flip_without_the_kernel_write_loses_nothing() {
    in_a_child_without("flip_without_the_kernel_write_loses_nothing", WxMode::Flip, false, &["writer"]);
}

#[test]
fn flip_without_the_kernel_write_with_poison_loses_nothing() {
    in_a_child_without("flip_without_the_kernel_write_with_poison_loses_nothing", WxMode::Flip, true, &["writer"]);
}

#[test]
fn dual_map_loses_nothing() {
    in_a_child("dual_map_loses_nothing", WxMode::DualMap, false);
}

#[test]
fn dual_map_with_poison_loses_nothing() {
    in_a_child("dual_map_with_poison_loses_nothing", WxMode::DualMap, true);
}

#[test]
fn per_thread_loses_nothing() {
    in_a_child("per_thread_loses_nothing", WxMode::PerThread, false);
}

#[test]
fn per_thread_with_poison_loses_nothing() {
    in_a_child("per_thread_with_poison_loses_nothing", WxMode::PerThread, true);
}

#[test]
fn file_write_loses_nothing() {
    in_a_child("file_write_loses_nothing", WxMode::FileWrite, false);
}

#[test]
fn file_write_with_poison_loses_nothing() {
    in_a_child("file_write_with_poison_loses_nothing", WxMode::FileWrite, true);
}

/// There is room, but in pages with live code only, and the write is refused: that is what is said,
/// and not that there is no room.
#[test]
fn a_hole_that_could_not_be_filled_is_not_said_to_be_missing() {
    for poison in [false, true] {
        let os = Faulty::leaked();
        let arena = build(WxMode::Flip, poison, os).unwrap();
        if !arena.stats().fills_holes {
            continue;
        }
        let mut blocks = Vec::new();
        while let Ok(block) = arena.publish(&function(1, 1_000)) {
            blocks.push(block);
        }
        let mut index = 0;
        blocks.retain(|_| {
            index += 1;
            index % 2 == 0
        });
        // Only now, because poison writes as well.
        let _ = arena.stats();
        os.fail_nth(0);
        let refused = arena.publish(&function(1, 500));
        assert!(matches!(refused, Err(Error::OperatingSystem { .. })), "{refused:?}");
        os.heal();
        assert!((0..3).any(|_| arena.publish(&function(1, 500)).is_ok()));
    }
}
