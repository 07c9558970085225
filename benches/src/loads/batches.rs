//! Batches of 1, 16, 256 and 4,096 functions: what each asks of the system, by the arena's own
//! counters.

use std::time::Instant;

use anyhow::{Result, bail};
use gaia_jit::{CodeBlock, Stats, WxMode};

use crate::code;
use crate::group::{Group, Row, Target, Task, ns_text};
use crate::measure::per;
use crate::peers::gaia;
use crate::sample::{Sample, Samples};
use crate::scale::Scale;
use crate::trace::sizes;

pub const GROUP: Group = Group {
    name: "batches",
    about: "batches of 1 to 4,096 functions: flips, kernel writes, flushed bytes, barriers",
    tasks,
    run,
    judge,
};

const SIZES: [usize; 4] = [1, 16, 256, 4_096];
const CASES: [(&str, WxMode, bool); 3] =
    [("Flip", WxMode::Flip, false), ("Flip huge", WxMode::Flip, true), ("DualMap", WxMode::DualMap, false)];
const COUNTERS: [&str; 5] =
    ["ns/function", "flips/batch", "kernel writes/batch", "flushed/published bytes", "barriers/batch"];

fn tasks(_: Scale) -> Vec<Task> {
    CASES.map(|(case, ..)| Task::new(case)).to_vec()
}

fn peer(batch: usize) -> String {
    format!("batches of {batch}")
}

fn run(task: &Task, scale: Scale) -> Result<Vec<Sample>> {
    let Some(&(case, mode, huge)) = CASES.iter().find(|(case, ..)| *case == task.case) else { bail!("no such case") };
    let source = code::source();
    let mut samples = Vec::new();
    for batch in SIZES {
        let sizes = sizes((batch * 8).max(scale.count(4_000)).next_multiple_of(batch), 14);
        let (mut best, mut stats) = (f64::INFINITY, Stats::default());
        for _ in 0..scale.rounds(5) {
            let arena = gaia::builder(mode, huge, sizes.len()).build()?;
            let mut blocks: Vec<CodeBlock> = Vec::with_capacity(sizes.len());
            let start = Instant::now();
            gaia::publish_in_batches(&arena, &sizes, &source, batch, &mut blocks)?;
            best = per(start.elapsed(), sizes.len()).min(best);
            stats = arena.stats();
        }
        let batches = (sizes.len() / batch) as f64;
        let published: usize = sizes.iter().map(|&size| usize::from(size)).sum();
        let figures = [
            best,
            stats.flips as f64 / batches,
            stats.kernel_writes as f64 / batches,
            stats.flushed_bytes as f64 / published as f64,
            stats.barriers as f64 / batches,
        ];
        let sample = |(metric, value): (&str, f64)| Sample::value(GROUP.name, case, &peer(batch), metric, value);
        samples.extend(COUNTERS.into_iter().zip(figures).map(sample));
    }
    Ok(samples)
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let row = |case: &str, batch: usize| {
        let [ns, flips, writes, flushed, barriers] = COUNTERS.map(|c| samples.best(case, &peer(batch), c));
        let what = format!("{}, {case}, calls a batch", peer(batch));
        Row::new(what, Target::None, flips + writes, "calls").ours(format!(
            "{} each, {flips:.1} flips, {writes:.1} writes, {flushed:.2} x flushed, {barriers:.0} barriers",
            ns_text(ns)
        ))
    };
    CASES.iter().flat_map(|(case, ..)| SIZES.map(|batch| row(case, batch))).collect()
}
