//! Where the memory is: after 100,000 functions in bulk, and after 1,000,000 replacements.

use anyhow::{Result, bail};
use gaia_jit::{CodeBlock, WxMode};

use crate::code;
use crate::group::{Group, Row, Target, Task, bytes_text};
use crate::peers::churner::Churner;
use crate::peers::{BATCH, gaia};
use crate::proc;
use crate::sample::{Sample, Samples};
use crate::scale::Scale;
use crate::trace::Rng;

pub const GROUP: Group = Group {
    name: "memory",
    about: "payload, padding, holes, metadata after bulk and after 1,000,000 replacements",
    tasks,
    run,
    judge,
};

const CASES: [(&str, WxMode, bool); 3] =
    [("Flip", WxMode::Flip, false), ("Flip huge", WxMode::Flip, true), ("DualMap", WxMode::DualMap, false)];
const PADDING: &str = "padding of 40 to 400 bytes";
const MOMENTS: [&str; 2] = ["bulk", "churn"];
const METRICS: [&str; 6] = ["payload", "padding", "holes", "resident", "resident by the kernel", "metadata"];
const SHARE: &str = "payload % of resident";

fn tasks(_: Scale) -> Vec<Task> {
    CASES.iter().map(|(case, ..)| Task::new(case)).chain([Task::new(PADDING)]).collect()
}

fn run(task: &Task, scale: Scale) -> Result<Vec<Sample>> {
    if task.case == PADDING {
        return padding(scale);
    }
    let Some(&(case, mode, huge)) = CASES.iter().find(|(case, ..)| *case == task.case) else { bail!("no such case") };
    let live = scale.count(100_000);
    let before = proc::rss()?;
    let arena = gaia::Arena::new(mode, huge, live)?;
    let mut churner = Churner::new(arena.clone(), live, 15)?;
    let mut samples = measure(case, MOMENTS[0], &arena, live, before)?;
    // In pieces: the trace is memory too.
    for _ in 0..100 {
        churner.run(scale.count(1_000_000) / 100)?;
    }
    samples.extend(measure(case, MOMENTS[1], &arena, live, before)?);
    Ok(samples)
}

fn measure(case: &str, moment: &str, arena: &gaia::Arena, live: usize, before: usize) -> Result<Vec<Sample>> {
    let stats = arena.0.stats();
    let kernel = proc::arena_usage(&arena.0)?.resident;
    // What the process grew by, less the code and the benchmark's own list of blocks.
    let list = live * size_of::<Option<CodeBlock>>();
    let metadata = proc::rss()? as f64 - before as f64 - kernel as f64 - list as f64;
    let payload = stats.live_bytes as f64;
    let holes = stats.resident_bytes as f64 - payload - stats.padding_bytes as f64;
    let resident = stats.resident_bytes as f64;
    let figures = [payload, stats.padding_bytes as f64, holes, resident, kernel as f64, metadata];
    let sample = |(metric, value): (&str, f64)| Sample::value(GROUP.name, case, moment, metric, value);
    let share = sample((SHARE, 100.0 * payload / resident.max(kernel as f64)));
    Ok(METRICS.into_iter().zip(figures).map(sample).chain([share]).collect())
}

fn padding(scale: Scale) -> Result<Vec<Sample>> {
    let (source, mut rng) = (code::source(), Rng::new(16));
    let sizes: Vec<u16> = (0..scale.count(50_000)).map(|_| 40 + rng.below(361) as u16).collect();
    let arena = gaia::builder(WxMode::Flip, false, sizes.len()).build()?;
    let mut blocks: Vec<CodeBlock> = Vec::new();
    gaia::publish_in_batches(&arena, &sizes, &source, BATCH, &mut blocks)?;
    let stats = arena.stats();
    let share = 100.0 * stats.padding_bytes as f64 / (stats.live_bytes + stats.padding_bytes) as f64;
    Ok(vec![Sample::value(GROUP.name, PADDING, "gaia-jit", "padding %", share)])
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let row = |case: &str, moment: &str| {
        let of = |metric| bytes_text(samples.best(case, moment, metric));
        let share = samples.best(case, moment, SHARE);
        let target = if moment == MOMENTS[1] { Target::AtLeast(85.0) } else { Target::None };
        let what = format!("memory after {moment}, {case}, payload + padding + holes");
        let [payload, padding, holes, .., metadata] = METRICS.map(of);
        Row::new(what, target, share, "%").ours(format!("{payload} + {padding} + {holes}, metadata {metadata}"))
    };
    let share = samples.best(PADDING, "gaia-jit", "padding %");
    let padding = Row::new("padding, functions of 40 to 400 bytes", Target::AtMost(8.0), share, "%");
    let pairs = CASES.iter().flat_map(|(case, ..)| MOMENTS.map(|moment| row(case, moment)));
    pairs.chain([padding.ours(format!("{share:.1} %"))]).collect()
}
