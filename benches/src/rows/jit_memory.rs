//! `JitMemory`: a whole life against the bare system calls, and a write in a large block against
//! one in a small block.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::code;
use crate::group::{Group, Row, Target, Task, ns_text};
use crate::measure::{Contender, per, race, try_time};
use crate::peers::single::Single;
use crate::peers::{Store, dynasm, floors, gaia01};
use crate::sample::{Sample, Samples};
use crate::scale::Scale;

pub const GROUP: Group =
    Group { name: "jit-memory", about: "JitMemory: a life, and a write in 64 MiB against 4 KiB", tasks, run, judge };

const LIFE: &str = "life";
const SMALL: &str = "4 KiB";
const LARGE: &str = "64 MiB";
const NS_LIFE: &str = "ns/life";
const NS_WRITE: &str = "ns/write and make_executable";
const OURS: &str = "gaia-jit JitMemory";
const CODE: usize = 64;
/// Writes to one block; the pages they fall on are touched before.
const WRITES: usize = 48;

fn tasks(_: Scale) -> Vec<Task> {
    vec![Task::new(LIFE), Task::new("writes")]
}

fn run(task: &Task, scale: Scale) -> Result<Vec<Sample>> {
    if task.case == LIFE { Ok(lives(scale)) } else { writes(scale) }
}

fn life<B: Single>(code: &[u8]) -> Result<()> {
    let mut block = B::new(4096)?;
    block.write(code)?;
    block.make_executable()?;
    Ok(())
}

fn lives(scale: Scale) -> Vec<Sample> {
    let code = &code::returns(CODE)[..];
    let count = scale.count(5_000);
    fn whole<S: Store>(mut store: S, code: &[u8]) -> Result<()> {
        let block = store.publish(code)?;
        store.retire(block)
    }
    let contenders = vec![
        Contender::new(OURS, || try_time(count, |_| life::<gaia_jit::JitMemory>(code))),
        Contender::new(gaia01::NAME, || try_time(count, |_| life::<gaia_jit_01::JitMemory>(code))),
        Contender::new(dynasm::NAME, || try_time(count, |_| whole(dynasm::PerFunction, code))),
        Contender::new(floors::SYSCALLS, || try_time(count, |_| whole(floors::Syscalls, code))),
    ];
    race(GROUP.name, LIFE, NS_LIFE, scale.rounds(25), contenders)
}

/// Writes to the end of a block of `capacity` bytes that is full but for the last page, and was
/// executable.
fn write_at_end<B: Single>(capacity: usize, code: &[u8]) -> Result<f64> {
    let mut block = B::new(capacity)?;
    let filler = code::returns((capacity - 4096).min(1 << 20));
    let mut filled = 0;
    while filled < capacity - 4096 {
        let now = filler.len().min(capacity - 4096 - filled);
        block.write(&filler[..now])?;
        filled += now;
    }
    block.write(code)?;
    block.make_executable()?;
    let mut elapsed = Duration::ZERO;
    for _ in 0..WRITES {
        let start = Instant::now();
        block.write(code)?;
        block.make_executable()?;
        elapsed += start.elapsed();
    }
    Ok(per(elapsed, WRITES))
}

fn writes(scale: Scale) -> Result<Vec<Sample>> {
    let code = &code::returns(CODE)[..];
    let large = if scale.quick { 4 << 20 } else { 64 << 20 };
    let mut samples = Vec::new();
    for (case, capacity) in [(SMALL, 4096), (LARGE, large)] {
        // Small blocks are quick to make: the best of many.
        let blocks = if capacity == 4096 { 20 } else { 1 };
        let best = |write: fn(usize, &[u8]) -> Result<f64>| -> Result<f64> {
            (0..blocks).try_fold(f64::INFINITY, |best, _| Ok(write(capacity, code)?.min(best)))
        };
        let contenders = vec![
            Contender::new(OURS, || best(write_at_end::<gaia_jit::JitMemory>)),
            Contender::new(gaia01::NAME, || best(write_at_end::<gaia_jit_01::JitMemory>)),
        ];
        samples.extend(race(GROUP.name, case, NS_WRITE, scale.rounds(9), contenders));
    }
    Ok(samples)
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let life = |peer| samples.best(LIFE, peer, NS_LIFE);
    let write = |case, peer| samples.best(case, peer, NS_WRITE);
    let growth = |peer| write(LARGE, peer) / write(SMALL, peer);
    let is_peer = |name: &str| name != OURS && name != floors::SYSCALLS;
    vec![
        Row::new(
            "JitMemory new, write, executable, drop",
            Target::AtMost(1.1),
            life(OURS) / life(floors::SYSCALLS),
            "x bare",
        )
        .ours(ns_text(life(OURS)))
        .best_peer(samples.least(LIFE, NS_LIFE, is_peer))
        .floor(ns_text(life(floors::SYSCALLS))),
        Row::new("JitMemory write in 64 MiB / in 4 KiB", Target::AtMost(3.0), growth(OURS), "x")
            .ours(format!("{} / {}", ns_text(write(LARGE, OURS)), ns_text(write(SMALL, OURS))))
            .peer(format!("{:.0} x {}", growth(gaia01::NAME), gaia01::NAME)),
    ]
}
