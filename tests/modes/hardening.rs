//! Tests against an attacker who can make calls or guess addresses: sealed mappings, landing pads,
//! views that are not near each other, pages without access at both ends.
//!
//! | What | How it is checked |
//! |---|---|
//! | seals | `mprotect` and `munmap` of live code fail; without a seal `mprotect` succeeds (not in `FileWrite`) |
//! | both ends of a region | the list of mappings shows no access there |
//! | distance of the views | eight arenas have eight distances of more than 1 GiB, also if the stack is low |
//! | landing pads | on AArch64 code without one ends by `SIGILL`; elsewhere the option is an error |
//! | names | the memory map contains the name of the arena |
//!
//! Three kinds of tests need child processes: a sealed mapping cannot be unmapped, a missing pad
//! kills, and the distances are found in the list of all views. `NOT RUN` is printed if the kernel
//! has no seals, pads or names, or if no address can be chosen. The low stack exists to catch a
//! random number that is derived from the address of the stack.

use std::mem::ManuallyDrop;
use std::sync::Mutex;

use crate::common::maps::mappings;
use crate::common::{self, asm, call, child, modes, small};
use gaia_jit::{CodeArena, CodeBlock, Error, WxMode};

fn page_of(block: &CodeBlock) -> *mut libc::c_void {
    let page = region::page::size();
    block.as_ptr().cast_mut().wrapping_sub(block.as_ptr().addr() % page).cast()
}

/// Returns whether the system allows to make the block's page writable.
fn can_be_changed(block: &CodeBlock) -> bool {
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the range is one page of the arena. Its code is not run after this has succeeded.
    unsafe { libc::mprotect(page_of(block), region::page::size(), rights) == 0 }
}

static TAMPERED: Mutex<Vec<ManuallyDrop<CodeArena>>> = Mutex::new(Vec::new());

#[test]
fn sealed_arenas_work_and_stay_as_they_are() {
    // Sealed mappings stay until the process ends.
    child::run("sealed_arenas_work_and_stay_as_they_are", || {
        for mode in modes() {
            let open = small(mode).build().unwrap();
            // The control. The view of a file that was opened for reading cannot be changed,
            // whether it is sealed or not.
            assert_eq!(can_be_changed(&open.publish(&asm::constant(1)).unwrap()), mode != WxMode::FileWrite);
            // The pages are not as the arena expects any more, so it must not be dropped. Leak
            // checkers can still reach it.
            TAMPERED.lock().unwrap().push(ManuallyDrop::new(open));
            let arena = match small(mode).seal(true).build() {
                Ok(arena) => arena,
                Err(Error::Unsupported { what, why }) => {
                    println!("NOT RUN: {mode:?}: {what}: {why}");
                    continue;
                }
                Err(other) => panic!("{mode:?}: {other}"),
            };
            let blocks: Vec<_> = (0..200).map(|n| arena.publish(&asm::constant(n)).unwrap()).collect();
            let mut batch = arena.batch();
            for n in 0..1000 {
                batch.push(&asm::padded(n, 300)).unwrap();
            }
            let batch = batch.publish().unwrap();
            for (n, block) in (0..).zip(&blocks).chain((0..).zip(&batch)) {
                assert_eq!(call(block), n);
            }
            assert!(!can_be_changed(&blocks[0]), "{mode:?}");
            // SAFETY: the range is one page of the arena. The call is expected to be refused.
            assert_ne!(unsafe { libc::munmap(page_of(&blocks[0]), 1) }, 0, "{mode:?}");
            drop((batch, blocks));
            let shared = matches!(mode, WxMode::DualMap | WxMode::FileWrite);
            match arena.trim() {
                Ok(bytes) => assert!(shared && bytes > 300_000, "{mode:?}"),
                Err(Error::Unsupported { .. }) => assert!(!shared),
                Err(other) => panic!("{mode:?}: {other}"),
            }
            let last = arena.publish(&asm::constant(5)).unwrap();
            let at = last.as_ptr().addr();
            assert_eq!(call(&last), 5);
            drop(last);
            drop(arena);
            assert!(!mappings(at, 1).is_empty(), "{mode:?}: a sealed mapping stays");
        }
    });
}

#[test]
fn an_arena_lies_between_pages_without_access() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let first = arena.publish(&asm::constant(1)).unwrap();
        let mut start = first.as_ptr().addr();
        start -= start % region::page::size();
        while arena.contains((start - 1) as *const u8) {
            start -= region::page::size();
        }
        for outside in [start - 1, start + arena.capacity()] {
            let rights = mappings(outside, 1);
            assert!(rights.iter().all(|rights| rights.starts_with("---")), "{mode:?}: {rights:?}");
        }
    }
}

/// Returns whether a free address can be mapped.
#[cfg(target_pointer_width = "64")]
fn maps_at(address: usize) -> bool {
    let (hint, flags) = (std::ptr::without_provenance_mut(address), libc::MAP_PRIVATE | libc::MAP_ANON);
    // SAFETY: a new mapping, where nothing is yet or at an address of the system's choice.
    let got = unsafe { libc::mmap(hint, 1, libc::PROT_NONE, flags, -1, 0) };
    // SAFETY: mapped just now, if at all.
    got != libc::MAP_FAILED && unsafe { libc::munmap(got, 1) } == 0 && got == hint
}

/// Returns the distances of the writable views of some arenas from their code. A writable view is
/// the mapping of the memory that is not executable.
#[cfg(target_pointer_width = "64")]
fn distances() -> std::collections::HashSet<isize> {
    let mut distances = std::collections::HashSet::new();
    for _ in 0..8 {
        let arena = small(WxMode::DualMap).build().unwrap();
        let code = arena.publish(&asm::constant(1)).unwrap().as_ptr().addr();
        let views: Vec<usize> = std::fs::read_to_string("/proc/self/maps")
            .unwrap()
            .lines()
            .filter(|line| {
                (line.contains("/dev/zero (deleted)") || line.contains("memfd:gaia-jit")) && line.contains(" rw-s ")
            })
            .map(|line| usize::from_str_radix(line.split('-').next().unwrap(), 16).unwrap())
            .collect();
        assert_eq!(views.len(), 1, "{views:x?}");
        distances.insert(views[0].wrapping_sub(code) as isize);
    }
    distances
}

/// Also with a stack at a low address, as coroutines may have it: its address must not decide
/// anything.
#[test]
#[cfg(target_pointer_width = "64")]
fn views_lie_apart_and_differently_each_time() {
    // Valgrind and ThreadSanitizer place mappings in a small part of the address space.
    // SAFETY: takes a number only. What it answers is an address on the first stack.
    let stack = unsafe { libc::getauxval(libc::AT_RANDOM) } as usize;
    let part = 1_usize << (stack.ilog2() - 4);
    if !(2..16).any(|parts| maps_at(parts * part)) {
        return common::not_run("views_lie_apart_and_differently_each_time", "addresses cannot be chosen here");
    }
    if !modes().any(|mode| mode == WxMode::DualMap) {
        return common::not_run("views_lie_apart_and_differently_each_time", "this system does not have the mode");
    }
    // All views of the process are read, so there must be no other arenas.
    child::run("views_lie_apart_and_differently_each_time", || {
        for distances in [distances(), on_a_low_stack(distances)] {
            assert_eq!(distances.len(), 8, "{distances:x?}");
            assert!(distances.iter().all(|distance| distance.unsigned_abs() > 1 << 30), "{distances:x?}");
            // It is no chance if all eight are in one sixteenth of the address space.
            let spread = distances.iter().max().unwrap() - distances.iter().min().unwrap();
            assert!(spread.unsigned_abs() > part, "{distances:x?}");
        }
    });
}

/// Runs `body` on a thread with its stack in the first gigabyte of addresses.
#[cfg(target_pointer_width = "64")]
fn on_a_low_stack<T>(work: fn() -> T) -> T {
    const STACK: usize = 1 << 20;
    struct Task<T>(fn() -> T, Option<T>);
    extern "C" fn run<T>(task: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: given below, and left alone until this thread has ended.
        let task = unsafe { &mut *task.cast::<Task<T>>() };
        task.1 = Some((task.0)());
        std::ptr::null_mut()
    }
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANON);
    // SAFETY: a new mapping, where nothing is yet or at an address of the system's choice.
    let stack = unsafe { libc::mmap(std::ptr::without_provenance_mut(1 << 29), STACK, access, flags, -1, 0) };
    assert!(stack.addr() < 1 << 30, "{stack:?}");
    let mut attributes = std::mem::MaybeUninit::uninit();
    // SAFETY: valid for the call to write to.
    assert_eq!(unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) }, 0);
    // SAFETY: initialised, and a mapping of that size which outlives the thread.
    assert_eq!(unsafe { libc::pthread_attr_setstack(attributes.as_mut_ptr(), stack, STACK) }, 0);
    let mut task = Task(work, None);
    let mut thread = std::mem::MaybeUninit::uninit();
    // SAFETY: initialised attributes, and a task that outlives the thread, as that is waited for.
    let made =
        unsafe { libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), run::<T>, (&raw mut task).cast()) };
    assert_eq!(made, 0);
    // SAFETY: made above.
    let thread = unsafe { thread.assume_init() };
    // SAFETY: joined once. Its stack stays: whoever looks at ended threads may look there.
    assert_eq!(unsafe { libc::pthread_join(thread, std::ptr::null_mut()) }, 0);
    task.1.expect("the thread ended before its task")
}

#[test]
#[cfg(not(target_arch = "aarch64"))]
fn landing_pads_elsewhere_are_an_error() {
    assert!(matches!(small(WxMode::Flip).landing_pads(true).build(), Err(Error::Unsupported { .. })));
}

#[cfg(target_arch = "aarch64")]
mod landing_pads {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    /// `bti c`.
    const PAD: [u8; 4] = [0x5f, 0x24, 0x03, 0xd5];

    /// Publishes code with pads and runs it. Then, in a child process, does the same with code
    /// without pads.
    fn check(name: &str, mode: WxMode, batched: bool) {
        let arena = match small(mode).landing_pads(true).build() {
            Ok(arena) => arena,
            Err(Error::Unsupported { what, why }) => return println!("NOT RUN: {mode:?}: {what}: {why}"),
            Err(other) => panic!("{mode:?}: {other}"),
        };
        let publish = |begin: &[u8]| {
            let code = |n| [begin, &asm::constant(n), &[0; 300]].concat();
            if !batched {
                return arena.publish(&code(7)).unwrap();
            }
            let mut batch = arena.batch();
            let slots: Vec<_> = (0..500).map(|n| batch.push(&code(n)).unwrap()).collect();
            batch.publish().unwrap().swap_remove(slots[7].index())
        };
        assert_eq!(call(&publish(&PAD)), 7);
        let output = child::output(name, || {
            let block = publish(&[]);
            println!("about to run");
            println!("ran {}", call(&block));
        });
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("about to run") && !text.contains("ran "), "{mode:?}: {text}");
        assert_eq!(output.status.signal(), Some(libc::SIGILL), "{mode:?}: {text}");
    }

    #[test]
    fn in_flip() {
        check("in_flip", WxMode::Flip, false);
    }

    #[test]
    fn in_flip_by_batch() {
        check("in_flip_by_batch", WxMode::Flip, true);
    }

    #[test]
    fn in_a_dual_map() {
        check("in_a_dual_map", WxMode::DualMap, false);
    }
}

/// Returns whether this kernel names anonymous memory. From 5.17 on it does if it was built so;
/// shared memory from 6.2 on.
fn names(shared: bool) -> bool {
    const PR_SET_VMA: libc::c_int = 0x5356_4d41;
    let page = region::page::size();
    let sharing = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
    // SAFETY: a new mapping at an address of the system's choice.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), page, libc::PROT_READ, sharing | libc::MAP_ANON, -1, 0) };
    assert_ne!(at, libc::MAP_FAILED);
    // SAFETY: the page stays as it is, and the name is a C string.
    let named = unsafe { libc::prctl(PR_SET_VMA, 0, at, page, c"x".as_ptr()) } == 0;
    // SAFETY: mapped above, unmapped once.
    assert_eq!(unsafe { libc::munmap(at, page) }, 0);
    named
}

/// A name is visible in the memory map, for every content, and does not keep runs of pages from
/// merging.
#[test]
fn mappings_have_the_name_that_was_asked_for() {
    for mode in modes() {
        let arena = small(mode).name("code of [this]\n$test").build().unwrap();
        let block = arena.publish(&asm::constant(1)).unwrap();
        let at = block.as_ptr().addr();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let is_there = |line: &&str| {
            let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
            (usize::from_str_radix(from, 16).unwrap()..usize::from_str_radix(to, 16).unwrap()).contains(&at)
        };
        let line = maps.lines().find(is_there).unwrap();
        assert_eq!(call(&block), 1);
        if line.contains("code of _this___test") {
            println!("{mode:?}: {line}");
        } else {
            let why = format!("{mode:?}: this kernel does not name such memory");
            common::not_run("mappings_have_the_name_that_was_asked_for", &why);
            // A mapped file has a name of its own.
            assert!(line.contains("/memfd:") || !names(mode == WxMode::DualMap), "{line}");
        }
    }
}
