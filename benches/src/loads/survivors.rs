//! One survivor in 2,000 of 1,000,000 functions: what it holds on to after `trim`.

use anyhow::Result;
use gaia_jit::{CodeBlock, WxMode};

use crate::code;
use crate::group::{Group, Row, Target, Task, bytes_text};
use crate::peers::{BATCH, gaia};
use crate::proc;
use crate::sample::{Sample, Samples};
use crate::scale::Scale;
use crate::trace::sizes;

pub const GROUP: Group = Group {
    name: "survivors",
    about: "one survivor in 2,000 of 1,000,000 functions: bytes held for each",
    tasks,
    run,
    judge,
};

const IN: usize = 2_000;
const CASES: [(&str, WxMode, bool); 3] =
    [("Flip", WxMode::Flip, false), ("Flip huge", WxMode::Flip, true), ("DualMap", WxMode::DualMap, false)];
const STATS: &str = "by stats()";
const KERNEL: &str = "by the kernel";
const METRIC: &str = "bytes/survivor";

fn tasks(_: Scale) -> Vec<Task> {
    CASES.map(|(case, ..)| Task::new(case)).to_vec()
}

fn run(task: &Task, scale: Scale) -> Result<Vec<Sample>> {
    let huge = task.case == "Flip huge";
    let mode = if task.case == "DualMap" { WxMode::DualMap } else { WxMode::Flip };
    let sizes = sizes(scale.count(1_000_000), 13);
    let arena = gaia::builder(mode, huge, sizes.len()).build()?;
    let mut blocks: Vec<CodeBlock> = Vec::new();
    gaia::publish_in_batches(&arena, &sizes, &code::source(), BATCH, &mut blocks)?;
    let survivors: Vec<CodeBlock> = blocks.into_iter().step_by(IN).collect();
    arena.trim()?;
    let each = |bytes: usize| bytes as f64 / survivors.len() as f64;
    let sample = |peer, bytes| Sample::value(GROUP.name, &task.case, peer, METRIC, each(bytes));
    Ok(vec![sample(STATS, arena.stats().resident_bytes), sample(KERNEL, proc::arena_usage(&arena)?.resident)])
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let row = |(case, ..): (&str, WxMode, bool)| {
        let bytes = |peer| samples.best(case, peer, METRIC);
        let what = format!("one survivor in 2,000 of 1,000,000, {case}");
        Row::new(what, Target::AtMost(8192.0), bytes(KERNEL).max(bytes(STATS)), "bytes each").ours(format!(
            "{} {KERNEL}, {} {STATS}",
            bytes_text(bytes(KERNEL)),
            bytes_text(bytes(STATS))
        ))
    };
    CASES.into_iter().map(row).collect()
}
