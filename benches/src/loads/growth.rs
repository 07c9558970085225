//! 202,000 publishes into about 20 MB: the cost of one stays what it is.

use anyhow::Result;
use gaia_jit::{CodeBlock, WxMode};

use crate::code;
use crate::group::{Group, Row, Target, Task, ns_text};
use crate::measure::try_time;
use crate::peers::gaia;
use crate::sample::{Sample, Samples};
use crate::scale::Scale;
use crate::trace::Rng;

pub const GROUP: Group =
    Group { name: "growth", about: "202,000 publishes into 20 MB: cost by decile", tasks, run, judge };

const MODES: [WxMode; 2] = [WxMode::Flip, WxMode::DualMap];
const METRIC: &str = "ns/publish";

fn tasks(_: Scale) -> Vec<Task> {
    MODES.map(|mode| Task::new(format!("{mode:?}"))).to_vec()
}

fn decile(index: usize) -> String {
    format!("decile {}", index + 1)
}

fn run(task: &Task, scale: Scale) -> Result<Vec<Sample>> {
    let mode = if task.case == "Flip" { WxMode::Flip } else { WxMode::DualMap };
    let (source, mut rng) = (code::source(), Rng::new(12));
    let sizes: Vec<usize> = (0..scale.count(202_000)).map(|_| 40 + rng.below(121)).collect();
    let tenth = sizes.len() / 10;
    let mut best = [f64::INFINITY; 10];
    for _ in 0..scale.rounds(4) {
        let arena = gaia::builder(mode, false, sizes.len() / 5).build()?;
        let mut blocks: Vec<CodeBlock> = Vec::with_capacity(sizes.len());
        for (best, sizes) in best.iter_mut().zip(sizes.chunks(tenth)) {
            let publish = |i: usize| {
                blocks.push(arena.publish(&source[..sizes[i]])?);
                Ok(())
            };
            *best = try_time(sizes.len(), publish)?.min(*best);
        }
    }
    let sample = |(index, &ns): (usize, &f64)| Sample::value(GROUP.name, &task.case, &decile(index), METRIC, ns);
    Ok(best.iter().enumerate().map(sample).collect())
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let row = |mode: WxMode| {
        let ns = |index| samples.best(&format!("{mode:?}"), &decile(index), METRIC);
        let what = format!("202,000 publishes, {mode:?}, last decile / first");
        Row::new(what, Target::AtMost(1.25), ns(9) / ns(0), "x").ours(format!(
            "{} / {}",
            ns_text(ns(9)),
            ns_text(ns(0))
        ))
    };
    MODES.into_iter().map(row).collect()
}
