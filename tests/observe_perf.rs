//! Perf maps and jitdumps say what was published, whatever else happens.
#![cfg(all(feature = "perf", target_os = "linux", not(loom)))]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::{LARGE, asm, call, child, fork::fork, jitdump, modes, small};
use gaia_jit::observe::{Jitdump, PerfMap};
use gaia_jit::{Code, CodeArena, CodeBlock, Error, Observer, Published, WxMode};

/// A line of a perf map.
type Line = (usize, usize, String);

fn lines(path: &Path) -> Vec<Line> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "a line is cut off");
    let parse = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let mut number = || usize::from_str_radix(words.next().unwrap(), 16).unwrap();
        (number(), number(), words.next().unwrap().to_string())
    };
    text.lines().map(parse).collect()
}

fn line(block: &CodeBlock, name: &str) -> Line {
    (block.as_ptr().addr(), block.len(), name.into())
}

/// A directory of this test's own.
fn directory(test: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("gaia-jit-{test}-{}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn a_perf_map_has_every_function() {
    child::run("a_perf_map_has_every_function", || {
        let map = Arc::new(PerfMap::new().unwrap());
        assert_eq!(map.path(), Path::new(&format!("/tmp/perf-{}.map", std::process::id())));
        let mut expected = Vec::new();
        for mode in modes() {
            let arena = small(mode).observer(map.clone()).build().unwrap();
            let code = asm::constant(7);
            let named = arena.publish(Code::new(&code).name("a name with blanks")).unwrap();
            let evil = arena.publish(Code::new(&code).name("two\nlines\r\0\u{7f}\u{85}é")).unwrap();
            let tagged = arena.publish(Code::new(&code).tag(17)).unwrap();
            let nothing = arena.publish(Code::new(&code).name("")).unwrap();
            let by_address = format!("jit_{:#x}", nothing.as_ptr().addr());
            let names = ["a name with blanks", "two_lines____é", "jit_17", &by_address];
            expected.extend([&named, &evil, &tagged, &nothing].into_iter().zip(names).map(|(b, name)| line(b, name)));
            let mut batch = arena.batch();
            for number in 0..100 {
                batch.push(Code::new(&asm::padded(number, 300)).name(&format!("in batch {number}"))).unwrap();
            }
            let blocks = batch.publish().unwrap();
            expected.extend((0..).zip(&blocks).map(|(number, block)| line(block, &format!("in batch {number}"))));
        }
        map.flush().unwrap();
        let mut found = lines(map.path());
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
        assert_eq!(map.lost(), 0);
        fs::remove_file(map.path()).unwrap();
    });
}

#[test]
fn a_perf_map_has_what_eight_threads_published() {
    child::run("a_perf_map_has_what_eight_threads_published", || {
        let map = Arc::new(PerfMap::new().unwrap());
        let path = map.path().to_owned();
        let arena = CodeArena::builder().capacity(16 << 20).mode(some_dual()).observer(map.clone()).build().unwrap();
        drop(map);
        let mut expected = on_eight_threads(&arena);
        drop(arena);
        // Dropped with its last arena.
        let mut found = lines(&path);
        found.sort();
        expected.sort();
        assert_eq!(found.len(), expected.len());
        assert!(found == expected);
        fs::remove_file(path).unwrap();
    });
}

/// Singles and batches, part of them dropped again; what was published.
fn on_eight_threads(arena: &CodeArena) -> Vec<Line> {
    thread::scope(|scope| {
        let work = |number: u32| {
            move || {
                let mut published = Vec::new();
                let mut kept = Vec::new();
                for round in 0..200 {
                    let name = |what| format!("{what} of thread {number}, round {round}");
                    let single = arena.publish(Code::new(&asm::padded(round, 100)).name(&name("single"))).unwrap();
                    published.push(line(&single, &name("single")));
                    let mut batch = arena.batch();
                    for _ in 0..8 {
                        batch.push(Code::new(&asm::padded(round, 200)).name(&name("batch"))).unwrap();
                    }
                    let blocks = batch.publish().unwrap();
                    published.extend(blocks.iter().map(|block| line(block, &name("batch"))));
                    // Every second round's are dropped at once, and their space is used again.
                    if round % 2 == 0 {
                        kept.push((single, blocks));
                    }
                }
                published
            }
        };
        let threads: Vec<_> = (0..8).map(|number| scope.spawn(work(number))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

fn some_dual() -> WxMode {
    modes().find(|mode| *mode == WxMode::DualMap).unwrap_or_default()
}

#[test]
fn an_address_that_is_used_again_has_the_newer_line_last() {
    child::run("an_address_that_is_used_again_has_the_newer_line_last", || {
        for mode in modes() {
            let map = Arc::new(PerfMap::new().unwrap());
            let arena = small(mode).observer(map.clone()).build().unwrap();
            let mut expected = Vec::new();
            for round in 0..50 {
                let name = format!("round {round}");
                let block = arena.publish(Code::new(&asm::constant(round)).name(&name)).unwrap();
                expected.push(line(&block, &name));
            }
            let again = expected.iter().filter(|line| line.0 == expected[0].0).count();
            assert!(again > 1, "{mode:?}: no address was used again");
            map.flush().unwrap();
            let mut found = lines(map.path());
            // Stable: lines of one address stay in their order.
            found.sort_by_key(|line| line.0);
            expected.sort_by_key(|line| line.0);
            assert_eq!(found, expected);
            fs::remove_file(map.path()).unwrap();
        }
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
            // A map of its own it can have.
            let mine = Arc::new(PerfMap::new().unwrap());
            assert_ne!(mine.path(), map.path());
            let watched = small(WxMode::Flip).observer(mine.clone()).build().unwrap();
            let kept = publish(&watched, "the child's own");
            mine.flush().unwrap();
            assert_eq!(lines(mine.path()), [line(&kept, "the child's own")]);
            fs::remove_file(mine.path()).unwrap();
            // Everything that it inherited is dropped, so far as that goes.
            drop((block.take(), arena.take(), map_of_child.take(), dump_of_child.take()));
            // SAFETY: the parent's own handles, in a copy that nobody uses any more.
            unsafe { std::ptr::drop_in_place((&raw const map).cast_mut()) };
            // SAFETY: as above.
            unsafe { std::ptr::drop_in_place((&raw const dump).cast_mut()) };
            // SAFETY: ends the child without running what belongs to the parent, or dropping the above again.
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
        // A hard link to something of this user's, or what another process left.
        fs::remove_file(&path).unwrap();
        fs::hard_link(&victim, &path).or_else(|_| fs::write(&path, "old")).unwrap();
        publish();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(lines(&path).len(), 1);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        // What cannot be removed is an error.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(PerfMap::new(), Err(Error::OperatingSystem { call: "open", .. })));
        fs::remove_dir(&path).unwrap();
        fs::remove_dir_all(directory).unwrap();
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

/// A write that fails halfway is undone: the next ones, when there is room again, follow on a whole record.
#[test]
fn a_full_disk_costs_records_and_nothing_else() {
    const NAME: &str = "a_full_disk_costs_records_and_nothing_else";
    let output = child::output(NAME, || {
        let directory = directory("full");
        let target = std::ffi::CString::new(directory.to_str().unwrap()).unwrap();
        // SAFETY: has no requirements.
        let alone = unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0;
        let (kind, private) = (c"tmpfs".as_ptr(), libc::MS_REC | libc::MS_PRIVATE);
        // SAFETY: C strings all of them; what is mounted here is seen by this process alone.
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
        fs::remove_file(filler).unwrap();
        blocks.push(arena.publish(Code::new(&code).name("room again")).unwrap());
        dump.flush().unwrap();
        let loads = jitdump::read(dump.path()).loads;
        assert_eq!((loads.len(), loads.last().unwrap().name.as_str()), (written + 1, "room again"));
        drop((blocks, arena, dump));
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
fn a_jitdump_has_every_function_with_its_code() {
    let directory = directory("dump");
    for mode in modes() {
        let dump = Arc::new(Jitdump::in_directory(&directory).unwrap());
        let path = dump.path().to_owned();
        assert_eq!(path.file_name().unwrap().to_str().unwrap(), format!("jit-{}.dump", std::process::id()));
        assert!(matches!(Jitdump::in_directory(&directory), Err(Error::Unsupported { .. })));
        let arena = small(mode).observer(dump.clone()).build().unwrap();
        let mut expected = Vec::new();
        let mut keep = Vec::new();
        for round in 0..100 {
            let name = format!("round {round}");
            let block = arena.publish(Code::new(&asm::padded(round, 6 + round as usize * 16)).name(&name)).unwrap();
            expected.push((block.as_ptr().addr(), block.as_bytes().to_vec(), name));
            if round % 2 == 0 {
                keep.push(block);
            }
        }
        let mut batch = arena.batch();
        let code = asm::padded(3, 5000);
        batch.push(Code::new(&code).tag(5)).unwrap();
        let large = batch.publish().unwrap();
        expected.push((large[0].as_ptr().addr(), code, "jit_5".into()));
        dump.flush().unwrap();
        // The mapping by which perf finds it, and what can be run there.
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let marker: Vec<_> = maps.lines().filter(|line| line.ends_with(path.to_str().unwrap())).collect();
        assert!(marker.len() == 1 && marker[0].contains(" r-x"), "{marker:?}");
        let before = jitdump::read(&path);
        assert!(!before.closed);
        let page = region::page::size();
        assert!(before.loads.iter().all(|load| load.at >= page), "code in the executable page");
        drop((dump, arena, keep, large));
        let after = jitdump::read(&path);
        assert!(after.closed);
        let found: Vec<_> =
            after.loads.iter().map(|load| (load.address, load.code.clone(), load.name.clone())).collect();
        assert!(found == expected);
        assert!(after.loads.is_sorted_by_key(|load| load.time), "published one after another");
        assert!(after.loads.iter().zip(0..).all(|(load, index)| load.index == index));
    }
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_jitdump_has_what_eight_threads_published() {
    let directory = directory("threads");
    let dump = Arc::new(Jitdump::in_directory(&directory).unwrap());
    let path = dump.path().to_owned();
    let arena = CodeArena::builder().capacity(16 << 20).mode(some_dual()).observer(dump).build().unwrap();
    let mut expected = on_eight_threads(&arena);
    drop(arena);
    let read = jitdump::read(&path);
    assert!(read.closed);
    let mut indices: Vec<_> = read.loads.iter().map(|load| load.index).collect();
    indices.sort_unstable();
    assert!(indices.iter().zip(0..).all(|(index, expected)| *index == expected), "each number once");
    let mut found: Vec<Line> = read.loads.into_iter().map(|load| (load.address, load.code.len(), load.name)).collect();
    found.sort();
    expected.sort();
    assert!(found == expected);
    fs::remove_dir_all(directory).unwrap();
}

/// An observer may hand on what it is told, from another thread as well, and with another address in it.
#[test]
fn what_is_read_is_the_function_whatever_the_caller_says() {
    struct Lies(Arc<Jitdump>);
    impl Observer for Lies {
        fn published(&self, functions: &[Published<'_>]) {
            let mut lies = functions.to_vec();
            for lie in &mut lies {
                lie.block.start = std::ptr::without_provenance(1 << 12);
                lie.block.len = 1 << 30;
                assert!(lie.code().iter().eq(functions[0].code().iter()));
            }
            thread::scope(|scope| {
                scope.spawn(|| self.0.published(&lies));
            });
        }
    }
    child::run("what_is_read_is_the_function_whatever_the_caller_says", || {
        let directory = directory("lies");
        for mode in modes() {
            let dump = Arc::new(Jitdump::in_directory(&directory).unwrap());
            let path = dump.path().to_owned();
            let arena = small(mode).observer(Arc::new(Lies(dump))).build().unwrap();
            drop(arena.publish(&asm::constant(5)).unwrap());
            let mut batch = arena.batch();
            batch.push(&asm::constant(5)).unwrap();
            drop(batch.publish().unwrap());
            drop(arena);
            let loads = jitdump::read(&path).loads;
            assert!(loads.len() == 2 && loads.iter().all(|load| load.code == asm::constant(5)), "{mode:?}");
        }
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
