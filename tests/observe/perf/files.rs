//! Tests of the files of `PerfMap` and `Jitdump`: who may write them, and what happens to records
//! without room.
//!
//! - *Forked children*: the files of the parent stay as they are, and a child has a map of its own.
//! - *No room*: with a limit or a full disk, records are counted as lost. None is cut off, and
//!   later ones are written.
//! - *Names*: a link at the path of the map is replaced, and what it leads to is not written. One
//!   file is not opened twice under two names.
//! - *One map*: a process has one map at a time, and its lines are written soon without `flush`.
//!
//! All tests have a process of their own, because the name of a map contains the number of the
//! process. The full disk is a `tmpfs` of 256 KiB in a new mount namespace. It needs the right to
//! mount, and `NOT RUN` is printed without it. The tests exist to catch half a record, which makes
//! the rest of a jitdump unreadable, and a write through a link that somebody else placed in
//! `/tmp`.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{directory, line, lines};
use crate::common::{self, LARGE, asm, call, child, fork::fork, jitdump, small};
use gaia_jit::observe::{Jitdump, PerfMap};
use gaia_jit::{Code, CodeArena, Error, WxMode};

#[test]
fn a_forked_child_leaves_its_parents_files_alone() {
    child::run("a_forked_child_leaves_its_parents_files_alone", || {
        let directory = directory("fork");
        let map = Arc::new(PerfMap::new().unwrap());
        let dump = Arc::new(Jitdump::in_directory(&directory).unwrap());
        let build = || small(WxMode::Flip).observer(map.clone()).observer(dump.clone()).build().unwrap();
        let (mut arena, code) = (Some(build()), asm::constant(1));
        let publish = |arena: &CodeArena, name| arena.publish(Code::new(&code).name(name)).unwrap();
        let mut block = Some(publish(arena.as_ref().unwrap(), "before"));
        let (mut map_of_child, mut dump_of_child) = (Some(map.clone()), Some(dump.clone()));
        assert!(fork(|| {
            let own = build();
            drop(publish(&own, "in the child"));
            assert_eq!((map.lost(), dump.lost()), (1, 1));
            assert!(map.flush().is_err() && dump.flush().is_err());
            // The child can have a map of its own.
            let mine = Arc::new(PerfMap::new().unwrap());
            assert_ne!(mine.path(), map.path());
            let watched = small(WxMode::Flip).observer(mine.clone()).build().unwrap();
            let kept = publish(&watched, "the child's own");
            mine.flush().unwrap();
            assert_eq!(lines(mine.path()), [line(&kept, "the child's own")]);
            fs::remove_file(mine.path()).unwrap();
            // The child drops everything that it inherited.
            drop((block.take(), arena.take(), map_of_child.take(), dump_of_child.take()));
            // SAFETY: these are the parent's handles, in a copy that nobody uses any more.
            unsafe { std::ptr::drop_in_place((&raw const map).cast_mut()) };
            // SAFETY: as above.
            unsafe { std::ptr::drop_in_place((&raw const dump).cast_mut()) };
            // SAFETY: it ends the child without running the parent's code, and without dropping the
            // handles again.
            unsafe { libc::_exit(0) };
        }));
        let after = publish(arena.as_ref().unwrap(), "after");
        map.flush().unwrap();
        dump.flush().unwrap();
        let expected = [(block.as_ref().unwrap(), "before"), (&after, "after")];
        let mut found = lines(map.path());
        found.sort_by_key(|line| line.0);
        let mut sorted = expected.map(|(block, name)| line(block, name));
        sorted.sort_by_key(|line| line.0);
        assert_eq!(found, sorted);
        let loaded = jitdump::read(dump.path()).loads;
        assert_eq!(loaded.iter().map(|load| load.name.as_str()).collect::<Vec<_>>(), ["before", "after"]);
        fs::remove_file(map.path()).unwrap();
        fs::remove_dir_all(directory).unwrap();
    });
}

#[test]
fn a_limit_on_files_costs_lines_and_nothing_else() {
    if !common::own_kernel("a_limit_on_files_costs_lines_and_nothing_else") {
        return;
    }
    child::run("a_limit_on_files_costs_lines_and_nothing_else", || {
        let map = Arc::new(PerfMap::new().unwrap());
        let arena = CodeArena::builder().capacity(LARGE).observer(map.clone()).build().unwrap();
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is valid for the call to write to.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) }, 0);
        let set = |bytes| {
            let limit = libc::rlimit { rlim_cur: bytes, ..limit };
            // SAFETY: the limit is valid to read.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) }, 0);
        };
        set(100_000);
        let publish = |count: u32| {
            let publish = |n| arena.publish(Code::new(&asm::constant(n % 1000)).name("within a limit")).unwrap();
            (0..count).map(publish).collect::<Vec<_>>()
        };
        let blocks = publish(10_000);
        let flushed = map.flush();
        assert!(matches!(flushed, Ok(()) | Err(Error::OperatingSystem { .. })), "{flushed:?}");
        assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n % 1000));
        let written = lines(map.path()).len();
        assert!(written > 0 && written < 10_000);
        assert_eq!(map.lost(), 10_000 - written as u64);
        // Later there is room again.
        set(limit.rlim_max);
        let more = publish(10);
        map.flush().unwrap();
        assert_eq!(lines(map.path()).len(), written + more.len());
        fs::remove_file(map.path()).unwrap();
    });
}

/// A write that fails halfway is undone. When there is room again, the next records follow a whole
/// record.
#[test]
fn a_full_disk_costs_records_and_nothing_else() {
    const NAME: &str = "a_full_disk_costs_records_and_nothing_else";
    let output = child::output(NAME, || {
        let directory = directory("full");
        let target = std::ffi::CString::new(directory.to_str().unwrap()).unwrap();
        // SAFETY: has no requirements.
        let alone = unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0;
        let (kind, private) = (c"tmpfs".as_ptr(), libc::MS_REC | libc::MS_PRIVATE);
        // SAFETY: all of these are C strings. Only this process sees the mount.
        let private = alone && unsafe { libc::mount(kind, c"/".as_ptr(), kind, private, std::ptr::null()) } == 0;
        let options = c"size=256k".as_ptr().cast();
        // SAFETY: as above.
        if !private || unsafe { libc::mount(kind, target.as_ptr(), kind, 0, options) } != 0 {
            common::not_run(NAME, "no file system can be mounted");
            return fs::remove_dir(&directory).unwrap();
        }
        let filler = directory.join("filler");
        fs::write(&filler, vec![1; 100 << 10]).unwrap();
        let dump = Arc::new(Jitdump::in_directory(&directory).unwrap());
        let arena = CodeArena::builder().capacity(16 << 20).observer(dump.clone()).build().unwrap();
        let code = asm::padded(1, 1000);
        let mut blocks: Vec<_> = (0..500).map(|_| arena.publish(&code).unwrap()).collect();
        assert!(dump.flush().is_err() || dump.lost() > 0);
        let written = jitdump::read(dump.path()).loads.len();
        assert_eq!(dump.lost(), 500 - written as u64);
        assert!(written > 0 && written < 500, "{written}");
        fs::remove_file(&filler).unwrap();
        blocks.push(arena.publish(Code::new(&code).name("room again")).unwrap());
        dump.flush().unwrap();
        let loads = jitdump::read(dump.path()).loads;
        assert_eq!((loads.len(), loads.last().unwrap().name.as_str()), (written + 1, "room again"));
        fs::remove_file(dump.path()).unwrap();
        drop((blocks, arena, dump));
        // As many lines of a map are written as there is room for.
        fs::write(&filler, vec![1; 100 << 10]).unwrap();
        let map = Arc::new(PerfMap::in_directory(&directory).unwrap());
        let arena = CodeArena::builder().capacity(16 << 20).observer(map.clone()).build().unwrap();
        let publish = |name: &str| arena.publish(Code::new(&asm::constant(1)).name(name)).unwrap();
        let long = "a long name ".repeat(10);
        let mut blocks: Vec<_> = (0..2000).map(|_| publish(&long)).collect();
        assert!(map.flush().is_err() || map.lost() > 0);
        let written = lines(map.path());
        assert!(written.iter().all(|line| line.2 == long), "half a line");
        assert!((100..2000).contains(&written.len()) && map.lost() == 2000 - written.len() as u64, "{map:?}");
        fs::remove_file(&filler).unwrap();
        blocks.push(publish("room again"));
        map.flush().unwrap();
        let after = lines(map.path());
        assert_eq!((after.len(), after.last().unwrap().2.as_str()), (written.len() + 1, "room again"));
        drop((blocks, arena, map));
        // SAFETY: a C string.
        assert_eq!(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }, 0);
        fs::remove_dir(&directory).unwrap();
    });
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    if error.contains("NOT RUN") {
        common::not_run(NAME, "no file system can be mounted");
    }
}

#[test]
fn what_has_the_name_of_the_map_is_replaced_and_never_written_to() {
    child::run("what_has_the_name_of_the_map_is_replaced_and_never_written_to", || {
        use std::os::unix::fs::{MetadataExt, symlink};
        let directory = directory("link");
        let victim = directory.join("victim");
        let path = PathBuf::from(format!("/tmp/perf-{}.map", std::process::id()));
        let publish = || {
            let map = Arc::new(PerfMap::new().unwrap());
            let arena = small(WxMode::Flip).observer(map).build().unwrap();
            drop(arena.publish(Code::new(&asm::constant(1)).name("written")).unwrap());
        };
        fs::write(&victim, "untouched").unwrap();
        let _ = fs::remove_file(&path);
        symlink(&victim, &path).unwrap();
        publish();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        // A hard link to another file of this user.
        fs::remove_file(&path).unwrap();
        fs::hard_link(&victim, &path).unwrap();
        publish();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(lines(&path).len(), 1);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        // A file that cannot be removed is an error.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(PerfMap::new(), Err(Error::OperatingSystem { call: "open", .. })));
        fs::remove_dir(&path).unwrap();
        fs::remove_dir_all(directory).unwrap();
    });
}

#[test]
fn a_file_is_written_once_whatever_it_is_called() {
    child::run("a_file_is_written_once_whatever_it_is_called", || {
        let (directory, link) =
            (directory("twice"), std::env::temp_dir().join(format!("twice-{}", std::process::id())));
        std::os::unix::fs::symlink(&directory, &link).unwrap();
        let dump = Arc::new(Jitdump::in_directory(&directory).unwrap());
        for other in [&link, &directory.join("../").join(directory.file_name().unwrap())] {
            assert!(matches!(Jitdump::in_directory(other), Err(Error::Unsupported { .. })), "{other:?}");
        }
        let arena = small(WxMode::Flip).observer(dump.clone()).build().unwrap();
        drop(arena.publish(&asm::constant(1)).unwrap());
        dump.flush().unwrap();
        assert_eq!(jitdump::read(dump.path()).loads.len(), 1);
        drop((arena, dump));
        drop(Jitdump::in_directory(&link).unwrap());
        fs::remove_file(link).unwrap();
        fs::remove_dir_all(directory).unwrap();
    });
}

#[test]
fn lines_are_written_soon_without_a_flush() {
    child::run("lines_are_written_soon_without_a_flush", || {
        let map = Arc::new(PerfMap::new().unwrap());
        let arena = small(WxMode::Flip).observer(map.clone()).build().unwrap();
        let _block = arena.publish(Code::new(&asm::constant(1)).name("soon")).unwrap();
        let start = Instant::now();
        while lines(map.path()).is_empty() {
            assert!(start.elapsed() < Duration::from_secs(60), "not written");
            thread::sleep(Duration::from_millis(5));
        }
        fs::remove_file(map.path()).unwrap();
    });
}

#[test]
fn one_map_serves_a_process() {
    child::run("one_map_serves_a_process", || {
        let first = PerfMap::new().unwrap();
        assert!(matches!(PerfMap::new(), Err(Error::Unsupported { .. })));
        drop(first);
        let again = PerfMap::new().unwrap();
        fs::remove_file(again.path()).unwrap();
    });
}
