//! Tests of the contents of a jitdump.

use std::fs;
use std::sync::Arc;
use std::thread;

use super::{Line, directory, on_eight_threads, some_dual};
use crate::common::{asm, child, jitdump, modes, small};
use gaia_jit::observe::Jitdump;
use gaia_jit::{Code, CodeArena, Error, Observer, Published};

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
        // The mapping by which perf finds the file, and its executable part.
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

/// An observer may pass its events on to another, also from another thread, and with another
/// address.
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
