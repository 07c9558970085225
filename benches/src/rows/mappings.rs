//! How many mappings 100,000 live functions take after churn, in `Flip`.

use anyhow::Result;
use gaia_jit::{CodeBlock, WxMode};

use crate::code;
use crate::group::{Group, Row, Target, Task};
use crate::peers::churner::Churner;
use crate::peers::{BATCH, gaia, gaia01};
use crate::proc;
use crate::sample::{Sample, Samples};
use crate::scale::Scale;
use crate::trace::{Rng, sizes};

pub const GROUP: Group =
    Group { name: "mappings", about: "mappings with 100,000 live functions after churn, Flip", tasks, run, judge };

const CASE: &str = "100000 live";
const METRIC: &str = "mappings";
const SINGLES: &str = "gaia-jit Flip, single churn";
const BATCHES: &str = "gaia-jit Flip, batch churn";
const THEIRS: &str = "gaia-jit 0.1.1 with 20,000 live";

fn tasks(_: Scale) -> Vec<Task> {
    vec![Task::new(CASE)]
}

fn run(_: &Task, scale: Scale) -> Result<Vec<Sample>> {
    let live = scale.count(100_000);
    let sample = |peer, mappings: usize| Sample::value(GROUP.name, CASE, peer, METRIC, mappings as f64);
    let before = proc::mappings()?;
    let mut churner = Churner::new(gaia::Arena::new(WxMode::Flip, false, live)?, live, 9)?;
    churner.run(live)?;
    let singles = proc::mappings()? - before;
    drop(churner);

    let before = proc::mappings()?;
    let arena = gaia::builder(WxMode::Flip, true, live).build()?;
    let (source, mut rng) = (code::source(), Rng::new(10));
    let mut blocks: Vec<CodeBlock> = Vec::new();
    gaia::publish_in_batches(&arena, &sizes(live, 11), &source, BATCH, &mut blocks)?;
    let mut batches = 0;
    for round in 0..scale.count(100) {
        for _ in 0..BATCH.min(live / 2) {
            drop(blocks.swap_remove(rng.below(blocks.len())));
        }
        gaia::publish_in_batches(&arena, &sizes(BATCH.min(live / 2), round as u64), &source, BATCH, &mut blocks)?;
        batches = batches.max(proc::mappings()? - before);
    }
    drop(blocks);

    let before = proc::mappings()?;
    let mut theirs = Churner::new(gaia01::PerFunction, scale.count(20_000), 9)?;
    theirs.run(scale.count(20_000))?;
    Ok(vec![
        sample(SINGLES, singles),
        sample(BATCHES, batches),
        sample(THEIRS, proc::mappings()?.saturating_sub(before)),
    ])
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let count = |peer| samples.best(CASE, peer, METRIC);
    let row = |what, peer| {
        Row::new(what, Target::AtMost(64.0), count(peer), "mappings")
            .ours(format!("{:.0}", count(peer)))
            .peer(format!("{:.0} {THEIRS}", count(THEIRS)))
    };
    vec![
        row("mappings, 100,000 live, single churn, Flip", SINGLES),
        row("mappings, 100,000 live, churn in batches of 1,024, Flip", BATCHES),
    ]
}
