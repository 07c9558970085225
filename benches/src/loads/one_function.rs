//! 200,000 times publish and drop of one function: nothing may grow.

use anyhow::Result;
use gaia_jit::WxMode;

use crate::code;
use crate::group::{Group, Row, Target, Task, bytes_text};
use crate::peers::gaia;
use crate::proc;
use crate::sample::{Sample, Samples};
use crate::scale::Scale;

pub const GROUP: Group = Group {
    name: "one-function",
    about: "200,000 publish and drop of one function: resident memory stays flat",
    tasks,
    run,
    judge,
};

const SIZE: usize = 520;
const QUARTERS: [&str; 5] = ["after 1%", "after 25%", "after 50%", "after 75%", "after 100%"];
const MODES: [WxMode; 2] = [WxMode::Flip, WxMode::DualMap];

fn tasks(_: Scale) -> Vec<Task> {
    MODES.map(|mode| Task::new(format!("{mode:?}"))).to_vec()
}

fn run(task: &Task, scale: Scale) -> Result<Vec<Sample>> {
    let mode = if task.case == "Flip" { WxMode::Flip } else { WxMode::DualMap };
    let arena = gaia::builder(mode, false, 10_000).build()?;
    let (code, total) = (code::returns(SIZE), scale.count(200_000));
    let mut samples = Vec::new();
    let mut done = 0;
    for (quarter, moment) in QUARTERS.iter().enumerate() {
        let until = if quarter == 0 { total / 100 } else { total * quarter / 4 };
        for _ in done..until {
            drop(arena.publish(&code)?);
        }
        done = until;
        let resident = arena.stats().resident_bytes;
        samples.push(Sample::value(GROUP.name, &task.case, moment, "resident bytes", resident as f64));
        samples.push(Sample::value(GROUP.name, &task.case, moment, "process RSS", proc::rss()? as f64));
    }
    Ok(samples)
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let row = |mode: WxMode, metric: &'static str, slack| {
        let at = |moment| samples.best(&format!("{mode:?}"), moment, metric);
        let (first, last) = (at(QUARTERS[0]), at(QUARTERS[4]));
        Row::new(format!("one function 200,000 times, {mode:?}, {metric} grows by"), slack, last - first, "bytes")
            .ours(format!("{} to {}", bytes_text(first), bytes_text(last)))
    };
    let of = |mode| {
        // The process itself (its heap, the text of this report) moves by some pages.
        [row(mode, "resident bytes", Target::AtMost(0.0)), row(mode, "process RSS", Target::AtMost(65536.0))]
    };
    MODES.into_iter().flat_map(of).collect()
}
