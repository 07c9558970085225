//! What an arena takes beside code and handles, and how much of its memory is code.

use anyhow::{Result, ensure};
use gaia_jit::{CodeArena, CodeBlock, WxMode};

use crate::code;
use crate::group::{Group, Row, Target, Task, bytes_text};
use crate::peers::churner::Churner;
use crate::peers::gaia;
use crate::proc;
use crate::sample::{Sample, Samples};
use crate::scale::Scale;
use crate::trace::{Rng, sizes};

pub const GROUP: Group = Group {
    name: "tables",
    about: "what an arena takes beside its code, and how much of its memory is code",
    tasks,
    run,
    judge,
};

const TABLES: &str = "100,000 live";
const SMALL: &str = "64 KiB";
const LARSON: &str = "1,500 live, ten generations of threads";
const CHURNED: [&str; 2] = ["10000", "100000"];
const OURS: &str = "gaia-jit Flip";
const SHARE: &str = "% of code";
const BYTES: &str = "bytes";

fn tasks(_: Scale) -> Vec<Task> {
    [TABLES, SMALL, LARSON].into_iter().chain(CHURNED).map(Task::new).collect()
}

fn sample(case: &str, metric: &str, value: f64) -> Sample {
    Sample::value(GROUP.name, case, OURS, metric, value)
}

/// The part of the resident memory that is code, in percent.
fn payload(arena: &CodeArena) -> Result<f64> {
    let stats = arena.stats();
    let resident = stats.resident_bytes.max(proc::arena_usage(arena)?.resident);
    Ok(100.0 * stats.live_bytes as f64 / resident as f64)
}

fn run(task: &Task, scale: Scale) -> Result<Vec<Sample>> {
    match &task.case[..] {
        TABLES => tables(scale),
        SMALL => small(scale),
        LARSON => generations(scale),
        live => {
            let live = scale.count(live.parse()?);
            let mut churner = Churner::new(gaia::Arena::new(WxMode::Flip, false, live)?, live, 12)?;
            churner.run(10 * live)?;
            Ok(vec![sample(&task.case, SHARE, payload(&churner.store.0)?)])
        }
    }
}

/// What the process grows by beside the code, where the benchmark's own lists are there before.
fn tables(scale: Scale) -> Result<Vec<Sample>> {
    let live = scale.count(100_000);
    let (sizes, source, mut rng) = (sizes(live, 13), code::source(), Rng::new(17));
    let mut blocks: Vec<Option<CodeBlock>> = (0..live).map(|_| None).collect();
    let before = proc::rss()?;
    let arena = gaia::builder(WxMode::Flip, false, live).build()?;
    for (block, size) in blocks.iter_mut().zip(&sizes) {
        *block = Some(arena.publish(&source[..usize::from(*size)])?);
    }
    for _ in 0..live {
        let block = &mut blocks[rng.below(live)];
        drop(block.take());
        *block = Some(arena.publish(&source[..usize::from(rng.size())])?);
    }
    let beside = proc::rss()? as f64 - before as f64 - proc::arena_usage(&arena)?.resident as f64;
    let code = arena.stats().live_bytes as f64;
    Ok(vec![sample(TABLES, SHARE, 100.0 * beside / code), sample(TABLES, BYTES, beside)])
}

/// Many arenas, each full of functions, so that pages of the process are small against them.
fn small(scale: Scale) -> Result<Vec<Sample>> {
    let (count, source) = (scale.count(500), code::source());
    let mut kept: Vec<(CodeArena, Vec<CodeBlock>)> = Vec::with_capacity(count);
    let mut lists = 0;
    let (before, mut code) = (proc::rss()?, 0);
    for _ in 0..count {
        let arena = CodeArena::builder().capacity(64 << 10).mode(WxMode::Flip).build()?;
        let mut blocks = Vec::with_capacity(128);
        lists += 128 * size_of::<CodeBlock>();
        for size in (100..).step_by(7).take(110) {
            blocks.extend(arena.publish(&source[..size]).ok());
        }
        kept.push((arena, blocks));
    }
    let grown = proc::rss()? - before;
    for (arena, _) in &kept {
        code += proc::arena_usage(arena)?.resident;
    }
    ensure!(code > 0, "no code is resident");
    let beside = (grown as f64 - code as f64 - lists as f64) / count as f64;
    Ok(vec![sample(SMALL, BYTES, beside)])
}

/// As the larson benchmark, one thread at a time.
fn generations(scale: Scale) -> Result<Vec<Sample>> {
    let live = 1_500;
    let mut churner = Churner::new(gaia::Arena::new(WxMode::Flip, false, 8 * live)?, live, 14)?;
    for _ in 0..10 {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| churner.run(scale.count(20_000)));
            thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
        })?;
    }
    Ok(vec![sample(LARSON, SHARE, payload(&churner.store.0)?)])
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let of = |case: &str, metric| samples.best(case, OURS, metric);
    let share = of(TABLES, SHARE);
    let small = of(SMALL, BYTES);
    let payload = |what: &str, case: &str, target| {
        let share = of(case, SHARE);
        Row::new(what, Target::AtLeast(target), share, "%").ours(format!("{share:.1} %"))
    };
    vec![
        Row::new("tables and heaps, 100,000 live", Target::AtMost(7.0), share, "% of code")
            .ours(bytes_text(of(TABLES, BYTES))),
        Row::new("an arena of 64 KiB, beside its code", Target::AtMost(32.0), small / 1024.0, "KiB")
            .ours(bytes_text(small)),
        payload("payload of resident memory, 10,000 live", CHURNED[0], 92.0),
        payload("payload of resident memory, 100,000 live", CHURNED[1], 92.0),
        payload("payload, 1,500 live, ten generations of threads", LARSON, 85.0),
    ]
}
