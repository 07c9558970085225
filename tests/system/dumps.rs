//! Tests of core dumps and of snapshots of a live process. Pages without code are neither written
//! nor given memory. Code is in the dump.
//!
//! - *Snapshots*: the test reads all pages that a dump would contain, by `/proc/self/smaps` and
//!   `/proc/self/mem`. The process must not grow by more than what was read.
//! - *After a trim*: pages are left out again, and functions that are placed there later are
//!   included.
//! - *Huge pages*: `collapse` moves code whatever part of a huge page is in dumps.
//! - *gcore*: the real tool writes less than half of the region.
//!
//! The tests compare the memory of the process, so those that do it run alone in a child process.
//! They leave out emulators and sanitizers, and print `NOT RUN` without gcore or huge pages. They
//! exist to catch two faults: a dump with the whole reservation, and code that is missing in a dump
//! because the advice to leave it out was not withdrawn.

use std::os::unix::fs::FileExt;
use std::process::Command;

use crate::common::{self, LARGE, asm, call, child, modes};
use gaia_jit::{CodeArena, Error, WxMode};

/// Returns the kibibytes of memory of this process.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Returns the mappings that a dump contains: all readable ones, except those that are left out by
/// advice.
fn dumped() -> Vec<(usize, usize)> {
    let (mut found, mut last) = (Vec::new(), None);
    for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        let first = line.split(' ').next().unwrap();
        if let Some((start, end)) = first.split_once('-') {
            let number = |digits| usize::from_str_radix(digits, 16).unwrap();
            last = line.contains(" r").then(|| (number(start), number(end)));
        } else if let Some(flags) = line.strip_prefix("VmFlags:") {
            let special = flags.split(' ').any(|flag| matches!(flag, "dd" | "io" | "pf"));
            found.extend(last.filter(|_| !special));
        }
    }
    found
}

/// Reads every page that a dump contains, as a debugger does. Returns the bytes in `[start, start +
/// len)`.
fn snapshot(start: usize, len: usize) -> Vec<(usize, Vec<u8>)> {
    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    let (mut kept, mut page) = (Vec::new(), vec![0; region::page::size()]);
    for (from, to) in dumped() {
        for at in (from..to).step_by(page.len()) {
            if memory.read_exact_at(&mut page, at as u64).is_ok() && (start..start + len).contains(&at) {
                kept.push((at, page.clone()));
            }
        }
    }
    kept
}

#[test]
fn a_snapshot_reads_code_and_touches_nothing_else() {
    const NAME: &str = "a_snapshot_reads_code_and_touches_nothing_else";
    if !common::own_kernel(NAME) || common::sanitized() {
        return;
    }
    child::run(NAME, || {
        for mode in modes() {
            let arena = CodeArena::builder().mode(mode).capacity(LARGE).build().unwrap();
            let blocks = common::publish_all(&arena, (0..3_000).map(|n| asm::padded(n, 700)));
            let (start, len) = (blocks[0].as_ptr().addr() & !((2 << 20) - 1), LARGE);
            drop(snapshot(start, len));
            let before = resident();
            let read = snapshot(start, len);
            let after = resident();
            let bytes: usize = read.iter().map(|(_, page)| page.len()).sum();
            // What was read is in memory too.
            let most = before + bytes / 1024 + 2000;
            assert!(after < most, "{mode:?}: {before} KiB before, {after} after");
            assert!(bytes < LARGE / 8, "{mode:?}: {bytes}");
            for block in &blocks {
                let at = block.as_ptr().addr();
                let page = region::page::size();
                let (from, there) =
                    read.iter().find(|(from, _)| *from == at / page * page).expect("code is in the dump");
                let most = (from + page - at).min(block.len());
                assert_eq!(there[at - from..][..most], block.as_bytes()[..most], "{mode:?}");
            }
            // Pages that are trimmed behind the last code are left out again.
            drop(blocks);
            arena.trim().unwrap();
            assert!(snapshot(start, len).is_empty(), "{mode:?}");
            assert!(resident() < most, "{mode:?}");
            assert_eq!(arena.stats().resident_bytes, 0);
            let again = common::publish_all(&arena, (0..3_000).map(|n| asm::padded(n, 700)));
            assert!((0..).zip(&again).all(|(n, block)| call(block) == n));
            let read = snapshot(start, len);
            let last = again.iter().map(|block| block.as_ptr().addr()).max().unwrap();
            assert!(read.iter().any(|(from, page)| (*from..*from + page.len()).contains(&last)), "{mode:?}");
        }
    });
}

/// Code that is placed behind the end after a trim is in dumps again, in whichever way its space is
/// found.
#[test]
fn what_comes_back_after_a_trim_is_in_dumps() {
    const NAME: &str = "what_comes_back_after_a_trim_is_in_dumps";
    if !common::own_kernel(NAME) || common::sanitized() {
        return;
    }
    child::run(NAME, || {
        for mode in modes() {
            for sizes in [[32 << 10, 224 << 10], [100 << 10, 70 << 10], [8 << 10, 600 << 10]] {
                let arena = CodeArena::builder().mode(mode).capacity(2 << 20).build().unwrap();
                let large = asm::padded(7, sizes[1]);
                let first = arena.publish(&asm::padded(7, sizes[0])).unwrap();
                drop(arena.publish(&large).unwrap());
                arena.trim().unwrap();
                let again = arena.publish(&large).unwrap();
                // The whole rest in one piece: it begins in a span of a heap, and continues in free
                // spans.
                let Err(Error::ArenaFull { largest_hole, .. }) = arena.publish(&asm::padded(7, 2 << 20)) else {
                    panic!()
                };
                // Where holes are not filled, a function takes whole pages.
                let rest = largest_hole / region::page::size() * region::page::size();
                let rest = arena.publish(&asm::padded(7, rest)).unwrap();
                for block in [&first, &again, &rest] {
                    let (start, end) = (block.as_ptr().addr(), block.as_ptr().addr() + block.len());
                    let mut at = start;
                    for (from, to) in dumped() {
                        at = if from <= at && at < to { to } else { at };
                    }
                    assert!(at >= end, "{mode:?}, {sizes:?}: {start:x} to {end:x} is in dumps up to {at:x}");
                }
            }
        }
    });
}

/// The end of the dumped part does not keep code from huge pages.
#[test]
fn code_goes_into_huge_pages_wherever_it_ends() {
    const NAME: &str = "code_goes_into_huge_pages_wherever_it_ends";
    if !common::own_kernel(NAME) {
        return;
    }
    for used in [1680, 1800, 1920] {
        let arena = CodeArena::builder().capacity(8 << 20).build().unwrap();
        let blocks = common::publish_all(&arena, (0..used).map(|n| asm::padded(n, 1_000)));
        match arena.collapse() {
            Ok(bytes) => assert_eq!(bytes, 2 << 20, "{used}"),
            Err(error) => {
                // Not on systems without this call.
                let all = CodeArena::builder().capacity(8 << 20).build().unwrap();
                let full = common::publish_all(&all, (0..2_040).map(|n| asm::padded(n, 1_000)));
                assert!(all.collapse().is_err(), "{used}: {error}");
                common::not_run(NAME, "no huge pages here");
                drop(full);
            }
        }
        assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n));
    }
}

/// With the real tool, if it exists and may read the process.
#[test]
fn gcore_writes_little() {
    const NAME: &str = "gcore_writes_little";
    if !common::own_kernel(NAME) || common::sanitized() {
        return;
    }
    child::run(NAME, || {
        let arena = CodeArena::builder().mode(WxMode::DualMap).capacity(LARGE).build();
        let Ok(arena) = arena else { return common::not_run(NAME, "this system does not have the mode") };
        let block = arena.publish(&asm::constant(7)).unwrap();
        let before = resident();
        let path = std::env::temp_dir().join(format!("gaia-jit-core-{}", std::process::id()));
        let path = path.to_str().unwrap();
        let made = Command::new("gcore").args(["-o", path, &std::process::id().to_string()]).output();
        let core = format!("{path}.{}", std::process::id());
        let size = std::fs::metadata(&core).map(|core| core.len());
        let _ = std::fs::remove_file(&core);
        let Ok(size) = size else { return common::not_run(NAME, &format!("no gcore, or it may not: {made:?}")) };
        assert!(size < LARGE as u64 / 2, "{size} bytes");
        assert!(resident() < before + (LARGE >> 12), "{} KiB before, {} after", before, resident());
        assert_eq!(call(&block), 7);
    });
}
