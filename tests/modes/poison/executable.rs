//! Tests of what is executable: functions and traps only.
//!
//! Each test reads all executable granules of an arena (`common::maps::executable`). A granule that
//! is not in a live block has to be a trap. Where holes are not filled or calls are refused, it may
//! be old code, but it must not contain zeros.
//!
//! - *Ends*: a function that uses less than it reserved leaves traps in its last page.
//! - *Random lives*: `Life` publishes, drops, trims, collapses and shrinks, with one check after
//!   each step.
//! - *Refusals*: the same lives, in which the system refuses one or two calls from step 10 on.
//! - *Policies*: `trim` without `mprotect`, and `PR_SET_MDWE`.
//!
//! Refusals and policies cannot be withdrawn, so tests with them use child processes. Without
//! filters or the policy, and for `mmap` with sanitizers or musl, `NOT RUN` is printed. The checks
//! exist to catch a page that loses its memory and stays executable, because it reads as zeros.

use gaia_jit::{CodeArena, CodeBlock, WxMode};

use super::{PAGE, arena, builder, pages_of_code, stops};
use crate::common::{self, asm, call, child, modes};

const GRANULE: usize = 16;

/// Returns executable granules of an arena that are neither traps nor part of a function: the
/// offset of the first, and their number.
fn neither_code_nor_traps(arena: &CodeArena) -> Option<(usize, usize)> {
    executable(arena, |bytes| bytes != [0xcc; GRANULE])
}

/// Returns executable granules of an arena that are `wrong` and not part of a function.
fn executable(arena: &CodeArena, wrong: impl Fn(&[u8]) -> bool) -> Option<(usize, usize)> {
    let (base, len) = (arena.base(), arena.capacity());
    let mut is_code = vec![false; len / GRANULE];
    for block in arena.blocks() {
        let start = (block.start.addr() - base.addr()) / GRANULE;
        is_code[start..start + block.len.div_ceil(GRANULE)].fill(true);
    }
    let mut found = Vec::new();
    for (from, to) in common::maps::executable(base.addr(), len) {
        let start = from - base.addr();
        // SAFETY: the memory is mapped and readable, and nobody writes there meanwhile.
        let bytes = unsafe { std::slice::from_raw_parts(base.wrapping_add(start), to - from) };
        let granules = (start / GRANULE..).zip(bytes.chunks(GRANULE));
        found.extend(granules.filter(|(at, bytes)| !is_code[*at] && wrong(bytes)).map(|(at, _)| at * GRANULE));
    }
    found.first().map(|first| (*first, found.len()))
}

/// The last page in which a function was placed holds memory, so it is executable to its end.
#[test]
fn a_page_that_a_cut_ends_in_is_full_of_traps() {
    for mode in modes() {
        for (len, used) in [(70_000, 6), (65_537, 33), (100_001, 60_000), (131_072, 5_000), (70_000, 69_990)] {
            let arena = arena(mode, true);
            let write = |_: *const u8, bytes: &mut [u8]| {
                bytes.fill(0x90);
                bytes[..6].copy_from_slice(&asm::constant(8));
                Ok(used)
            };
            let block = arena.publish_with(gaia_jit::Reserve::new(len), write).unwrap();
            assert_eq!((call(&block), block.len()), (8, used));
            assert_eq!(neither_code_nor_traps(&arena), None, "{mode:?}: {used} of {len}");
        }
    }
}

/// Returns what the promise of poison excludes. Where holes are not filled, dropped code stays
/// until its pages are empty, but zeros are never executable.
fn wrong(arena: &CodeArena) -> Option<(usize, usize)> {
    match arena.stats().fills_holes {
        true => neither_code_nor_traps(arena),
        false => executable(arena, |bytes| bytes.contains(&0)),
    }
}

/// After any operations, everything executable is code or traps.
#[test]
fn what_is_executable_is_code_or_traps() {
    for mode in modes() {
        for seed in 0..common::often(20) as u64 {
            let arena = arena(mode, true);
            let mut life = Life { rng: fastrand::Rng::with_seed(seed), blocks: Vec::new() };
            for _ in 0..40 {
                let step = life.step(&arena);
                assert_eq!(wrong(&arena), None, "{mode:?}, seed {seed}: {step}");
            }
        }
    }
}

/// The refusals of the system, and how to cause them.
type Refusal = (&'static str, fn() -> bool);

fn refusals() -> Vec<Refusal> {
    use crate::common::sandbox::deny;
    const PR_SET_MDWE: libc::c_int = 65;
    vec![
        // SAFETY: takes numbers only.
        ("new executable pages", || unsafe { libc::prctl(PR_SET_MDWE, 1, 0, 0, 0) } == 0),
        ("mprotect", || deny(libc::SYS_mprotect)),
        ("pkey_mprotect", || deny(libc::SYS_pkey_mprotect)),
        ("madvise", || deny(libc::SYS_madvise)),
        ("fallocate", || deny(libc::SYS_fallocate)),
        ("mmap", || deny(libc::SYS_mmap)),
        ("mprotect and madvise", || deny(libc::SYS_mprotect) && deny(libc::SYS_madvise)),
        ("a write", || deny(libc::SYS_pwrite64)),
        ("mprotect and a write", || deny(libc::SYS_mprotect) && deny(libc::SYS_pwrite64)),
    ]
}

/// The same if the system refuses calls in the middle of these operations.
#[test]
fn what_is_executable_is_no_zeros_whatever_is_refused() {
    const NAME: &str = "what_is_executable_is_no_zeros_whatever_is_refused";
    child::run(NAME, || {
        for (refused, refuse) in refusals() {
            // Sanitizers, and musl's allocator, map memory again and again, and end the process if
            // they get none.
            if refused == "mmap" && (common::sanitized() || cfg!(target_env = "musl")) {
                common::not_run(NAME, "others in this process need mmap");
                continue;
            }
            if !common::fork::fork(|| assert!(refuse())) {
                common::not_run(NAME, &format!("cannot refuse {refused} here"));
                continue;
            }
            for mode in modes() {
                for seed in 0..3 {
                    let live = || {
                        // Memory for the global allocator, so that it does not ask the system.
                        drop(vec![1_u8; 8 << 20]);
                        let arena = arena(mode, true);
                        let mut life = Life { rng: fastrand::Rng::with_seed(seed), blocks: Vec::new() };
                        let mut batch = arena.batch();
                        for n in 0..40 {
                            if n == 10 {
                                // A batch that meets the refusal when it is published.
                                batch = arena.batch();
                                (0..30).for_each(|_| drop(batch.push(&vec![0xc3; 4_000])));
                                assert!(refuse());
                            } else if n == 15 {
                                life.blocks
                                    .extend(std::mem::replace(&mut batch, arena.batch()).publish().unwrap_or_default());
                            }
                            let step = life.step(&arena);
                            // (If a write is refused, the bytes that it was to overwrite stay.)
                            let found = executable(&arena, |bytes| bytes.contains(&0));
                            assert_eq!(found, None, "{mode:?}, {refused} refused, seed {seed}, step {n}: {step}");
                        }
                        // Memory that the system did not take back is released when the process
                        // ends.
                        std::mem::forget((life, batch, arena));
                    };
                    assert!(common::fork::fork(live), "{mode:?}: {refused} refused");
                }
            }
        }
    });
}

/// Pages that cannot be made non-executable keep their memory. In `Flip` fresh pages replace them.
#[test]
fn a_trim_leaves_what_it_cannot_keep_from_being_executable() {
    const NAME: &str = "a_trim_leaves_what_it_cannot_keep_from_being_executable";
    if common::sanitized() {
        return common::not_run(NAME, "at its end a sanitizer protects pages");
    }
    child::run(NAME, || {
        let keeping = modes().map(|mode| builder(mode, true).keep_free(64 << 10).build().unwrap());
        let arenas = modes().map(|mode| arena(mode, true)).chain(keeping);
        // Where holes are not filled, dropped code stays.
        let arenas: Vec<_> = arenas.filter(|arena| arena.stats().fills_holes).collect();
        let all: Vec<_> = arenas.iter().map(|arena| pages_of_code(arena, 100)).collect();
        if !common::sandbox::deny(libc::SYS_mprotect) || !common::sandbox::deny(libc::SYS_pkey_mprotect) {
            return common::not_run(NAME, "no filters here");
        }
        for (arena, mut blocks) in arenas.iter().zip(all) {
            let mode = arena.mode();
            // With `keep_free` this returns memory already.
            blocks.truncate(50);
            assert_eq!(neither_code_nor_traps(arena), None, "{mode:?}: dropped");
            for _ in 0..3 {
                let before = arena.stats().resident_bytes;
                let trimmed = arena.trim();
                assert_eq!(neither_code_nor_traps(arena), None, "{mode:?}: trimmed");
                match (mode, trimmed) {
                    (WxMode::Flip, Ok(bytes)) => assert_eq!(arena.stats().resident_bytes, before - bytes),
                    (_, Err(gaia_jit::Error::OperatingSystem { .. })) => {
                        assert_eq!(arena.stats().resident_bytes, before, "{mode:?}");
                    }
                    (_, other) => panic!("{mode:?}: {other:?}"),
                }
            }
            // Pages with memory are used again.
            let again = arena.publish(&asm::padded(9, 40 * PAGE)).unwrap();
            assert_eq!((call(&again), call(&blocks[3])), (9, 3), "{mode:?}");
        }
    });
}

struct Life {
    rng: fastrand::Rng,
    blocks: Vec<CodeBlock>,
}

impl Life {
    /// Does one step, and ignores refusals of the system. Returns the step.
    fn step(&mut self, arena: &CodeArena) -> String {
        let Self { rng, blocks } = self;
        match rng.u8(..9) {
            0 | 1 => {
                let most = if rng.bool() { 3_000 } else { 100_000 };
                let len = rng.usize(1..most);
                blocks.extend(arena.publish(&vec![0xc3; len]));
                format!("{len} bytes published")
            }
            2 => {
                let len = rng.usize(1..90_000);
                let used = rng.usize(1..=len);
                let write = |_: *const u8, bytes: &mut [u8]| {
                    bytes[..used].fill(0xc3);
                    bytes[used..].fill(0x90);
                    Ok(used)
                };
                blocks.extend(arena.publish_with(gaia_jit::Reserve::new(len), write));
                format!("{used} of {len} bytes used")
            }
            3 => {
                let (count, most) = (rng.usize(1..60), rng.usize(16..6_000));
                let mut batch = arena.batch();
                for _ in 0..count {
                    let (code, align) = (vec![0xc3; rng.usize(1..most)], 16 << rng.u32(..9));
                    let _ = batch.push(gaia_jit::Code::new(&code).align(align));
                }
                let published = rng.u8(..4) > 0;
                if published {
                    blocks.extend(batch.publish().unwrap_or_default());
                }
                format!("a batch of {count} of up to {most} bytes, published: {published}")
            }
            4 | 5 => {
                blocks.retain(|_| rng.u8(..3) > 0);
                "a third dropped".into()
            }
            6 => format!("trimmed: {:?}", arena.trim()),
            7 => {
                if rng.u8(..6) == 0 {
                    let _ = arena.collapse();
                }
                "collapsed".into()
            }
            _ => {
                if let Some(block) = blocks.last_mut() {
                    let len = rng.usize(1..=block.len());
                    block.shrink(len).unwrap();
                }
                "shrunk".into()
            }
        }
    }
}

/// If nothing can become executable that was not before, pages cannot be barred either, and
/// everything is as without poison. An arena that was built before continues: in `Flip` with its
/// whole space, in other modes in the pages that hold memory.
#[test]
fn a_policy_against_new_executable_pages() {
    const NAME: &str = "a_policy_against_new_executable_pages";
    child::run(NAME, || {
        const PR_SET_MDWE: libc::c_int = 65;
        let before: Vec<_> = modes().map(|mode| arena(mode, true)).collect();
        let blocks: Vec<_> = before.iter().map(|arena| arena.publish(&asm::constant(1)).unwrap()).collect();
        // SAFETY: takes numbers only.
        if unsafe { libc::prctl(PR_SET_MDWE, 1, 0, 0, 0) } != 0 {
            return common::not_run(NAME, "no PR_SET_MDWE");
        }
        for (arena, block) in before.iter().zip(&blocks) {
            let mode = arena.mode();
            // There is room in the page.
            if arena.stats().fills_holes {
                assert_eq!(call(&arena.publish(&asm::constant(2)).unwrap()), 2, "{mode:?}");
            }
            match arena.publish(&asm::padded(3, 100_000)) {
                Ok(large) => {
                    assert_eq!(call(&large), 3, "{mode:?}");
                    let address = large.as_ptr();
                    drop(large);
                    assert!(arena.trim().is_ok());
                    stops(address, &format!("{mode:?}: trimmed"));
                }
                Err(refused) => {
                    assert!(matches!(refused, gaia_jit::Error::OperatingSystem { .. }), "{refused}");
                    // `Flip` has another way, if the kernel writes.
                    assert!(mode != WxMode::Flip || !arena.stats().fills_holes);
                }
            }
            assert_eq!((call(block), arena.stats().live_blocks), (1, 1));
        }
        for mode in [WxMode::DualMap, WxMode::FileWrite] {
            let Ok(arena) = builder(mode, true).build() else { continue };
            let block = arena.publish(&asm::padded(4, 100_000)).unwrap();
            let small = arena.publish(&asm::constant(5)).unwrap();
            assert_eq!((call(&block), call(&small)), (4, 5));
            let address = block.as_ptr();
            drop(block);
            stops(address, &format!("{mode:?}: dropped"));
            assert!(arena.trim().is_ok());
            assert_eq!(call(&arena.publish(&asm::padded(6, 100_000)).unwrap()), 6);
        }
    });
}
