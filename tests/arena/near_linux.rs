//! Tests of the place of an arena that is built near an address, and of its errors.
//!
//! The tests are for Linux, because the crate reads the list of mappings there.
//!
//! - *Place*: the closest hole is taken, thousands of small arenas lie close together, and on
//!   x86-64 an address at the end of the address space works.
//! - *List of mappings*: a name in it may be invalid UTF-8, and the list may be missing.
//! - *Errors*: `OutOfReach` requires that space exists elsewhere. If a limit of address space is
//!   the cause, the error is the system's.
//!
//! Most tests run in a child process, because they set `RLIMIT_AS`, use gigabytes of addresses, or
//! change the root directory. Emulators in user mode differ from the kernel, so the tests print
//! `NOT RUN` there. Two of them also print it if addresses cannot be chosen or the root cannot be
//! changed. Each group exists to catch a search that gives up too early, or an error with the wrong
//! cause.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::common::{self, asm, call, child, modes, small};
use gaia_jit::{CodeArena, Error, WxMode};

fn here() -> *const u8 {
    here as *const u8
}

/// Maps address space at a fixed address.
#[cfg(target_arch = "x86_64")]
fn map(at: usize, len: usize) -> Option<usize> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED_NOREPLACE;
    let hint = std::ptr::without_provenance_mut(at);
    // SAFETY: a new mapping, where nothing is mapped.
    let got = unsafe { libc::mmap(hint, len, libc::PROT_NONE, flags | libc::MAP_NORESERVE, -1, 0) };
    (got.addr() == at).then_some(at)
}

/// Every mebibyte counts, because hooks move instructions with operands that are relative to their
/// old place.
#[test]
fn the_closest_place_is_taken() {
    if !common::own_kernel("the_closest_place_is_taken") || common::sanitized() {
        return;
    }
    for mode in modes() {
        let arenas: Vec<_> = (0..20)
            .map(|_| CodeArena::builder().mode(mode).capacity(64 << 10).near(here()).build())
            .take_while(Result::is_ok)
            .map(Result::unwrap)
            .collect();
        for arena in &arenas {
            let at = arena.publish(&asm::constant(3)).unwrap();
            let distance = at.as_ptr().addr().abs_diff(here().addr());
            assert!(distance < 64 << 20, "{mode:?}: {distance:#x}");
            assert_eq!(call(&at), 3);
        }
        assert!(arenas.len() >= if mode == WxMode::PerThread { 5 } else { 20 }, "{mode:?}: {}", arenas.len());
    }
}

/// Small arenas take little of the space around a function.
#[test]
fn thousands_of_small_arenas_are_near() {
    if !common::own_kernel("thousands_of_small_arenas_are_near") || cfg!(target_pointer_width = "32") {
        return;
    }
    child::run("thousands_of_small_arenas_are_near", || {
        let build = || CodeArena::builder().capacity(64 << 10).data(0).near(here()).build().unwrap();
        // Direct branches of AArch64 reach 128 MiB, and there may be nothing but space above.
        let count = if cfg!(target_arch = "aarch64") { 500 } else { 2_000 };
        let arenas: Vec<_> = (0..count).map(|_| build()).collect();
        let starts: Vec<usize> =
            arenas.iter().map(|arena| arena.publish(&asm::constant(1)).unwrap().as_ptr().addr()).collect();
        let spread = starts.iter().max().unwrap() - starts.iter().min().unwrap();
        // A program uses a little space between them.
        assert!(spread < count * (256 << 10), "{spread:#x}");
    });
}

/// A mapped file may have any name.
#[test]
fn names_of_mapped_files_are_any_bytes() {
    child::run("names_of_mapped_files_are_any_bytes", || {
        let name = format!("gaia-jit-\u{e9}-{}", std::process::id()).into_bytes();
        let name: Vec<u8> = name.into_iter().map(|byte| if byte == 0xc3 { 0xff } else { byte }).collect();
        let path = std::env::temp_dir().join(OsStr::from_bytes(&name));
        std::fs::write(&path, vec![1; 8192]).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        // SAFETY: a new mapping at an address of the system's choice.
        let mapped = unsafe { memmap2::Mmap::map(&file).unwrap() };
        std::fs::remove_file(&path).unwrap();
        let arena = common::near("names_of_mapped_files_are_any_bytes", small(WxMode::Flip).near(here()));
        assert!(arena.is_none_or(|arena| call(&arena.publish(&asm::constant(4)).unwrap()) == 4));
        drop(mapped);
    });
}

/// The gap between the last mapping and the end of the address space is not the only one.
#[test]
fn near_to_the_end_of_addresses() {
    if !common::own_kernel("near_to_the_end_of_addresses") || cfg!(target_pointer_width = "32") {
        return;
    }
    child::run("near_to_the_end_of_addresses", || {
        // SAFETY: takes a number only. What it answers is an address on the first stack.
        let stack = unsafe { libc::getauxval(libc::AT_RANDOM) } as usize;
        let end = stack.next_power_of_two();
        for near in [end - 0x2000, end - 1, end - (1 << 20), stack] {
            let arena = small(WxMode::Flip).near(std::ptr::without_provenance(near)).build();
            // On architectures with short branches the arena is far from the end if the stack is
            // far from it.
            if cfg!(target_arch = "x86_64") {
                assert_eq!(call(&arena.unwrap().publish(&asm::constant(4)).unwrap()), 4);
            } else {
                assert!(matches!(arena, Ok(_) | Err(Error::OutOfReach { .. })), "{arena:?}");
            }
        }
    });
}

/// A lack of address space is not reported as out of reach.
#[test]
fn the_error_is_the_one_that_the_system_gave() {
    if !common::own_kernel("the_error_is_the_one_that_the_system_gave") || common::sanitized() {
        return;
    }
    child::run("the_error_is_the_one_that_the_system_gave", || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let used = statm.split(' ').next().unwrap().parse::<u64>().unwrap() * region::page::size() as u64;
        let limit = (used + (8 << 20)) as libc::rlim_t;
        let limit = libc::rlimit { rlim_cur: limit, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: `limit` is valid for the call to read.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
        for mode in [WxMode::Flip, WxMode::DualMap] {
            let builder = CodeArena::builder().mode(mode).capacity(16 << 20);
            let far = builder.clone().build().unwrap_err();
            let near = builder.near(here()).build().unwrap_err();
            for error in [far, near] {
                let Error::OperatingSystem { source, bytes: Some(bytes), .. } = &error else { panic!("{error:?}") };
                assert_eq!(source.raw_os_error(), Some(libc::ENOMEM));
                assert!(*bytes >= 16 << 20 && *bytes < 20 << 20, "{bytes}");
                assert!(error.to_string().contains("RLIMIT_AS"), "{error}");
            }
            // A size that fits can be built.
            let fits = CodeArena::builder().mode(WxMode::Flip).capacity(64 << 10).near(here()).build().unwrap();
            assert_eq!(call(&fits.publish(&asm::constant(6)).unwrap()), 6);
        }
    });
}

/// There is space, but none of it is in reach.
#[test]
#[cfg(target_arch = "x86_64")]
fn out_of_reach_is_said_only_if_it_is_that() {
    const NAME: &str = "out_of_reach_is_said_only_if_it_is_that";
    if !common::own_kernel(NAME) || common::sanitized() {
        return;
    }
    child::run(NAME, || {
        // Far from everything else, 4 GiB are mapped except for one hole.
        let middle = 0x2000_0000_0000;
        let (low, hole) = (middle - (3_usize << 30), 1 << 20);
        let below = map(low, 3 << 30);
        let above = map(middle + hole, 3 << 30);
        if below.is_none() || above.is_none() {
            return common::not_run(NAME, "addresses cannot be chosen here");
        }
        let near = std::ptr::without_provenance(middle);
        let refused = CodeArena::builder().capacity(1 << 20).near(near).build().unwrap_err();
        let Error::OutOfReach { address, len, .. } = refused else { panic!("{refused:?}") };
        assert_eq!(address, middle);
        assert!((1 << 20..2 << 20).contains(&len), "{len}");
        // The arena finds the hole.
        let arena = CodeArena::builder().capacity(256 << 10).near(near).build().unwrap();
        let block = arena.publish(&asm::constant(6)).unwrap();
        assert!((middle..middle + hole).contains(&block.as_ptr().addr()));
        assert_eq!(call(&block), 6);
    });
}

/// Without `/proc`, places all around are tried.
#[test]
fn near_without_the_list_of_mappings() {
    const NAME: &str = "near_without_the_list_of_mappings";
    if !common::own_kernel(NAME) {
        return;
    }
    if common::sanitized() {
        return common::not_run(NAME, "at its end a sanitizer opens files");
    }
    child::run(NAME, || {
        // SAFETY: the path is a C string.
        if unsafe { libc::chroot(c"/dev".as_ptr()) } != 0 {
            return common::not_run(NAME, "this process may not change its root");
        }
        assert!(std::fs::read("/proc/self/maps").is_err());
        let arena = small(WxMode::DualMap).near(here()).build().or_else(|_| small(WxMode::Flip).near(here()).build());
        let block = arena.unwrap().publish(&asm::constant(8)).unwrap();
        assert_eq!(call(&block), 8);
        assert!(cfg!(target_pointer_width = "32") || block.as_ptr().addr().abs_diff(here().addr()) < 2 << 30);
    });
}
