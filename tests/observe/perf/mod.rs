//! Tests of perf maps and jitdumps: they contain what was published, whatever else happens.

mod files;
mod jitdump;
mod map;
mod others;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use crate::common::{asm, modes};
use gaia_jit::{Code, CodeArena, CodeBlock, WxMode};

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
    // An empty line is the rest of half a line.
    text.lines().filter(|line| !line.is_empty()).map(parse).collect()
}

fn line(block: &CodeBlock, name: &str) -> Line {
    (block.as_ptr().addr(), block.len(), name.into())
}

/// Returns a directory for this test.
fn directory(test: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("gaia-jit-{test}-{}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

/// Publishes single functions and batches, and drops a part of them. Returns everything that was
/// published.
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
                    // The functions of every second round are dropped at once, and their space is
                    // used again.
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
