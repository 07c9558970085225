//! Tests of the contents of a perf map.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::{line, lines, on_eight_threads, some_dual};
use crate::common::{asm, child, modes, small};
use gaia_jit::observe::PerfMap;
use gaia_jit::{Code, CodeArena};

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
            let evil = arena.publish(Code::new(&code).name("two\nlines\r\0\u{7f}\u{85}é\u{2028}")).unwrap();
            let tagged = arena.publish(Code::new(&code).tag(17)).unwrap();
            let nothing = arena.publish(Code::new(&code).name("")).unwrap();
            let by_address = format!("jit_{:#x}", nothing.as_ptr().addr());
            let names = ["a name with blanks", "two_lines____é_", "jit_17", &by_address];
            expected.extend([&named, &evil, &tagged, &nothing].into_iter().zip(names).map(|(b, name)| line(b, name)));
            // `perf` skips names of less than three bytes.
            let short = ["f", "go", "é", "abc"].map(|name| arena.publish(Code::new(&code).name(name)).unwrap());
            expected.extend(short.iter().zip(["f  ", "go ", "é ", "abc"]).map(|(block, name)| line(block, name)));
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
        // The map is dropped with its last arena.
        let mut found = lines(&path);
        found.sort();
        expected.sort();
        assert_eq!(found.len(), expected.len());
        assert!(found == expected);
        fs::remove_file(path).unwrap();
    });
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
            // The sort is stable, so lines of one address stay in order.
            found.sort_by_key(|line| line.0);
            expected.sort_by_key(|line| line.0);
            assert_eq!(found, expected);
            fs::remove_file(map.path()).unwrap();
        }
    });
}
