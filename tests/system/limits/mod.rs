//! Tests of what a process can be denied, most of them in a child process: memory, mappings, file
//! sizes, descriptors, the execute permission.
//!
//! - *Address space*: a refused build leaves nothing behind. Two views take no third mapping of
//!   their size.
//! - *File sizes*: a limit is an error and not the signal `SIGXFSZ`.
//! - *Descriptors*: if none is free, `Flip` is not built without its kernel write.
//! - *Data*: an arena may be larger than `RLIMIT_DATA`, because only writable memory is counted
//!   (not in `PerThread`).
//! - *Sizes*: a size that cannot be had is refused at once, and its memory is not touched.
//! - *Execution*: under `PR_SET_MDWE` the error of `Flip` contains the refused call. `fills_holes`
//!   agrees with what `kernel_writes` measures.
//!
//! `mappings` and `memory` have further limits. A limit stays until its process ends, so the tests
//! use children. `NOT RUN` is printed where an emulator would ignore the limit.

mod mappings;
mod memory;

use std::os::unix::fs::FileExt;

use crate::common::{self, LARGE, asm, call, call_at, child, modes, small};
use gaia_jit::{CodeArena, Error, JitMemory, WxMode};

// C libraries differ in the name of the type.
#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = libc::c_int;

fn limit(resource: Resource, bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes as libc::rlim_t, rlim_max: bytes as libc::rlim_t };
    // SAFETY: `limit` is valid for the call to read.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
}

/// A test that fails meanwhile has the limit lifted before it says so, because the message takes
/// memory, and the process could wait for ever for want of it.
fn limit_soft(resource: Resource, bytes: u64) {
    if bytes < u64::MAX {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            set_soft(resource, u64::MAX);
            print(panic);
        }));
    }
    set_soft(resource, bytes);
}

fn set_soft(resource: Resource, bytes: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the call to write to.
    assert_eq!(unsafe { libc::getrlimit(resource, &raw mut limit) }, 0);
    limit.rlim_cur = (bytes as libc::rlim_t).min(limit.rlim_max);
    // SAFETY: `limit` is valid for the call to read.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
}

#[test]
fn address_space_limit_is_an_error_and_passes() {
    if !common::own_kernel("address_space_limit_is_an_error_and_passes") {
        return;
    }
    child::run("address_space_limit_is_an_error_and_passes", || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let used = statm.split(' ').next().unwrap().parse::<u64>().unwrap() * region::page::size() as u64;
        let room = if cfg!(target_pointer_width = "64") { 200 << 20 } else { 40 << 20 };
        limit(libc::RLIMIT_AS, used + room);
        for mode in [WxMode::Flip, WxMode::DualMap] {
            let mut held = Vec::new();
            let refused = loop {
                match CodeArena::builder().mode(mode).capacity(LARGE).build() {
                    Ok(arena) => held.push(arena),
                    Err(refused) => break refused,
                }
            };
            assert!(matches!(refused, Error::OperatingSystem { .. }), "{refused:?}");
            drop(held);
            // A refusal leaves nothing behind: the largest arena that fits can be built again and
            // again.
            for _ in 0..50 {
                let Ok(arena) = CodeArena::builder().mode(mode).capacity(8 << 20).build() else {
                    assert_eq!(mode, WxMode::DualMap, "Flip works everywhere");
                    break;
                };
                assert_eq!(call(&arena.publish(&asm::constant(3)).unwrap()), 3);
            }
        }
        let blocks: Vec<_> = std::iter::from_fn(|| JitMemory::new(16 << 20).ok()).collect();
        assert!(blocks.len() < 30);
        assert!(matches!(JitMemory::new(64 << 20), Err(Error::OperatingSystem { .. })));
        drop(blocks);
        assert!(JitMemory::new(16 << 20).is_ok());
    });
}

/// The origin of the views takes no address space of its own. (For a moment the kernel counts both
/// a view and the mapping that it replaces.)
#[test]
fn two_views_need_no_third_mapping_of_their_size() {
    if !common::own_kernel("two_views_need_no_third_mapping_of_their_size")
        || !modes().any(|mode| mode == WxMode::DualMap)
    {
        return;
    }
    child::run("two_views_need_no_third_mapping_of_their_size", || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let used = statm.split(' ').next().unwrap().parse::<u64>().unwrap() * region::page::size() as u64;
        limit(libc::RLIMIT_AS, used + (112 << 20));
        let arena = CodeArena::builder().mode(WxMode::DualMap).capacity(32 << 20).build().unwrap();
        assert_eq!(call(&arena.publish(&asm::constant(3)).unwrap()), 3);
    });
}

#[test]
fn file_size_limit_is_an_error_not_a_signal() {
    child::run("file_size_limit_is_an_error_not_a_signal", || {
        limit(libc::RLIMIT_FSIZE, 1 << 20);
        match CodeArena::builder().mode(WxMode::DualMap).capacity(4 << 20).build() {
            Err(Error::OperatingSystem { call, source, .. }) => {
                assert!(call.contains("RLIMIT_FSIZE"), "{call}: {source}");
            }
            Err(Error::Unsupported { .. }) => {}
            // The memory is no file.
            Ok(arena) => assert_eq!(call(&arena.publish(&asm::constant(5)).unwrap()), 5),
            other => panic!("{other:?}"),
        }
        for mode in modes() {
            // Within the limit, and in `Flip` for every limit, because kernel writes do not count.
            let capacity = if mode == WxMode::Flip { 32 << 20 } else { 1 << 20 };
            let arena = CodeArena::builder().mode(mode).capacity(capacity).build().unwrap();
            let blocks: Vec<_> = (0..300).map(|n| arena.publish(&asm::padded(n, 2_000)).unwrap()).collect();
            assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n));
        }
    });
}

#[test]
fn without_descriptors_building_is_an_error() {
    if !common::own_kernel("without_descriptors_building_is_an_error") {
        return;
    }
    child::run("without_descriptors_building_is_an_error", || {
        limit_soft(libc::RLIMIT_NOFILE, 0);
        // A lack of descriptors passes, but an arena that was built without its kernel write would
        // stay without it.
        let refused = small(WxMode::Flip).build();
        assert!(matches!(refused, Err(Error::OperatingSystem { .. })), "{refused:?}");
        limit_soft(libc::RLIMIT_NOFILE, u64::MAX);
        let before: Vec<_> = modes().map(|mode| small(mode).build().unwrap()).collect();
        limit_soft(libc::RLIMIT_NOFILE, 0);
        // There is one descriptor for all of them, if the kernel writes. Otherwise none is kept.
        let fills_holes = before[0].stats().fills_holes;
        match small(WxMode::Flip).build() {
            Ok(arena) => assert_eq!(arena.stats().fills_holes, fills_holes),
            Err(refused) => assert!(!fills_holes && matches!(refused, Error::OperatingSystem { .. }), "{refused}"),
        }
        match small(WxMode::DualMap).build() {
            Err(Error::OperatingSystem { .. }) => {}
            // The memory is no file.
            Ok(arena) => assert_eq!(call(&arena.publish(&asm::constant(1)).unwrap()), 1),
            other => panic!("{other:?}"),
        }
        for arena in before {
            assert_eq!(call(&arena.publish(&asm::constant(1)).unwrap()), 1);
        }
        // For leak checkers, which check the process when it ends.
        limit_soft(libc::RLIMIT_NOFILE, u64::MAX);
    });
}

/// A limit of writable memory (`RLIMIT_DATA`) does not count code: an arena above the limit works,
/// and so do batches one after another.
#[test]
fn a_limit_of_data_counts_no_code() {
    if !common::own_kernel("a_limit_of_data_counts_no_code") || common::sanitized() {
        return;
    }
    child::run("a_limit_of_data_counts_no_code", || {
        limit_soft(libc::RLIMIT_DATA, 24 << 20);
        for mode in modes() {
            let arena = match CodeArena::builder().mode(mode).capacity(LARGE).build() {
                Ok(arena) => arena,
                // Its pages are writable in the page tables.
                Err(Error::OperatingSystem { .. }) if mode == WxMode::PerThread => continue,
                Err(other) => panic!("{mode:?}: {other}"),
            };
            for _ in 0..20 {
                let mut batch = arena.batch();
                (0..200).for_each(|n| assert!(batch.push(&asm::padded(n, 2_000)).is_ok()));
                let blocks = batch.publish().unwrap();
                assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n));
            }
            arena.trim().unwrap();
            assert_eq!(arena.stats().free_bytes, LARGE);
        }
        limit_soft(libc::RLIMIT_DATA, u64::MAX);
    });
}

/// A size that is not available is refused at once, and touches no memory.
#[test]
fn sizes_that_cannot_be_had_cost_nothing() {
    const NAME: &str = "sizes_that_cannot_be_had_cost_nothing";
    if !common::own_kernel(NAME) {
        return;
    }
    if common::sanitized() {
        return common::not_run(NAME, "a sanitizer keeps what was freed");
    }
    child::run(NAME, || {
        let most = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
        };
        let arenas: Vec<_> = modes().map(|mode| small(mode).build().unwrap()).collect();
        let before = most();
        // Linux refuses at once what is more than all of its memory.
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap();
        let memory: usize = memory.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10;
        let always = if cfg!(target_pointer_width = "32") { 0 } else { memory.min((1 << 31) - 1) };
        for bits in 30..usize::BITS {
            let size = 1_usize << bits;
            for size in [size, size - 1, size | 1, usize::MAX - size + 1] {
                let single = JitMemory::new(size);
                assert!(single.is_ok() || size > always, "{size}: {single:?}");
                drop(single);
                let too_large = |error: &Error| matches!(error, Error::TooLarge { .. });
                assert!(bits < 32 || CodeArena::builder().data(size).build().is_err_and(|error| too_large(&error)));
                assert!(bits < 32 || CodeArena::builder().capacity(size).build().is_err_and(|error| too_large(&error)));
                for arena in &arenas {
                    let mut batch = arena.batch();
                    assert!(batch.reserve(size, 16).is_err_and(|error| too_large(&error)));
                    assert!(batch.reserve_with_stubs(16, 16, size).is_err_and(|error| too_large(&error)));
                    assert!(matches!(batch.reserve(16, size), Err(Error::BadAlignment { .. })));
                }
            }
        }
        let after = most();
        assert!(after < before + 2048, "{before} KiB at most before, {after} after");
    });
}

/// Returns whether the kernel writes to executable pages of this process. It is found out without
/// the crate, with code that is run, overwritten and run again. The kernel flushes the instruction
/// cache when a page becomes executable, and when it writes.
fn kernel_writes() -> bool {
    let page = region::page::size();
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANON);
    // SAFETY: a new mapping at an address of the system's choice.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), page, access, flags, -1, 0) };
    assert_ne!(at, libc::MAP_FAILED);
    let (first, second) = (asm::constant(1), asm::constant(2));
    // SAFETY: it is this test's page, which is larger.
    unsafe { at.cast::<u8>().copy_from_nonoverlapping(first.as_ptr(), first.len()) };
    // SAFETY: it is this test's page.
    assert_eq!(unsafe { libc::mprotect(at, page, libc::PROT_READ | libc::PROT_EXEC) }, 0);
    assert_eq!(call_at(at.cast()), 1);
    let memory = std::fs::File::options().write(true).open("/proc/self/mem");
    let written = memory.and_then(|memory| memory.write_all_at(&second, at.addr() as u64));
    let written = written.is_ok() && call_at(at.cast()) == 2;
    // SAFETY: mapped above, unmapped once.
    assert_eq!(unsafe { libc::munmap(at, page) }, 0);
    written
}

#[test]
fn holes_are_filled_where_the_kernel_writes() {
    // An emulator may continue to run code that it translated.
    if common::own_kernel("holes_are_filled_where_the_kernel_writes") {
        assert_eq!(common::fills_holes(WxMode::Flip), kernel_writes());
    }
}

/// `PR_SET_MDWE`: memory that was writable once cannot become executable. `Flip` must return an
/// error.
#[test]
fn a_process_that_denies_flips_gets_an_error() {
    child::run("a_process_that_denies_flips_gets_an_error", || {
        const PR_SET_MDWE: libc::c_int = 65;
        // SAFETY: takes numbers only.
        if unsafe { libc::prctl(PR_SET_MDWE, 1, 0, 0, 0) } != 0 {
            eprintln!("this kernel has no PR_SET_MDWE");
            return;
        }
        match small(WxMode::Flip).build() {
            Err(Error::Unsupported { what: "Flip", why }) => assert!(why.contains("mprotect"), "{why}"),
            // An emulator may accept the call and do nothing.
            Ok(arena) => assert_eq!(call(&arena.publish(&asm::constant(1)).unwrap()), 1),
            other => panic!("{other:?}"),
        }
        // A second view needs no change of protection.
        if let Ok(arena) = small(WxMode::DualMap).build() {
            assert_eq!(call(&arena.publish(&asm::constant(2)).unwrap()), 2);
        }
        let mut jit = JitMemory::new(1).unwrap();
        jit.write(&asm::constant(1)).unwrap();
        let first = jit.make_executable().is_ok();
        assert_eq!(jit.make_executable().is_ok(), first, "a refusal can be tried again");
    });
}
