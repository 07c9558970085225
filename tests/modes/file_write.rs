//! Tests of `FileWrite`: limits, filters and other code of the process that change a file to which
//! only the arena should write.
//!
//! | What | How it is checked |
//! |---|---|
//! | limits of file sizes and of descriptors | a call is an error and no signal, whichever call reads the limit; after it is lifted everything works |
//! | filters of system calls | before the build the mode is refused; after it calls fail and lose nothing |
//! | the descriptor is closed, or its number is used again | calls fail; at most one function, or 16 KiB of zeros, is written to the other file; its descriptor stays open |
//! | the view and the file | neither `mprotect` nor `ftruncate` can change them |
//! | the end | the file is closed after the last block |
//!
//! All tests run in child processes, because a limit or a lost descriptor concerns a whole process.
//! They print `NOT RUN` if the system lacks the mode, and some of them under an emulator.
//! `check_works` and `check_refuses` try functions, batches and patches. The checks exist to catch
//! a write that goes to a file of somebody else, or that is lost without an error.

use std::os::fd::RawFd;
use std::os::unix::fs::FileExt;

use crate::common::{self, asm, call, child, fork::fork, maps::mappings, sandbox, small};
use gaia_jit::{CodeArena, CodeBlock, Error, WxMode};

/// Returns an arena with a function, and the descriptor of its file. Prints a message and returns
/// `None` on systems without the mode.
fn arena(test: &str) -> Option<(CodeArena, CodeBlock, RawFd)> {
    let before = descriptors();
    let arena = match small(WxMode::FileWrite).build() {
        Ok(arena) => arena,
        Err(Error::Unsupported { what, why }) => {
            common::not_run(test, &format!("{what}: {why}"));
            return None;
        }
        Err(other) => panic!("{other}"),
    };
    let new: Vec<_> = descriptors().into_iter().filter(|fd| !before.contains(fd)).collect();
    assert_eq!(new.len(), 1, "one descriptor and no more");
    let first = arena.publish(&asm::constant(1)).unwrap();
    Some((arena, first, new[0]))
}

fn descriptors() -> Vec<RawFd> {
    let listed = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers = listed.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap());
    // Without the descriptor of the list itself.
    numbers.filter(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok()).collect()
}

fn set_limit(bytes: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` is valid for the call to read.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) }, 0);
}

/// Checks that everything works: single functions, a batch, a patch, and the return of memory.
fn check_works(arena: &CodeArena) {
    let block = arena.publish(&asm::constant(7)).unwrap();
    // SAFETY: nobody runs it meanwhile.
    unsafe { block.patch(0, &asm::constant(8)) }.unwrap();
    assert_eq!(call(&block), 8);
    let mut batch = arena.batch();
    (0..100).for_each(|n| assert!(batch.push(&asm::padded(n, 1_000)).is_ok()));
    let blocks = batch.publish().unwrap();
    assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n));
    drop((block, blocks));
    assert!(arena.trim().unwrap() > 0);
}

/// Checks that nothing is published, nothing is lost by that, and existing code runs.
fn check_refuses(arena: &CodeArena, first: &CodeBlock, is_expected: impl Fn(&Error) -> bool) {
    let before = arena.stats();
    let refused = arena.publish(&asm::constant(2)).unwrap_err();
    assert!(is_expected(&refused), "{refused:?}");
    let mut batch = arena.batch();
    (0..10).for_each(|n| assert!(batch.push(&asm::constant(n)).is_ok()));
    let refused = batch.publish().unwrap_err();
    assert!(is_expected(&refused), "{refused:?}");
    // SAFETY: nobody runs the block meanwhile. The bytes are equal to the old ones.
    let refused = unsafe { first.patch(0, &asm::constant(1)) }.unwrap_err();
    assert!(is_expected(&refused), "{refused:?}");
    let after = arena.stats();
    assert_eq!((after.live_blocks, after.free_bytes), (before.live_blocks, before.free_bytes));
    assert_eq!(call(first), 1);
}

fn is_system(error: &Error) -> bool {
    matches!(error, Error::OperatingSystem { .. })
}

#[test]
fn a_lower_limit_of_file_sizes_is_an_error_not_a_signal() {
    child::run("a_lower_limit_of_file_sizes_is_an_error_not_a_signal", || {
        // The parent may ignore the signal, and children inherit that.
        // SAFETY: it sets the default of the signal.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_DFL) };
        let Some((arena, first, _)) = arena("a_lower_limit_of_file_sizes_is_an_error_not_a_signal") else { return };
        let code = asm::padded(3, 5_000);
        let far = arena.publish(&asm::padded(2, 100_000)).unwrap();
        // The limit is below everything, inside of a function, and at its end.
        for bytes in [0, 100_500, 102_000] {
            set_limit(bytes);
            if !common::own_kernel("a lower limit") {
                return;
            }
            let refused = arena.publish(&code).unwrap_err();
            assert!(
                matches!(&refused, Error::OperatingSystem { call, .. } if call.contains("RLIMIT_FSIZE")),
                "{refused:?}"
            );
            assert_eq!((call(&first), call(&far)), (1, 2));
        }
        let arena_in_another = small(WxMode::FileWrite).modes(&[WxMode::FileWrite, WxMode::Flip]).build().unwrap();
        assert_eq!((arena_in_another.mode(), arena_in_another.refused()[0].0), (WxMode::Flip, WxMode::FileWrite));
        set_limit(libc::RLIM_INFINITY);
        assert_eq!(call(&arena.publish(&code).unwrap()), 3);
        check_works(&arena);
    });
}

/// Filters know the older call for the limit, or the newer one, or neither.
#[test]
fn the_limit_is_read_by_the_call_that_is_allowed() {
    const NAME: &str = "the_limit_is_read_by_the_call_that_is_allowed";
    child::run(NAME, || {
        // SAFETY: it sets the default of the signal.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_DFL) };
        let Some((arena, first, _)) = arena(NAME) else { return };
        if !common::own_kernel(NAME) || !fork(|| assert!(sandbox::deny(libc::SYS_fallocate))) {
            return common::not_run(NAME, "no filters here");
        }
        // Where longs have 32 bits, the C library chooses the call.
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x"))]
        let calls = [libc::SYS_getrlimit, libc::SYS_prlimit64];
        #[cfg(any(target_arch = "x86", target_arch = "arm"))]
        let calls = [libc::SYS_ugetrlimit, libc::SYS_prlimit64];
        let is_limit = |error: &Error| matches!(error, Error::OperatingSystem { call, .. } if call.contains("RLIMIT"));
        if cfg!(target_pointer_width = "64") {
            for denied in calls {
                let ended = fork(|| {
                    let arena = small(WxMode::FileWrite).build().unwrap();
                    let first = arena.publish(&asm::constant(1)).unwrap();
                    // A limit cannot be set any more after the newer call is denied.
                    set_limit(3_000);
                    assert!(sandbox::deny(denied));
                    assert_eq!(call(&arena.publish(&asm::padded(2, 2_000)).unwrap()), 2);
                    assert!(is_limit(&arena.publish(&asm::padded(2, 5_000)).unwrap_err()));
                    assert_eq!(call(&first), 1);
                });
                assert!(ended, "call {denied} denied");
            }
        }
        // Who ignores the signal need not read the limit.
        assert!(fork(|| {
            // SAFETY: ignoring a signal has no requirements.
            unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
            assert!(calls.into_iter().all(sandbox::deny));
            assert_eq!(call(&small(WxMode::FileWrite).build().unwrap().publish(&asm::constant(5)).unwrap()), 5);
        }));
        // Nobody knows what a limit is that cannot be read.
        let refused = |error: &Error| matches!(error, Error::OperatingSystem { call: "getrlimit", .. });
        assert!(calls.into_iter().all(sandbox::deny));
        check_refuses(&arena, &first, refused);
    });
}

/// A process that ignores the signal gets the error of the write. No part of a function is
/// published.
#[test]
fn the_limit_without_the_signal_is_an_error_too() {
    child::run("the_limit_without_the_signal_is_an_error_too", || {
        // SAFETY: ignoring a signal has no requirements.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        let Some((arena, first, _)) = arena("the_limit_without_the_signal_is_an_error_too") else { return };
        if !common::own_kernel("the_limit_without_the_signal_is_an_error_too") {
            return;
        }
        let far = arena.publish(&asm::padded(2, 100_000)).unwrap();
        for bytes in [8, 100_500] {
            set_limit(bytes);
            let refused = small(WxMode::FileWrite).build().unwrap_err();
            assert!(matches!(&refused, Error::Unsupported { why, .. } if why.contains("RLIMIT_FSIZE")), "{refused}");
            assert!(is_system(&arena.publish(&asm::padded(3, 5_000)).unwrap_err()));
            assert_eq!((call(&first), call(&far)), (1, 2));
        }
        set_limit(libc::RLIM_INFINITY);
        check_works(&arena);
    });
}

#[test]
fn filters_that_come_late_are_errors() {
    child::run("filters_that_come_late_are_errors", || {
        for (call, name) in
            [(libc::SYS_pwrite64, "pwrite64"), (libc::SYS_fallocate, "fallocate"), (libc::SYS_memfd_create, "memfd")]
        {
            assert!(fork(|| {
                let Some((arena, first, _)) = arena("filters_that_come_late_are_errors") else { return };
                if !sandbox::deny(call) {
                    return common::not_run("filters_that_come_late_are_errors", "no filters here");
                }
                match name {
                    "pwrite64" => check_refuses(&arena, &first, is_system),
                    "memfd" => check_works(&arena),
                    _ => {
                        drop(arena.publish(&asm::padded(1, 100_000)).unwrap());
                        assert!(is_system(&arena.trim().unwrap_err()));
                        let again = arena.publish(&asm::padded(4, 100_000)).unwrap();
                        assert_eq!((common::call(&again), common::call(&first)), (4, 1));
                    }
                }
            }));
        }
    });
}

#[test]
fn filters_that_were_there_before_refuse_the_mode() {
    child::run("filters_that_were_there_before_refuse_the_mode", || {
        for (denied, name) in
            [(libc::SYS_pwrite64, "pwrite64"), (libc::SYS_fallocate, "fallocate"), (libc::SYS_memfd_create, "memfd")]
        {
            assert!(fork(|| {
                if arena("filters_that_were_there_before_refuse_the_mode").is_none() {
                    return;
                }
                if !sandbox::deny(denied) {
                    return common::not_run("filters_that_were_there_before_refuse_the_mode", "no filters here");
                }
                match (name, small(WxMode::FileWrite).build()) {
                    // Code is published, and memory stays, as `trim` reports.
                    ("fallocate", built) => {
                        let arena = built.unwrap();
                        drop(arena.publish(&asm::padded(1, 100_000)).unwrap());
                        assert_eq!(arena.trim().unwrap(), 0);
                        assert_eq!(call(&arena.publish(&asm::constant(4)).unwrap()), 4);
                    }
                    (_, Err(Error::Unsupported { what: "FileWrite", why })) => {
                        assert!(why.contains("refused"), "{why}");
                        let arena = small(WxMode::FileWrite).modes(&[WxMode::FileWrite, WxMode::Flip]).build().unwrap();
                        assert_eq!((arena.mode(), arena.refused()[0].0), (WxMode::Flip, WxMode::FileWrite));
                        let none = small(WxMode::FileWrite).modes(&[WxMode::FileWrite; 2]).build();
                        assert!(matches!(&none, Err(Error::Unsupported { why, .. }) if why.contains("; ")), "{none:?}");
                    }
                    (_, other) => panic!("{name}: {other:?}"),
                }
            }));
        }
    });
}

#[test]
fn a_descriptor_that_others_close_is_an_error() {
    child::run("a_descriptor_that_others_close_is_an_error", || {
        let Some((arena, first, fd)) = arena("a_descriptor_that_others_close_is_an_error") else { return };
        drop(arena.publish(&asm::padded(1, 200_000)).unwrap());
        // SAFETY: the test is about a descriptor that other code closes. The process needs no
        // other.
        unsafe { libc::close(fd) };
        check_refuses(&arena, &first, is_system);
        assert!(arena.trim().is_err());
    });
}

/// One function at most is written to another file, because the write is noticed. No part of that
/// file is removed, and its descriptor is not closed.
#[test]
fn a_descriptor_whose_number_leads_elsewhere_is_an_error() {
    child::run("a_descriptor_whose_number_leads_elsewhere_is_an_error", || {
        let Some((arena, first, fd)) = arena("a_descriptor_whose_number_leads_elsewhere_is_an_error") else { return };
        drop(arena.publish(&asm::padded(1, 200_000)).unwrap());
        let other = tempfile();
        other.write_all_at(&[9; 300_000], 0).unwrap();
        // SAFETY: the test is about a descriptor that other code closes. The process needs no
        // other.
        assert_eq!(unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&other), fd) }, fd);
        let elsewhere = |error: &Error| format!("{error:?}").contains("elsewhere");
        check_refuses(&arena, &first, elsewhere);
        assert!(arena.trim().is_err());
        let mut bytes = vec![0; 300_000];
        other.read_exact_at(&mut bytes, 0).unwrap();
        let changed = bytes.iter().filter(|byte| **byte != 9).count();
        // Including the padding.
        assert!(changed <= asm::constant(2).len().next_multiple_of(16), "{changed} bytes of another file");
        drop((first, arena));
        // SAFETY: takes numbers only.
        assert!(unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0, "another's descriptor was closed");
    });
}

/// The same where the next function begins in a page without memory, and others get memory with it:
/// no zeros are written.
#[test]
fn no_zeros_go_to_another_file() {
    const NAME: &str = "no_zeros_go_to_another_file";
    child::run(NAME, || {
        const CAPACITY: usize = 8 << 20;
        let before = descriptors();
        let builder = CodeArena::builder().mode(WxMode::FileWrite).capacity(CAPACITY);
        let arena = match builder.build() {
            Err(Error::Unsupported { why, .. }) => return common::not_run(NAME, &why),
            arena => arena.unwrap(),
        };
        let fd = descriptors().into_iter().find(|fd| !before.contains(fd)).unwrap();
        let (mut blocks, mut used) = (Vec::new(), 0);
        while used < 3 << 20 || arena.stats().resident_bytes != used {
            blocks.push(arena.publish(&asm::padded(1, 512)).unwrap());
            used += 512;
        }
        let other = tempfile();
        other.write_all_at(&vec![9; CAPACITY], 0).unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&other), fd) }, fd);
        assert!(arena.publish(&asm::padded(1, 512)).is_err());
        let mut bytes = vec![0; CAPACITY];
        other.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes[used + 512..].iter().all(|byte| *byte == 9));
        assert!(blocks.iter().all(|block| call(block) == 1));
    });
}

fn tempfile() -> std::fs::File {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"other".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: it is a new descriptor, which nobody else owns.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) }
}

#[test]
fn the_view_and_the_file_stay_as_they_are() {
    child::run("the_view_and_the_file_stay_as_they_are", || {
        let Some((arena, first, fd)) = arena("the_view_and_the_file_stay_as_they_are") else { return };
        let page = region::page::size();
        let at = first.as_ptr().addr() & !(page - 1);
        // SAFETY: the range is one page of the arena. The call is expected to be refused.
        let changed = unsafe { libc::mprotect(at as *mut _, page, libc::PROT_READ | libc::PROT_WRITE) };
        assert_eq!((changed, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EACCES)));
        // SAFETY: takes numbers only; expected to be refused.
        assert_eq!(unsafe { libc::ftruncate(fd, 0) }, -1, "a truncation would be SIGBUS in every thread");
        // SAFETY: takes numbers only.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_GETFD) } & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        assert!(fd > 100, "{fd} is in the way of programs that choose numbers");
        // There are always two mappings: the part with code, and the part that is left out of core
        // dumps.
        check_works(&arena);
        let rights: Vec<_> = mappings(at, arena.capacity()).into_iter().collect();
        assert!(rights.len() <= 2 && rights.iter().all(|rights| rights == "r-xs"), "{rights:?}");
        assert_eq!(call(&first), 1);
    });
}

#[test]
fn what_an_arena_held_is_given_back() {
    child::run("what_an_arena_held_is_given_back", || {
        let Some((arena, first, fd)) = arena("what_an_arena_held_is_given_back") else { return };
        drop(arena);
        // SAFETY: takes numbers only.
        assert!(unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0);
        assert_eq!(call(&first), 1);
        drop(first);
        let link = std::fs::read_link(format!("/proc/self/fd/{fd}"));
        assert!(link.is_err() || !link.unwrap().to_str().unwrap().contains("gaia-jit"));
    });
}

#[test]
fn no_descriptor_is_left_to_be_had() {
    child::run("no_descriptor_is_left_to_be_had", || {
        if arena("no_descriptor_is_left_to_be_had").is_none() || !common::own_kernel("no_descriptor_is_left_to_be_had")
        {
            return;
        }
        for soft in 0..8 {
            let limited = libc::rlimit { rlim_cur: soft, rlim_max: 4096 };
            // SAFETY: `limited` is valid for the call to read.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limited) }, 0);
            match small(WxMode::FileWrite).build() {
                Ok(arena) => check_works(&arena),
                Err(error) => assert!(is_system(&error), "{error:?}"),
            }
        }
    });
}

/// An arena that lost its descriptor to other code does not write to the code of the next arena,
/// which gets the same number.
#[test]
fn another_arena_with_the_same_number_is_left_alone() {
    child::run("another_arena_with_the_same_number_is_left_alone", || {
        let Some((lost, first, fd)) = arena("another_arena_with_the_same_number_is_left_alone") else { return };
        // SAFETY: the test is about a descriptor that other code closes. The process needs no
        // other.
        unsafe { libc::close(fd) };
        let Some((other, _, number)) = arena("another_arena_with_the_same_number_is_left_alone") else { return };
        assert_eq!(number, fd);
        let blocks: Vec<_> = (0..50).map(|n| other.publish(&asm::constant(n)).unwrap()).collect();
        check_refuses(&lost, &first, |error| format!("{error:?}").contains("elsewhere"));
        drop((lost, first));
        assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n));
        check_works(&other);
    });
}
