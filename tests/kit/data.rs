//! Tests of data beside code.
//!
//! | What | How it is checked |
//! |---|---|
//! | content, alignment, access | the bytes are read back in both kinds of access and several sizes |
//! | errors | `DataFull`, `TooLarge`, `BadAlignment` and panics leave the data area empty |
//! | lifetime | a data block keeps its arena; a guard keeps the bytes of a dropped block |
//! | constants | readers go on while a page gets more of them; a store to one ends a child process |
//! | batches | data is published with the functions or not at all |
//! | refusals after the build | `openat`, descriptors, `mprotect` or kernel writes are denied |
//! | forked children, given memory | a child can place no data; both kinds of access work in memory of the user |
//!
//! The refusals need child processes, because filters and limits stay until a process ends. They
//! print `NOT RUN` without filters, and two of them with a sanitizer. `GAIA_TEST_MODE` passes the
//! mode to the child that is killed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[cfg(target_os = "linux")]
use gaia_jit::Batch;
use gaia_jit::{DataAccess, DataBlock, Error};

use super::common::{StopOnDrop, asm, call, modes, small};

fn bytes_of(block: &DataBlock) -> Vec<u8> {
    // SAFETY: the block lives, and nobody writes to it.
    (0..block.len()).map(|at| unsafe { block.as_ptr().wrapping_add(at).read_volatile() }).collect()
}

#[test]
fn data_is_there_as_it_was_written() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        for access in [DataAccess::ReadOnly, DataAccess::ReadWrite] {
            for (len, align) in [(1, 1), (16, 16), (100, 64), (4096, 4096), (50_000, 32_768)] {
                let block = arena.data(len, align, access, |address, bytes| {
                    assert_eq!((address as usize % align, bytes.len()), (0, len));
                    assert!(bytes.iter().all(|byte| *byte == 0));
                    bytes.iter_mut().enumerate().for_each(|(n, byte)| *byte = n as u8);
                    bytes[len - 1] = 77;
                });
                let block = block.unwrap();
                assert_eq!(
                    (block.len(), block.access(), block.as_mut_ptr().is_some()),
                    (len, access, access == DataAccess::ReadWrite)
                );
                assert!(arena.contains(block.as_ptr()) && arena.lookup(block.as_ptr()).is_none());
                assert_eq!(bytes_of(&block)[len - 1], 77);
                let stats = arena.stats();
                assert!(
                    stats.data_blocks == 1 && stats.data_bytes >= len && stats.data_resident_bytes >= len,
                    "{stats}"
                );
                if let Some(at) = block.as_mut_ptr() {
                    // SAFETY: the block is this test's own, and writable.
                    unsafe { at.write_volatile(78) };
                    assert_eq!(bytes_of(&block)[0], 78);
                }
            }
        }
        assert_eq!((arena.stats().data_blocks, arena.stats().data_bytes, arena.stats().live_blocks), (0, 0, 0));
    }
}

#[test]
fn what_cannot_be_had_is_said() {
    for mode in modes() {
        let arena = small(mode).data(64 << 10).build().unwrap();
        for access in [DataAccess::ReadOnly, DataAccess::ReadWrite] {
            let place = |len: usize, align: usize| arena.data(len, align, access, |_, _| {});
            assert!(matches!(place(0, 1), Err(Error::ZeroSize)));
            assert!(matches!(place((64 << 10) + 1, 1), Err(Error::TooLarge { .. })));
            for align in [0, 3, 128 << 10] {
                assert!(matches!(place(1, align), Err(Error::BadAlignment { .. })), "{align}");
            }
            // The space of a dropped block waits for the guard.
            let whole = place(64 << 10, 1).unwrap();
            let guard = arena.pin();
            drop(whole);
            let stats = arena.stats();
            assert_eq!((stats.data_blocks, stats.pending_data_bytes, stats.data_bytes), (0, 64 << 10, 64 << 10));
            assert!(matches!(place(16, 1), Err(Error::DataFull { free: 0, waiting: 65_536, .. })), "{mode:?}");
            drop(guard);
            let again = place(64 << 10, 1).unwrap();
            assert_eq!(arena.stats().pending_data_bytes, 0);
            assert!(matches!(place(16, 1), Err(Error::DataFull { waiting: 0, .. })));
            drop(again);
            let panicked = catch_unwind(AssertUnwindSafe(|| arena.data(500, 1, access, |_, _| panic!("as meant"))));
            assert!(panicked.is_err());
            assert_eq!((arena.stats().data_bytes, arena.stats().data_blocks), (0, 0));
        }
        let none = small(mode).data(0).build().unwrap();
        assert!(matches!(none.data(1, 1, DataAccess::ReadOnly, |_, _| {}), Err(Error::DataFull { .. })));
    }
}

/// A block of data keeps the arena alive. A guard keeps the bytes of a dropped one.
#[test]
fn data_outlives_handles_and_waits_for_guards() {
    for mode in modes() {
        // If the kernel does not write to them, each takes a page.
        let arena = small(mode).data(4 << 20).build().unwrap();
        let block = arena.data(64, 8, DataAccess::ReadOnly, |_, bytes| bytes.fill(5)).unwrap();
        let weak = arena.downgrade();
        drop(arena);
        assert_eq!(bytes_of(&block), [5; 64]);
        let arena = weak.upgrade().unwrap();
        let (guard, at) = (arena.pin(), block.as_ptr());
        drop(block);
        let others: Vec<_> =
            (0..50).map(|_| arena.data(64, 8, DataAccess::ReadOnly, |_, bytes| bytes.fill(6)).unwrap()).collect();
        // SAFETY: the space is not used again before the guard ends.
        assert!((0..64).all(|n| unsafe { at.wrapping_add(n).read_volatile() } == 5), "{mode:?}");
        drop(guard);
        drop(others);
        assert_eq!(arena.stats().data_bytes, 0);
    }
}

/// Readers of a page are not disturbed while others write constants to it.
#[test]
fn readers_go_on_while_constants_are_added() {
    for mode in modes() {
        let arena = small(mode).data(4 << 20).build().unwrap();
        let first = arena.data(16, 8, DataAccess::ReadOnly, |_, bytes| bytes.fill(7)).unwrap();
        let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let _ended = StopOnDrop(&stop);
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(bytes_of(&first), [7; 16]);
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
            for round in 0.. {
                let more: Vec<_> = (0..50)
                    .map(|_| arena.data(48, 8, DataAccess::ReadOnly, |_, bytes| bytes.fill(1)).unwrap())
                    .collect();
                drop(more);
                let _ = arena.trim();
                if round > 20 && reads.load(Ordering::Relaxed) > 100 {
                    break;
                }
            }
        });
    }
}

/// A store to a constant ends the process.
#[cfg(target_os = "linux")]
#[test]
fn constants_cannot_be_written_to() {
    use std::os::unix::process::ExitStatusExt;
    for (mode, index) in modes().zip(0..) {
        let test = "constants_cannot_be_written_to";
        let wanted = std::env::var("GAIA_TEST_MODE").ok();
        if wanted.as_ref().is_some_and(|wanted| *wanted != index.to_string()) {
            continue;
        }
        if wanted.is_none() {
            // SAFETY: no other thread of this test uses this variable of the environment meanwhile.
            unsafe { std::env::set_var("GAIA_TEST_MODE", index.to_string()) };
        }
        let output = super::common::child::output(test, || {
            let arena = small(mode).build().unwrap();
            let block = arena.data(16, 8, DataAccess::ReadOnly, |_, bytes| bytes.fill(7)).unwrap();
            // SAFETY: it is not sound. It is expected to end this process.
            unsafe { block.as_ptr().cast_mut().write_volatile(1) };
        });
        // SAFETY: as above.
        unsafe { std::env::remove_var("GAIA_TEST_MODE") };
        assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{mode:?}: {output:?}");
    }
}

#[test]
fn a_batch_has_data_or_nothing() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let mut batch = arena.batch();
        let code = batch.push(&asm::constant(3)).unwrap();
        let constant = batch.data(100, 16, DataAccess::ReadOnly, |_, bytes| bytes.fill(1)).unwrap();
        let variable = batch.data(8, 8, DataAccess::ReadWrite, |_, bytes| bytes.fill(2)).unwrap();
        let addresses = [constant, variable].map(|slot| batch.data_address(slot));
        assert_eq!((constant.index(), variable.index()), (0, 1));
        assert!(arena.batch().data_address(constant).is_null());
        let (blocks, data) = batch.publish_with_data().unwrap();
        assert_eq!(call(&blocks[code.index()]), 3);
        assert_eq!((bytes_of(&data[0]), bytes_of(&data[1])), (vec![1; 100], vec![2; 8]));
        assert_eq!([data[0].as_ptr(), data[1].as_ptr()], addresses);
        drop((blocks, data));
        // If the batch is not published, or by the call that returns no data, nothing is left.
        for publish in [false, true] {
            let mut batch = arena.batch();
            batch.push(&asm::constant(3)).unwrap();
            batch.data(100, 16, DataAccess::ReadOnly, |_, _| {}).unwrap();
            if publish {
                assert!(matches!(batch.publish(), Err(Error::Unsupported { what: "`publish`", .. })));
            } else {
                drop(batch);
            }
            let stats = arena.stats();
            assert_eq!((stats.live_blocks, stats.batch_bytes, stats.data_bytes), (0, 0, 0), "{mode:?}");
        }
        // A batch with data only.
        let mut batch = arena.batch();
        batch.data(100, 16, DataAccess::ReadOnly, |_, bytes| bytes.fill(4)).unwrap();
        let (blocks, data) = batch.publish_with_data().unwrap();
        assert_eq!((blocks.len(), bytes_of(&data[0])), (0, vec![4; 100]));
    }
}

/// A child is refused, and the data that it drops stays in its parent.
#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_makes_no_data() {
    use super::common::{child, fork::fork};
    child::run("a_forked_child_makes_no_data", || {
        for mode in modes() {
            let arena = small(mode).build().unwrap();
            let mut block = Some(arena.data(16, 8, DataAccess::ReadOnly, |_, bytes| bytes.fill(7)).unwrap());
            let mut batch = Some(arena.batch());
            batch.as_mut().unwrap().data(16, 8, DataAccess::ReadOnly, |_, _| {}).unwrap();
            let before = arena.stats().data_blocks;
            assert!(fork(|| {
                for access in [DataAccess::ReadOnly, DataAccess::ReadWrite] {
                    assert!(matches!(arena.data(16, 8, access, |_, _| {}), Err(Error::Forked { .. })));
                }
                assert_eq!(bytes_of(block.as_ref().unwrap()), [7; 16]);
                drop(block.take());
                assert!(matches!(batch.take().unwrap().publish_with_data(), Err(Error::Forked { .. })));
                // The child counts nothing.
                assert_eq!(arena.stats().data_blocks, before);
            }));
            assert_eq!(bytes_of(block.as_ref().unwrap()), [7; 16]);
            drop((block, batch));
            assert_eq!(arena.stats().data_bytes, 0, "{mode:?}");
        }
    });
}

/// Over given memory both kinds stay writable, and share pages.
#[cfg(target_os = "linux")]
#[test]
fn given_memory_has_data() {
    use gaia_jit::{CodeArena, GivenMemory, GivenWriter, WxMode};
    use std::ptr::NonNull;
    const LEN: usize = 64 << 10;
    if !modes().any(|mode| mode == WxMode::DualMap) {
        return super::common::not_run("given_memory_has_data", "what is written to a second view does not run here");
    }
    // SAFETY: the name is a C string.
    let file = unsafe { libc::memfd_create(c"given".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: takes numbers only.
    assert_eq!(unsafe { libc::ftruncate(file, 3 * LEN as libc::off_t) }, 0);
    let map = |access: i32, from: usize, len: usize| {
        // SAFETY: a new mapping, wherever the system likes.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, file, from as libc::off_t) };
        assert_ne!(start, libc::MAP_FAILED);
        NonNull::new(start.cast::<u8>()).unwrap()
    };
    let all = map(libc::PROT_READ | libc::PROT_WRITE, 0, 3 * LEN);
    // SAFETY: it is inside of this test's mapping. Code runs at its start.
    let changed = unsafe { libc::mprotect(all.as_ptr().cast(), LEN, libc::PROT_READ | libc::PROT_EXEC) };
    assert_eq!(changed, 0);
    let alias = map(libc::PROT_READ | libc::PROT_WRITE, 0, LEN);
    // SAFETY: inside of the mapping.
    let data = unsafe { all.add(2 * LEN) };
    let memory = GivenMemory {
        executable: NonNull::slice_from_raw_parts(all, LEN),
        writer: GivenWriter::Alias(alias),
        data: Some(NonNull::slice_from_raw_parts(data, LEN)),
        release: None,
    };
    // SAFETY: these are views of one memory that stay for ever.
    let arena = unsafe { CodeArena::builder().build_over(memory) }.unwrap();
    let block = |access| arena.data(40, 8, access, |_, bytes| bytes.fill(3)).unwrap();
    let blocks = [block(DataAccess::ReadOnly), block(DataAccess::ReadWrite), block(DataAccess::ReadOnly)];
    assert!(blocks.iter().all(|block| bytes_of(block) == [3; 40] && arena.contains(block.as_ptr())));
    let stats = arena.stats();
    assert_eq!((stats.data_bytes, stats.data_blocks, stats.flips, stats.kernel_writes), (3 * 48, 3, 0, 0));
    drop(blocks);
    assert_eq!(arena.stats().data_bytes, 0);
}

/// `/proc/self/mem` cannot be opened any more. The first constants that meet the refusal are an
/// error. Later ones take pages.
#[cfg(target_os = "linux")]
#[test]
fn constants_where_nothing_can_be_opened_any_more() {
    const NAME: &str = "constants_where_nothing_can_be_opened_any_more";
    if super::common::sanitized() {
        return super::common::not_run(NAME, "at its end a sanitizer opens files");
    }
    super::common::child::run(NAME, || {
        // An arena in `Flip` would keep the descriptor open for all.
        let others = modes().filter(|mode| *mode != gaia_jit::WxMode::Flip);
        let arenas: Vec<_> = others.map(|mode| small(mode).build().unwrap()).collect();
        let place = |arena: &gaia_jit::CodeArena| arena.data(16, 16, DataAccess::ReadOnly, |_, bytes| bytes.fill(1));
        let before: Vec<_> = arenas.iter().map(|arena| place(arena).unwrap()).collect();
        if !super::common::sandbox::deny(libc::SYS_openat) {
            return super::common::not_run(NAME, "no filters here");
        }
        for (arena, before) in arenas.iter().zip(&before) {
            let refused = (0..100).filter(|_| match place(arena) {
                Ok(block) => {
                    assert_eq!(bytes_of(&block), [1; 16]);
                    false
                }
                Err(Error::OperatingSystem { .. }) => true,
                Err(other) => panic!("{other}"),
            });
            assert!(refused.count() <= 1, "{:?}", arena.mode());
            assert_eq!(bytes_of(before), [1; 16]);
        }
    });
}

/// The same for a lack of descriptors, which passes: then constants share pages again.
#[cfg(target_os = "linux")]
#[test]
fn constants_where_descriptors_are_wanting_for_a_while() {
    const NAME: &str = "constants_where_descriptors_are_wanting_for_a_while";
    super::common::child::run(NAME, || {
        let Ok(arena) = small(gaia_jit::WxMode::DualMap).build() else { return };
        let place = || arena.data(16, 16, DataAccess::ReadOnly, |_, bytes| bytes.fill(1));
        let blocks: Vec<_> = (0..2).map(|_| place().unwrap()).collect();
        if arena.stats().data_bytes > 32 || !super::common::fills_holes(gaia_jit::WxMode::Flip) {
            return super::common::not_run(NAME, "constants share no pages here");
        }
        let limit = |soft| {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: valid for the call to write to.
            assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
            let before = std::mem::replace(&mut limit.rlim_cur, soft);
            // SAFETY: valid for the call to read.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
            before
        };
        let before = limit(0);
        assert!(place().is_err());
        limit(before);
        let later = place().unwrap();
        assert_eq!(later.as_ptr().addr(), blocks[1].as_ptr().addr() + 16);
    });
}

/// Fresh pages for data are made writable, so a policy against changes of protection refuses them.
/// Code can still be published.
#[cfg(target_os = "linux")]
#[test]
fn data_where_protections_cannot_change_any_more() {
    const NAME: &str = "data_where_protections_cannot_change_any_more";
    if super::common::sanitized() {
        return super::common::not_run(NAME, "at its end a sanitizer protects pages");
    }
    super::common::child::run(NAME, || {
        let arenas: Vec<_> =
            modes().filter(|mode| super::common::fills_holes(*mode)).map(|mode| small(mode).build().unwrap()).collect();
        if !super::common::sandbox::deny(libc::SYS_mprotect) {
            return super::common::not_run(NAME, "no filters here");
        }
        for arena in arenas {
            let mode = arena.mode();
            for access in [DataAccess::ReadWrite, DataAccess::ReadOnly] {
                let refused = arena.data(16, 16, access, |_, bytes| bytes.fill(1));
                assert!(matches!(refused, Err(Error::OperatingSystem { .. })), "{mode:?} {access:?}: {refused:?}");
            }
            let block = arena.publish(&asm::constant(5)).unwrap();
            assert!(matches!(arena.redirect(block), Err(Error::OperatingSystem { .. })), "{mode:?}");
            let stats = arena.stats();
            assert_eq!((stats.data_bytes, stats.data_blocks, stats.live_blocks), (0, 0, 0), "{mode:?}");
            assert_eq!(call(&arena.publish(&asm::constant(5)).unwrap()), 5, "{mode:?}");
        }
    });
}

/// The closure that was to fill constants panicked, and the batch continues without them.
#[cfg(target_os = "linux")]
#[test]
fn constants_whose_filling_panicked_come_free() {
    const NAME: &str = "constants_whose_filling_panicked_come_free";
    super::common::child::run(NAME, || {
        let arenas: Vec<_> = modes().map(|mode| small(mode).build().unwrap()).collect();
        // With the kernel write, and with pages that belong to one batch.
        for refused in [false, true] {
            if refused && !super::common::sandbox::deny_kernel_writes() {
                return super::common::not_run(NAME, "no filters here");
            }
            for arena in arenas.iter().filter(|arena| !refused || arena.mode() != gaia_jit::WxMode::FileWrite) {
                for before in [0, 1, 3] {
                    let mut batch = arena.batch();
                    let place = |batch: &mut Batch| batch.data(100, 16, DataAccess::ReadOnly, |_, bytes| bytes.fill(1));
                    (0..before).for_each(|_| assert!(place(&mut batch).is_ok()));
                    for len in [1_000, 10_000] {
                        let fill = || batch.data(len, 64, DataAccess::ReadOnly, |_, _| panic!("not filled"));
                        assert!(catch_unwind(AssertUnwindSafe(fill)).is_err());
                    }
                    place(&mut batch).unwrap();
                    // The first that meets the refusal is an error.
                    if let Ok((_, data)) = batch.publish_with_data() {
                        assert!(data.len() == before + 1 && data.iter().all(|block| bytes_of(block) == [1; 100]));
                    }
                    let stats = arena.stats();
                    assert_eq!((stats.data_blocks, stats.data_bytes), (0, 0), "{:?}, {refused}", arena.mode());
                }
            }
        }
    });
}
