//! Tests of other code that writes, removes or truncates the same files, or closes their
//! descriptors.
//!
//! | What other code does | What is expected |
//! |---|---|
//! | it writes lines to the same map | all lines of the observer are whole, and the other lines stay |
//! | it removes or truncates a file | names are written again, or counted as lost |
//! | it closes a descriptor and uses the number | its file gets no byte and stays open |
//! | it has the jitdump open, or another process has a lock on a file | the observer is refused |
//! | it forks | `for_child` copies all inherited names to a map of the child |
//!
//! A map from an earlier process with the same number is replaced. All tests but the one of paths
//! in errors have processes of their own, because they change descriptors. `common::jitdump` reads
//! the dumps. The checks exist to catch a record that is lost without being counted, and a record
//! in a file of somebody else.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Line, directory, line, lines};
use crate::common::{asm, child, fork::fork, jitdump, small};
use gaia_jit::observe::{Jitdump, PerfMap};
use gaia_jit::{Code, CodeArena, CodeBlock, Error, WxMode};

fn arena(map: &Arc<PerfMap>) -> CodeArena {
    small(WxMode::Flip).observer(map.clone()).build().unwrap()
}

fn publish(arena: &CodeArena, name: &str) -> CodeBlock {
    arena.publish(Code::new(&asm::constant(1)).name(name)).unwrap()
}

fn sorted(mut lines: Vec<Line>) -> Vec<Line> {
    lines.sort();
    lines
}

fn map_path() -> PathBuf {
    format!("/tmp/perf-{}.map", std::process::id()).into()
}

/// Returns the descriptors of this process that lead to a file.
fn descriptors(path: &Path) -> Vec<i32> {
    let list = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let here = list.filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == path));
    here.map(|entry| entry.file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// Makes the only descriptor of a file lead to another file, as if it was closed and its number was
/// used again.
fn taken_over(path: &Path, other: &File) -> i32 {
    let numbers = descriptors(path);
    assert_eq!(numbers.len(), 1, "{numbers:?}");
    // SAFETY: one descriptor is this test's own. The test takes the other from its owner on
    // purpose.
    assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), numbers[0]) }, numbers[0]);
    numbers[0]
}

#[test]
fn two_runtimes_of_a_process_write_one_map() {
    child::run("two_runtimes_of_a_process_write_one_map", || {
        // The other writer is first, and stays.
        let mut other = File::options().create_new(true).append(true).open(map_path()).unwrap();
        writeln!(other, "1000 10 other 1").unwrap();
        let map = Arc::new(PerfMap::new().unwrap());
        let arena = arena(&map);
        let first = publish(&arena, "ours 1");
        map.flush().unwrap();
        // In the middle of a line.
        write!(other, "2000 10 ").unwrap();
        let second = publish(&arena, "ours 2");
        map.flush().unwrap();
        writeln!(other, "\n3000 10 other 3").unwrap();
        let third = publish(&arena, "ours 3");
        map.flush().unwrap();
        assert_eq!(map.lost(), 0);
        let text = fs::read_to_string(map.path()).unwrap();
        let ours = [(&first, "ours 1"), (&second, "ours 2"), (&third, "ours 3")].map(|(block, name)| line(block, name));
        for (at, len, name) in ours {
            assert!(text.lines().any(|line| line == format!("{at:x} {len:x} {name}")), "{text}");
        }
        assert!(text.starts_with("1000 10 other 1\n") && text.contains("\n3000 10 other 3\n"), "{text}");
        drop((first, second, third, arena, map));
        // A writer that has finished for now, and may come back.
        drop(other);
        drop(PerfMap::new().unwrap());
        assert!(fs::read_to_string(map_path()).unwrap().starts_with("1000 10 other 1\n"));
        fs::remove_file(map_path()).unwrap();
    });
}

#[test]
fn a_map_of_an_earlier_process_is_replaced() {
    child::run("a_map_of_an_earlier_process_is_replaced", || {
        let mut old = File::options().create_new(true).append(true).open(map_path()).unwrap();
        writeln!(old, "1000 10 old").unwrap();
        let ago = |seconds| SystemTime::now() - Duration::from_secs(seconds);
        old.set_modified(ago(3600)).unwrap();
        // While this process has the file open, it counts as its own.
        drop(PerfMap::new().unwrap());
        assert_eq!(lines(&map_path()).len(), 1);
        old.set_modified(ago(3600)).unwrap();
        drop(old);
        let map = PerfMap::new().unwrap();
        assert_eq!(lines(map.path()), []);
        fs::remove_file(map.path()).unwrap();
    });
}

#[test]
fn names_survive_the_removal_of_the_map() {
    child::run("names_survive_the_removal_of_the_map", || {
        let map = Arc::new(PerfMap::new().unwrap());
        let arena = arena(&map);
        let mut expected = Vec::new();
        let mut blocks = Vec::new();
        for round in 0..3 {
            let name = format!("round {round}");
            let block = publish(&arena, &name);
            expected.push(line(&block, &name));
            blocks.push(block);
            map.flush().unwrap();
            assert_eq!((sorted(lines(map.path())), map.lost()), (sorted(expected.clone()), 0));
            fs::remove_file(map.path()).unwrap();
            // Another test may have made its own.
            if round == 1 {
                fs::write(map.path(), "1000 10 other\n").unwrap();
                expected.push((0x1000, 0x10, "other".into()));
            }
        }
        // There is nothing to write, so nothing is created.
        drop((arena, map));
        assert!(!map_path().exists());
    });
}

#[test]
fn names_that_others_cut_off_are_counted() {
    child::run("names_that_others_cut_off_are_counted", || {
        let map = Arc::new(PerfMap::new().unwrap());
        let arena = arena(&map);
        let _cut = [publish(&arena, "cut 1"), publish(&arena, "cut 2")];
        map.flush().unwrap();
        File::options().write(true).truncate(true).open(map.path()).unwrap();
        let after = publish(&arena, "after");
        map.flush().unwrap();
        assert_eq!((lines(map.path()), map.lost()), (vec![line(&after, "after")], 2));
        fs::remove_file(map.path()).unwrap();
    });
}

#[test]
fn nothing_is_written_where_a_descriptor_leads_elsewhere() {
    child::run("nothing_is_written_where_a_descriptor_leads_elsewhere", || {
        let directory = directory("descriptor");
        let victim = File::options().create_new(true).read(true).append(true).open(directory.join("victim")).unwrap();
        let map = Arc::new(PerfMap::new().unwrap());
        let dump = Arc::new(Jitdump::in_directory(&directory).unwrap());
        let arena = small(WxMode::Flip).observer(map.clone()).observer(dump.clone()).build().unwrap();
        let before = publish(&arena, "before");
        map.flush().unwrap();
        dump.flush().unwrap();
        let numbers = [map.path(), dump.path()].map(|path| taken_over(path, &victim));
        let after = publish(&arena, "after");
        map.flush().unwrap();
        dump.flush().unwrap();
        assert_eq!((map.lost(), dump.lost()), (0, 0));
        let expected = vec![line(&before, "before"), line(&after, "after")];
        assert_eq!(sorted(lines(map.path())), sorted(expected));
        assert_eq!(jitdump::read(dump.path()).loads.len(), 2);
        // Once more, and the files are removed as well.
        let again = [map.path(), dump.path()].map(|path| taken_over(path, &victim));
        for path in [map.path(), dump.path()] {
            fs::remove_file(path).unwrap();
        }
        let last = publish(&arena, "last");
        map.flush().unwrap();
        assert_eq!((lines(map.path()), map.lost()), (vec![line(&last, "last")], 2));
        assert!(matches!(dump.flush(), Err(Error::OperatingSystem { path: Some(path), .. }) if *path == *dump.path()));
        assert_eq!(dump.lost(), 1);
        let path = map.path().to_owned();
        drop((arena, map, dump));
        assert_eq!(victim.metadata().unwrap().len(), 0, "written to");
        for number in numbers.into_iter().chain(again) {
            // SAFETY: asks about a number.
            assert!(unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0, "somebody else's descriptor was closed");
        }
        fs::remove_file(path).unwrap();
        fs::remove_dir_all(directory).unwrap();
    });
}

#[test]
fn what_is_removed_for_good_is_counted() {
    child::run("what_is_removed_for_good_is_counted", || {
        let directory = directory("removed");
        let map = Arc::new(PerfMap::in_directory(&directory).unwrap());
        let dump = Arc::new(Jitdump::in_directory(&directory).unwrap());
        let arena = small(WxMode::Flip).observer(map.clone()).observer(dump.clone()).build().unwrap();
        assert_eq!(map.path(), directory.join(format!("perf-{}.map", std::process::id())));
        let _before = publish(&arena, "before");
        map.flush().unwrap();
        dump.flush().unwrap();
        fs::remove_dir_all(&directory).unwrap();
        let _after = publish(&arena, "after");
        for (flushed, path) in [(map.flush(), map.path()), (dump.flush(), dump.path())] {
            let Err(Error::OperatingSystem { path: Some(named), .. }) = flushed else { panic!("{flushed:?}") };
            assert_eq!(*named, *path);
        }
        assert_eq!((map.lost(), dump.lost()), (1, 1));
        // The directory exists again, and the map has all its content.
        fs::create_dir(&directory).unwrap();
        let last = publish(&arena, "last");
        map.flush().unwrap();
        let names: Vec<_> = lines(map.path()).into_iter().map(|line| line.2).collect();
        assert_eq!((names, map.lost()), (vec!["before".to_string(), "last".into()], 1));
        drop(last);
        fs::remove_dir_all(directory).unwrap();
    });
}

/// A process in another container that shares the directory.
#[test]
fn a_file_of_another_process_is_left_alone() {
    child::run("a_file_of_another_process_is_left_alone", || {
        let directory = directory("container");
        let (map, dump) = (
            directory.join(format!("perf-{}.map", std::process::id())),
            directory.join(format!("jit-{}.dump", std::process::id())),
        );
        let mut pipes = [[0; 2]; 2];
        // SAFETY: each is valid for the call to write to.
        pipes.iter_mut().for_each(|pipe| assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0));
        let [[ready, is_ready], [done, is_done]] = pipes;
        // SAFETY: the child makes only calls that are safe in a child, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            for path in [&map, &dump] {
                let file = File::options().create_new(true).append(true).open(path).unwrap();
                // SAFETY: takes numbers.
                assert_eq!(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_SH) }, 0);
                std::mem::forget(file);
            }
            // The child ends with its parent, however that ends.
            // SAFETY: this process's own descriptor.
            unsafe { libc::close(is_done) };
            let mut byte = 0_u8;
            // SAFETY: the end of a pipe, and a byte to read from.
            unsafe { libc::write(is_ready, (&raw const byte).cast(), 1) };
            // SAFETY: the end of a pipe, and a byte to write to.
            unsafe { libc::read(done, (&raw mut byte).cast(), 1) };
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) };
        }
        let mut byte = 0_u8;
        // SAFETY: the end of a pipe, and a byte to write to.
        assert_eq!(unsafe { libc::read(ready, (&raw mut byte).cast(), 1) }, 1);
        for made in [PerfMap::in_directory(&directory).map(drop), Jitdump::in_directory(&directory).map(drop)] {
            let Err(Error::Unsupported { why, .. }) = made else { panic!("{made:?}") };
            assert!(
                why.contains("another process of the same number") && why.contains(directory.to_str().unwrap()),
                "{why}"
            );
        }
        assert!(map.exists() && dump.exists());
        // SAFETY: the end of a pipe, and a byte to read from.
        unsafe { libc::write(is_done, (&raw const byte).cast(), 1) };
        // SAFETY: a child of this process; nothing is asked for back.
        assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
        // It has ended.
        drop((PerfMap::in_directory(&directory).unwrap(), Jitdump::in_directory(&directory).unwrap()));
        fs::remove_dir_all(directory).unwrap();
    });
}

#[test]
fn a_jitdump_that_other_code_has_open_is_left_alone() {
    child::run("a_jitdump_that_other_code_has_open_is_left_alone", || {
        let directory = directory("open");
        let path = directory.join(format!("jit-{}.dump", std::process::id()));
        let other = File::create_new(&path).unwrap();
        let made = Jitdump::in_directory(&directory);
        assert!(matches!(&made, Err(Error::Unsupported { why, .. }) if why.contains("other code")), "{made:?}");
        drop(other);
        Jitdump::in_directory(&directory).unwrap();
        fs::remove_dir_all(directory).unwrap();
    });
}

#[test]
fn errors_name_the_path() {
    let nowhere = std::env::temp_dir().join("gaia-jit-is-not-there");
    for made in [PerfMap::in_directory(&nowhere).map(drop), Jitdump::in_directory(&nowhere).map(drop)] {
        let Err(Error::OperatingSystem { call: "open", path: Some(path), .. }) = made else { panic!("{made:?}") };
        assert!(path.starts_with(&nowhere), "{path:?}");
    }
}

#[test]
fn a_forked_child_has_a_map_with_all_that_it_inherited() {
    child::run("a_forked_child_has_a_map_with_all_that_it_inherited", || {
        let map = Arc::new(PerfMap::new().unwrap());
        let arena = arena(&map);
        let mut expected = Vec::new();
        let mut blocks = Vec::new();
        for round in 0..300 {
            let name = format!("a function with a name that is long enough to fill a buffer {round}");
            let block = publish(&arena, &name);
            expected.push(line(&block, &name));
            blocks.push(block);
            // Most records are written, some are queued, and some are in a buffer.
            if round == 10 {
                map.flush().unwrap();
            }
        }
        assert!(matches!(map.for_child(), Err(Error::Unsupported { .. })));
        // A child that closed all descriptors reads the map by its name.
        assert!(fork(|| {
            // SAFETY: nothing else in this child needs its descriptors.
            if unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) } == 0 {
                let mine = map.for_child().unwrap();
                assert_eq!(sorted(lines(mine.path())), sorted(expected.clone()));
                fs::remove_file(mine.path()).unwrap();
            }
        }));
        assert!(fork(|| {
            let mine = Arc::new(map.for_child().unwrap());
            assert_eq!(mine.path(), map_path());
            let own = self::arena(&mine);
            let block = publish(&own, "the child's own");
            mine.flush().unwrap();
            expected.push(line(&block, "the child's own"));
            assert_eq!((sorted(lines(mine.path())), mine.lost()), (sorted(expected.clone()), 0));
            fs::remove_file(mine.path()).unwrap();
        }));
        map.flush().unwrap();
        assert_eq!(sorted(lines(map.path())), sorted(expected));
        fs::remove_file(map.path()).unwrap();
    });
}
