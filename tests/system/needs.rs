//! Tests of the figures and the lists of system calls in `docs/needs.md`. The tests read them from
//! the page.
//!
//! | What the page contains | How it is checked |
//! |---|---|
//! | mappings, descriptors, memory, address space of an empty arena | twelve arenas of each size are built and measured |
//! | calls from the build to the drop | a filter allows only the listed calls, and any other call kills |
//! | calls after the build | the same with large batches, poison, data, a refused `mprotect`, and four threads |
//!
//! A control shows that a process is killed at a call that is not listed. The tests exist to catch
//! a call that a change of the library adds, and a figure that it makes larger. Every filter has a
//! forked child, because it stays and kills. The tests need x86-64 Linux with glibc. They print
//! `NOT RUN` under an emulator, and where filters are refused.

use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::common::{self, asm, call, child, modes, sandbox};
use gaia_jit::{CodeArena, DataAccess, WxMode};

const PAGE: &str = include_str!("../../docs/needs.md");
const COLUMNS: [WxMode; 4] = [WxMode::Flip, WxMode::DualMap, WxMode::PerThread, WxMode::FileWrite];

/// Returns the number in a row of the first table, for a mode.
fn figure(row: &str, mode: WxMode) -> usize {
    let line = PAGE.lines().find(|line| line.starts_with(&format!("| {row} |"))).expect(row);
    let column = COLUMNS.iter().position(|column| *column == mode).unwrap();
    line.split('|').nth(column + 2).unwrap().trim().parse().unwrap()
}

/// Returns the words in backquotes in the rows of a mode, in all tables of system calls.
fn calls(mode: &str) -> Vec<&'static str> {
    calls_since("## System calls", mode)
}

/// Returns those of the table of calls after the build.
fn calls_after(mode: &str) -> Vec<&'static str> {
    calls_since("After that, until the arena", mode)
}

fn calls_since(start: &str, mode: &str) -> Vec<&'static str> {
    let page = &PAGE[PAGE.find(start).unwrap()..PAGE.find("## When the system").unwrap()];
    let rows = page.lines().filter(|line| line.starts_with(&format!("| {mode} |")));
    let words = rows.flat_map(|line| line.splitn(3, '|').nth(2).unwrap().split('`').skip(1).step_by(2));
    words.filter(|word| number(word).is_some()).collect()
}

/// Returns the system's number of a call.
fn number(name: &str) -> Option<libc::c_long> {
    Some(match name {
        "mmap" => libc::SYS_mmap,
        "munmap" => libc::SYS_munmap,
        "mprotect" => libc::SYS_mprotect,
        "madvise" => libc::SYS_madvise,
        "brk" => libc::SYS_brk,
        "openat" => libc::SYS_openat,
        "close" => libc::SYS_close,
        "fcntl" => libc::SYS_fcntl,
        "prlimit64" => libc::SYS_prlimit64,
        "getrlimit" => libc::SYS_getrlimit,
        "statx" => libc::SYS_statx,
        "pread64" => libc::SYS_pread64,
        "pwrite64" => libc::SYS_pwrite64,
        "mremap" => libc::SYS_mremap,
        "getrandom" => libc::SYS_getrandom,
        "memfd_create" => libc::SYS_memfd_create,
        "ftruncate" => libc::SYS_ftruncate,
        "pkey_alloc" => libc::SYS_pkey_alloc,
        "pkey_mprotect" => libc::SYS_pkey_mprotect,
        "pkey_free" => libc::SYS_pkey_free,
        "fallocate" => libc::SYS_fallocate,
        "rt_sigaction" => libc::SYS_rt_sigaction,
        "read" => libc::SYS_read,
        "prctl" => libc::SYS_prctl,
        "mseal" => 462,
        "membarrier" => libc::SYS_membarrier,
        "futex" => libc::SYS_futex,
        "sched_yield" => libc::SYS_sched_yield,
        "clock_gettime" => libc::SYS_clock_gettime,
        "clock_nanosleep" => libc::SYS_clock_nanosleep,
        _ => return None,
    })
}

fn name(mode: WxMode) -> String {
    format!("`{mode:?}`")
}

#[test]
fn an_empty_arena_takes_what_the_page_says() {
    const NAME: &str = "an_empty_arena_takes_what_the_page_says";
    if !common::own_kernel(NAME) || common::sanitized() {
        return;
    }
    child::run(NAME, || {
        const COUNT: usize = 12;
        let mappings = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let status = |what: &str| -> usize {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with(what)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        for mode in modes() {
            for (size, text) in [(64 << 10, "64 KiB"), (256 << 20, "256 MiB")] {
                let build = || CodeArena::builder().mode(mode).capacity(size).build().unwrap();
                let before_any = descriptors();
                let first = build();
                let each = figure("descriptors of each arena", mode);
                assert!(descriptors() <= before_any + each + figure("descriptors of the process", mode), "{mode:?}");
                let before = (mappings(), descriptors(), status("VmRSS"), status("VmSize"));
                let arenas: Vec<_> = (0..COUNT).map(|_| build()).collect();
                let after = (mappings(), descriptors(), status("VmRSS"), status("VmSize"));
                let most = figure(&format!("mappings, arena of {text}"), mode);
                assert!(after.0 - before.0 <= COUNT * most, "{mode:?} {text}: {} mappings", after.0 - before.0);
                assert_eq!(after.1 - before.1, COUNT * each, "{mode:?}");
                let most = figure(&format!("KiB of memory, arena of {text}"), mode);
                assert!(after.2 - before.2 <= COUNT * most, "{mode:?} {text}: {} KiB", after.2 - before.2);
                let space = (after.3 - before.3) / COUNT;
                let most = match size {
                    0..0x10_0000 => {
                        (size >> 10) + figure("KiB of address space beside the code, arena of 64 KiB", mode)
                    }
                    _ => (size >> 20) * figure("KiB of address space for each MiB of capacity", mode),
                };
                assert!(space <= most, "{mode:?} {text}: {space} KiB of address space");
                drop((first, arenas));
            }
        }
    });
}

/// The calls that a test needs besides: to end, to print the reason, and to hold a panic.
const BESIDES: [libc::c_long; 6] = [
    libc::SYS_exit_group,
    libc::SYS_exit,
    libc::SYS_write,
    libc::SYS_futex,
    libc::SYS_rt_sigprocmask,
    libc::SYS_gettid,
];

/// Returns whether the calls of a process can be restricted here. Otherwise it says that the test
/// is not run.
fn can_filter(test: &str) -> bool {
    if !common::own_kernel(test) || common::sanitized() {
        return false;
    }
    let can = common::fork::fork(|| assert!(sandbox::allow_only(&BESIDES)));
    if !can {
        common::not_run(test, "no filters here");
    }
    can
}

/// Publishes, patches, drops and trims.
fn use_all(arena: &CodeArena) {
    let (fills_holes, mut kept) = (arena.stats().fills_holes, Vec::new());
    for round in 0..4 {
        let block = arena.publish(&asm::constant(round)).unwrap();
        assert_eq!(call(&block), round);
        let mut batch = arena.batch();
        (0..60).for_each(|n| assert!(batch.push(&asm::padded(n, 2_000)).is_ok()));
        let blocks = batch.publish().unwrap();
        assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n));
        // SAFETY: nobody runs it meanwhile.
        let patched = unsafe { block.patch(0, &asm::constant(9)) };
        assert!(patched.is_ok() || !fills_holes, "{patched:?}");
        let guard = arena.pin();
        drop(blocks);
        drop(guard);
        kept.push(block);
        arena.trim().unwrap();
    }
    // Until fresh memory comes several pages at once.
    let some: Vec<_> =
        (0..1_000).filter(|_| fills_holes).map(|n| (n, arena.publish(&asm::padded(n, 500)).unwrap())).collect();
    assert!(some.iter().all(|(n, block)| call(block) == *n));
    drop(some);
    assert!(!fills_holes || kept.iter().all(|block| call(block) == 9));
}

/// Places data, makes redirects, and trims.
fn use_data(arena: &CodeArena) {
    let place = |access| arena.data(100, 8, access, |_, bytes| bytes.fill(1)).unwrap();
    for _ in 0..3 {
        let placed = [place(DataAccess::ReadOnly), place(DataAccess::ReadWrite)];
        let entry = arena.redirect(arena.publish(&asm::constant(3)).unwrap()).unwrap();
        drop(entry.swap(arena.publish(&asm::constant(4)).unwrap()).unwrap());
        drop((placed, entry));
        arena.trim().unwrap();
    }
}

/// A process that makes any other call is killed.
#[test]
fn no_call_is_made_that_the_page_does_not_name() {
    const NAME: &str = "no_call_is_made_that_the_page_does_not_name";
    if !can_filter(NAME) {
        return;
    }
    child::run(NAME, || {
        for (mode, poison) in modes().flat_map(|mode| [(mode, false), (mode, true)]) {
            let mut allowed: Vec<libc::c_long> = BESIDES.to_vec();
            let poisons = if poison { "`poison`" } else { "no row" };
            for row in ["all", &name(mode), poisons] {
                allowed.extend(calls(row).into_iter().filter_map(number));
            }
            let ended = common::fork::fork(|| {
                if !sandbox::allow_only(&allowed) {
                    return;
                }
                let builder = CodeArena::builder().mode(mode).capacity(4 << 20).keep_free(64 << 10);
                use_all(&builder.poison(poison).build().unwrap());
            });
            assert!(
                ended,
                "{mode:?}, poison {poison}: another call was made than {:?} and {:?}",
                calls("all"),
                calls(&name(mode))
            );
        }
        for mode in modes() {
            let mut allowed: Vec<libc::c_long> = BESIDES.to_vec();
            for row in ["all", &name(mode), "data beside code, redirects"] {
                allowed.extend(calls(row).into_iter().filter_map(number));
            }
            let ended = common::fork::fork(|| {
                if !sandbox::allow_only(&allowed) {
                    return;
                }
                use_data(&CodeArena::builder().mode(mode).capacity(4 << 20).build().unwrap());
            });
            assert!(ended, "{mode:?}, data: another call was made than {:?}", calls("data beside code, redirects"));
        }
        // The control: a call that is not in the list ends the process.
        assert!(!common::fork::fork(|| {
            if sandbox::allow_only(&BESIDES) {
                drop(CodeArena::builder().capacity(1 << 20).build());
            }
        }));
    });
}

/// The same for an arena that was built before, with a batch of many functions, and with threads.
#[test]
fn no_other_call_is_made_after_the_build() {
    const NAME: &str = "no_other_call_is_made_after_the_build";
    if !can_filter(NAME) {
        return;
    }
    child::run(NAME, || {
        // Large sizes have mappings of their own, whatever was freed before, and threads have heaps
        // of their own, as in a program that sets nothing.
        for (parameter, value) in [(libc::M_MMAP_THRESHOLD, 128 << 10), (libc::M_ARENA_MAX, 8)] {
            // SAFETY: takes numbers only.
            assert_eq!(unsafe { libc::mallopt(parameter, value) }, 1);
        }
        for (mode, poison) in modes().flat_map(|mode| [(mode, false), (mode, true)]) {
            let allow = |rows: &[&str]| {
                let more = rows.iter().flat_map(|row| calls_after(row)).filter_map(number);
                sandbox::allow_only(&BESIDES.into_iter().chain(more).collect::<Vec<_>>())
            };
            let build_of =
                |capacity| CodeArena::builder().mode(mode).capacity(capacity).poison(poison).build().unwrap();
            let build = || build_of(4 << 20);
            let (name, poisons) = (name(mode), if poison { "`poison`" } else { "no row" });
            let ended = common::fork::fork(|| {
                // To drop an arena takes other calls.
                let arena = ManuallyDrop::new(build());
                if allow(&["all", &name, poisons]) {
                    use_all(&arena);
                    let mut batch = arena.batch();
                    (0..20_000).for_each(|n| assert!(batch.push(&asm::constant(n)).is_ok()));
                    assert!((0..).zip(&batch.publish().unwrap()).all(|(n, block)| call(block) == n));
                }
            });
            assert!(ended, "{mode:?}, poison {poison}: another call was made than {:?}", calls_after(&name));
            let ended = common::fork::fork(|| {
                let arena = ManuallyDrop::new(build());
                if allow(&["all", &name, poisons, "data beside code, redirects"]) {
                    use_data(&arena);
                }
            });
            assert!(ended, "{mode:?}, poison {poison}, data: another call was made");
            let ended = common::fork::fork(|| {
                let arena = ManuallyDrop::new(build());
                let kernel_write_refused = mode == WxMode::Flip && !arena.stats().fills_holes;
                if sandbox::deny(libc::SYS_mprotect) && allow(&["all", &name, poisons, "`mprotect` is refused"]) {
                    let publish = || arena.publish(&asm::constant(5)).map(|block| assert_eq!(call(&block), 5));
                    let mut batch = arena.batch();
                    let pushed = (0..60).try_for_each(|n| batch.push(&asm::padded(n, 2_000)).map(drop));
                    let published = pushed.and_then(|()| batch.publish());
                    // The page says what is refused with it.
                    let outcomes = (publish().is_ok(), published.is_ok(), arena.trim().is_ok(), publish().is_ok());
                    let published = [outcomes.0, outcomes.1, outcomes.3];
                    if kernel_write_refused {
                        assert_eq!(published, [false; 3]);
                    } else {
                        assert!(poison && mode != WxMode::Flip || published == [true; 3], "{outcomes:?}");
                    }
                }
            });
            assert!(ended, "{mode:?}, poison {poison}, `mprotect` refused: another call was made");
            let ended = common::fork::fork(|| {
                // Where no holes are filled, each function takes a page.
                let arena = &build_of(64 << 20);
                let work = |thread: u32| {
                    if !allow(&["all", &name, poisons, "more than one thread"]) {
                        return;
                    }
                    let mut kept = Vec::new();
                    for n in 0..2_000 {
                        kept.push(arena.publish(&asm::padded(thread + n, 40)).unwrap());
                        drop(kept.drain(..(n % 2) as usize));
                    }
                    let mut batch = arena.batch();
                    (0..2_000).for_each(|n| assert!(batch.push(&asm::constant(n)).is_ok()));
                    assert!((0..).zip(&batch.publish().unwrap()).all(|(n, block)| call(block) == n));
                };
                let (ended, panicked) = (&AtomicU32::new(0), &AtomicU32::new(0));
                std::thread::scope(|scope| {
                    for thread in 0..4 {
                        scope.spawn(move || {
                            let worked = catch_unwind(AssertUnwindSafe(|| work(thread))).is_ok();
                            if worked { ended } else { panicked }.fetch_add(1, Ordering::Relaxed);
                            // The end of a thread makes calls of its own.
                            loop {
                                std::thread::park();
                            }
                        });
                    }
                    while ended.load(Ordering::Relaxed) + panicked.load(Ordering::Relaxed) < 4 {
                        std::thread::yield_now();
                    }
                    // SAFETY: ends the child, whose threads do not end.
                    unsafe { libc::_exit(panicked.load(Ordering::Relaxed) as i32) };
                });
            });
            assert!(ended, "{mode:?}, poison {poison}, threads: another call than {:?}", calls_after(&name));
        }
    });
}
