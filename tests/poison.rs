//! A stale call stops: in a function that was dropped, trimmed or not, in the padding, in a page that never held code, and at an
//! address that a batch named which was given up.
//!
//! Each call is made in a forked child, with `rax` at memory of its own: zeros are `add [rax], al`, which would run on into the
//! next function and return.
#![cfg(all(unix, target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{asm, call, child, modes};
use gaia_jit::{ArenaBuilder, CodeArena, CodeBlock, WxMode};

const PAGE: usize = 4096;

fn arena(mode: WxMode, poison: bool) -> CodeArena {
    builder(mode, poison).build().unwrap()
}

fn builder(mode: WxMode, poison: bool) -> ArenaBuilder {
    CodeArena::builder().capacity(1 << 20).mode(mode).poison(poison)
}

/// The signal that ends a call, or `None` if it returned.
fn ends_by(address: *const u8) -> Option<i32> {
    // SAFETY: the child makes one call and ends; it takes no lock.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: takes a number only. Whatever it runs, it ends.
        unsafe { libc::alarm(10) };
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGTRAP] {
            // SAFETY: the default is to end the process.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        let mut own = [0_u8; 256];
        // SAFETY: that it is no function is the point; what comes of it ends with the child.
        unsafe {
            std::arch::asm!("call {f}", f = in(reg) address, inout("rax") own.as_mut_ptr() => _, clobber_abi("C"));
        }
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: `status` is valid for the call to write to.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
}

#[track_caller]
fn stops(address: *const u8, what: &str) {
    let ended = ends_by(address);
    let stopped = matches!(ended, Some(libc::SIGTRAP | libc::SIGSEGV | libc::SIGILL | libc::SIGBUS));
    assert!(stopped, "{what}: {ended:?}");
}

/// Page by page, so that what runs on out of one page gets into a function.
fn pages_of_code(arena: &CodeArena, count: u32) -> Vec<CodeBlock> {
    let mut batch = arena.batch();
    (0..count).for_each(|n| assert!(batch.push(&asm::padded(n, PAGE)).is_ok()));
    let blocks = batch.publish().unwrap();
    assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n));
    blocks
}

#[test]
fn a_dropped_function_stops_and_after_a_trim_too() {
    child::run("a_dropped_function_stops_and_after_a_trim_too", || {
        for mode in modes() {
            // Staged, and in pages of their own.
            for count in [4, 40] {
                let arena = arena(mode, true);
                let mut blocks = pages_of_code(&arena, count);
                assert_eq!(ends_by(blocks[1].as_ptr()), None, "{mode:?}: the control");
                let address = blocks.remove(1).as_ptr();
                if arena.stats().fills_holes {
                    stops(address, &format!("{mode:?}: dropped"));
                }
                let trimmed = arena.trim().unwrap();
                if trimmed > 0 || arena.stats().fills_holes {
                    stops(address, &format!("{mode:?}: trimmed"));
                    stops(address.wrapping_add(PAGE - 16), &format!("{mode:?}: trimmed"));
                }
                // And the space serves again.
                blocks.extend(pages_of_code(&arena, 1));
                let again = arena.publish(&asm::constant(77)).unwrap();
                assert_eq!(call(&again), 77);
                if arena.stats().fills_holes {
                    stops(again.as_ptr().wrapping_add(16), &format!("{mode:?}: beside what is new in a page"));
                }
                assert_eq!(call(&blocks[0]), 0);
                assert_eq!(call(&blocks[1]), 2);
            }
        }
    });
}

/// What the calls above would do where pages without memory are executable.
#[test]
fn the_control_runs_on() {
    child::run("the_control_runs_on", || {
        let arena = arena(WxMode::Flip, false);
        let mut blocks = pages_of_code(&arena, 4);
        let address = blocks.remove(1).as_ptr();
        if cfg!(target_os = "linux") && arena.trim().unwrap() > 0 {
            assert_eq!(ends_by(address), None);
        }
        assert_eq!(call(&blocks[0]), 0);
    });
}

#[test]
fn padding_stops() {
    child::run("padding_stops", || {
        for mode in modes() {
            for poison in [false, true] {
                let arena = arena(mode, poison);
                let short: Vec<_> =
                    [6, 500, 1_017].iter().map(|len| arena.publish(&asm::padded(1, *len)).unwrap()).collect();
                // For longer ones it would be a second call of the system.
                let long =
                    [3_001, 70_001].iter().filter(|_| poison).map(|len| arena.publish(&asm::padded(1, *len)).unwrap());
                let long: Vec<_> = long.collect();
                let mut batch = arena.batch();
                [7, 900, 5_001].iter().for_each(|len| assert!(batch.push(&asm::padded(1, *len)).is_ok()));
                let batch = batch.publish().unwrap();
                let behind = arena.publish(&asm::constant(5)).unwrap();
                for block in short.iter().chain(&long).chain(&batch) {
                    stops(block.as_ptr().wrapping_add(block.len()), &format!("{mode:?}: behind {} bytes", block.len()));
                }
                assert_eq!(call(&behind), 5);
            }
        }
    });
}

#[test]
fn a_page_that_never_held_code_stops() {
    child::run("a_page_that_never_held_code_stops", || {
        for mode in modes() {
            if cfg!(not(any(target_os = "linux", target_os = "android"))) {
                continue;
            }
            let arena = arena(mode, true);
            let first = arena.publish(&asm::constant(1)).unwrap();
            let base = first.as_ptr().addr() & !(PAGE - 1);
            let at = |offset: usize| first.as_ptr().wrapping_add(base - first.as_ptr().addr() + offset);
            for offset in [48, PAGE - 16, PAGE, 5 * PAGE + 64, (1 << 20) - PAGE] {
                stops(at(offset), &format!("{mode:?}: at {offset}"));
            }
            // What a batch opened and did not use, and what it left out for alignment.
            let mut batch = arena.batch();
            let slots: Vec<_> = (0..70).map(|n| batch.push(&asm::padded(n, 1_010)).unwrap()).collect();
            let aligned = batch.reserve(8, 3 * PAGE / 3).unwrap();
            batch.bytes_mut(aligned)[..6].copy_from_slice(&asm::constant(9));
            let aligned = batch.address(aligned);
            let blocks = batch.publish().unwrap();
            assert!((0..70).zip(&slots).all(|(n, slot)| call(&blocks[slot.index()]) == n));
            for offset in [16, 64, PAGE - 16, PAGE, 2 * PAGE + 160] {
                stops(aligned.wrapping_add(offset), &format!("{mode:?}: behind a batch, {offset}"));
            }
            stops(aligned.wrapping_sub(16), &format!("{mode:?}: before an aligned function"));
            assert_eq!(call(&first), 1);
        }
    });
}

#[test]
fn an_address_of_a_batch_that_was_given_up_stops() {
    child::run("an_address_of_a_batch_that_was_given_up_stops", || {
        for mode in modes() {
            for (poison, count) in [(false, 5), (false, 100), (true, 5), (true, 100)] {
                let arena = arena(mode, poison);
                let kept = arena.publish(&asm::constant(3)).unwrap();
                let mut batch = arena.batch();
                let slots: Vec<_> = (0..count).map(|n| batch.push(&asm::padded(n, 1_000)).unwrap()).collect();
                if count == 5 {
                    // Written, and to be written again.
                    batch.bytes_mut(slots[2])[0] = asm::constant(1)[0];
                }
                let named: Vec<_> = slots.iter().map(|slot| batch.address(*slot)).collect();
                drop(batch);
                let behind = arena.publish(&asm::padded(4, 3 * PAGE)).unwrap();
                let live = |address: &&*const u8| arena.lookup(**address).is_none();
                // What is in ordinary memory until it is published never came there. What was there before is another matter.
                let staged = !poison && matches!(mode, WxMode::Flip | WxMode::FileWrite);
                for address in named.iter().filter(live) {
                    if staged {
                        assert!(count == 5 || !matches!(&read(*address)[..], [0xb8, ..]), "{mode:?}: code is there");
                    } else {
                        stops(*address, &format!("{mode:?}, poison {poison}, {count} functions"));
                    }
                }
                assert_eq!((call(&kept), call(&behind)), (3, 4));
            }
        }
    });
}

/// What a function reserved and did not need holds nothing that was written there.
#[test]
fn the_end_that_was_not_needed_stops() {
    child::run("the_end_that_was_not_needed_stops", || {
        for mode in modes() {
            for len in [600, 100_000] {
                let arena = arena(mode, true);
                let write = |_: *const u8, bytes: &mut [u8]| {
                    for at in [0, 304, len - 64] {
                        bytes[at..at + 6].copy_from_slice(&asm::constant(6));
                    }
                    Ok(32)
                };
                let block = arena.publish_with(gaia_jit::Reserve::new(len), write).unwrap();
                let behind = arena.publish(&asm::padded(7, 8 * PAGE)).unwrap();
                for address in [304, len - 64].map(|at| block.as_ptr().wrapping_add(at)) {
                    if arena.lookup(address).is_none() {
                        stops(address, &format!("{mode:?}: of {len} bytes"));
                    }
                }
                assert_eq!((call(&block), call(&behind)), (6, 7));
            }
        }
    });
}

const GRANULE: usize = 16;

/// Executable granules of an arena that are neither traps nor a function's: the offset of the first, and how many there are.
#[cfg(target_os = "linux")]
fn neither_code_nor_traps(arena: &CodeArena) -> Option<(usize, usize)> {
    executable(arena, |bytes| bytes != [0xcc; GRANULE])
}

/// Executable granules of an arena that are `wrong`, unless they are a function's.
#[cfg(target_os = "linux")]
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
        // SAFETY: mapped and readable, and nobody writes there meanwhile.
        let bytes = unsafe { std::slice::from_raw_parts(base.wrapping_add(start), to - from) };
        let granules = (start / GRANULE..).zip(bytes.chunks(GRANULE));
        found.extend(granules.filter(|(at, bytes)| !is_code[*at] && wrong(bytes)).map(|(at, _)| at * GRANULE));
    }
    found.first().map(|first| (*first, found.len()))
}

/// The last page that a function was cut off in holds memory, so it is executable, to its end.
#[cfg(target_os = "linux")]
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

/// Whatever is done, what is executable is code or traps.
#[cfg(target_os = "linux")]
#[test]
fn what_is_executable_is_code_or_traps() {
    for mode in modes() {
        for seed in 0..common::often(20) as u64 {
            let arena = arena(mode, true);
            let mut life = Life { rng: fastrand::Rng::with_seed(seed), blocks: Vec::new() };
            for _ in 0..40 {
                let step = life.step(&arena);
                assert_eq!(neither_code_nor_traps(&arena), None, "{mode:?}, seed {seed}: {step}");
            }
        }
    }
}

/// What the system may come to refuse, and how to bring that about.
#[cfg(target_os = "linux")]
type Refusal = (&'static str, fn() -> bool);

#[cfg(target_os = "linux")]
fn refusals() -> Vec<Refusal> {
    use common::sandbox::deny;
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

/// The same whatever the system comes to refuse amid all that.
#[cfg(target_os = "linux")]
#[test]
fn what_is_executable_is_no_zeros_whatever_is_refused() {
    const NAME: &str = "what_is_executable_is_no_zeros_whatever_is_refused";
    child::run(NAME, || {
        for (refused, refuse) in refusals() {
            if !common::fork::fork(|| assert!(refuse())) {
                common::not_run(NAME, &format!("cannot refuse {refused} here"));
                continue;
            }
            for mode in modes() {
                for seed in 0..3 {
                    let live = || {
                        // So that the global allocator need not ask the system.
                        drop(vec![1_u8; 8 << 20]);
                        let arena = arena(mode, true);
                        let mut life = Life { rng: fastrand::Rng::with_seed(seed), blocks: Vec::new() };
                        let mut batch = arena.batch();
                        for n in 0..40 {
                            if n == 10 {
                                // One that meets it as it is published.
                                batch = arena.batch();
                                (0..30).for_each(|_| drop(batch.push(&vec![0xc3; 4_000])));
                                assert!(refuse());
                            } else if n == 15 {
                                life.blocks
                                    .extend(std::mem::replace(&mut batch, arena.batch()).publish().unwrap_or_default());
                            }
                            let step = life.step(&arena);
                            // (Where a write is refused, what was to be overwritten stays.)
                            let found = executable(&arena, |bytes| bytes.contains(&0));
                            assert_eq!(found, None, "{mode:?}, {refused} refused, seed {seed}, step {n}: {step}");
                        }
                        // What the system would not take back then, the end of the process does.
                        std::mem::forget((life, batch, arena));
                    };
                    assert!(common::fork::fork(live), "{mode:?}: {refused} refused");
                }
            }
        }
    });
}

/// Pages that cannot be kept from being executable keep their memory; in `Flip` fresh ones take their place.
#[cfg(target_os = "linux")]
#[test]
fn a_trim_leaves_what_it_cannot_keep_from_being_executable() {
    const NAME: &str = "a_trim_leaves_what_it_cannot_keep_from_being_executable";
    child::run(NAME, || {
        let keeping = modes().map(|mode| builder(mode, true).keep_free(64 << 10).build().unwrap());
        let arenas: Vec<_> = modes().map(|mode| arena(mode, true)).chain(keeping).collect();
        let all: Vec<_> = arenas.iter().map(|arena| pages_of_code(arena, 100)).collect();
        if !common::sandbox::deny(libc::SYS_mprotect) || !common::sandbox::deny(libc::SYS_pkey_mprotect) {
            return common::not_run(NAME, "no filters here");
        }
        for (arena, mut blocks) in arenas.iter().zip(all) {
            let mode = arena.mode();
            // With `keep_free` this gives memory back already.
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
            // What holds memory is used again.
            let again = arena.publish(&asm::padded(9, 40 * PAGE)).unwrap();
            assert_eq!((call(&again), call(&blocks[3])), (9, 3), "{mode:?}");
        }
    });
}

#[cfg(target_os = "linux")]
struct Life {
    rng: fastrand::Rng,
    blocks: Vec<CodeBlock>,
}

#[cfg(target_os = "linux")]
impl Life {
    /// Does one step, whatever the system says to it; returns what it was.
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

fn read(address: *const u8) -> [u8; 6] {
    // SAFETY: inside of the arena, whose pages are mapped and readable.
    unsafe { address.cast::<[u8; 6]>().read() }
}

/// Memory of free stretches goes back, is used again, is put into huge pages: whatever is placed, it runs.
#[test]
fn what_is_placed_runs_whatever_was_trimmed() {
    for mode in modes() {
        let arena =
            CodeArena::builder().capacity(8 << 20).mode(mode).poison(true).keep_free(256 << 10).build().unwrap();
        let mut rng = fastrand::Rng::with_seed(7);
        let mut live: Vec<(u32, CodeBlock)> = Vec::new();
        for round in 0..60 {
            for _ in 0..rng.usize(..40) {
                let n = rng.u32(..30_000);
                let len = [20, 200, 3_000, 9_000, 70_000][rng.usize(..5)];
                live.push((n, arena.publish(&asm::padded(n, len)).unwrap()));
            }
            let mut batch = arena.batch();
            let numbers: Vec<u32> = (0..rng.usize(..90)).map(|_| rng.u32(..30_000)).collect();
            numbers.iter().for_each(|n| assert!(batch.push(&asm::padded(*n, 1_500)).is_ok()));
            if round % 5 != 4 {
                live.extend(numbers.into_iter().zip(batch.publish().unwrap()));
            }
            assert!(live.iter().all(|(n, block)| call(block) == *n), "{mode:?}");
            live.retain(|_| rng.u8(..10) < 4);
            match round % 7 {
                3 => assert!(arena.trim().is_ok()),
                5 => drop(arena.collapse()),
                _ => {}
            }
            assert!(live.iter().all(|(n, block)| call(block) == *n), "{mode:?}");
        }
        live.clear();
        arena.trim().unwrap();
        assert_eq!(arena.stats().free_bytes, 8 << 20);
    }
}

/// Where nothing becomes executable that was not before, pages cannot be kept from it either, and all is as without poison. An arena
/// that was there before goes on: in `Flip` with all of its space, elsewhere in the pages that hold memory.
#[cfg(target_os = "linux")]
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
            // There is room in its page.
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
                    assert_ne!(mode, WxMode::Flip);
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
