//! Dropping 100,000 functions: in the order of their addresses, in reverse, and at random.

use std::time::Instant;

use anyhow::{Result, bail};
use gaia_jit::WxMode;

use crate::code;
use crate::group::{Group, Row, Target, Task, ns_text};
use crate::measure::{Contender, per, race};
use crate::peers::{Store, asmkit, gaia, malloc};
use crate::sample::{Sample, Samples};
use crate::scale::Scale;
use crate::trace::{Rng, sizes};

pub const GROUP: Group = Group { name: "drops", about: "100,000 functions dropped by address", tasks, run, judge };

const METRIC: &str = "ns/drop";
const ORDERS: [&str; 3] = ["in address order", "in reverse", "at random"];

fn tasks(_: Scale) -> Vec<Task> {
    ORDERS.map(Task::new).to_vec()
}

fn dropping<'a, S: Store + 'a>(name: &str, order: &'a str, mut store: S, sizes: &'a [u16]) -> Contender<'a> {
    let source = code::source();
    Contender::new(name, move || {
        let mut blocks = store.fill(sizes, &source)?;
        match order {
            "in address order" => blocks.sort_by_key(|block| store.address(block).addr()),
            "in reverse" => blocks.sort_by_key(|block| std::cmp::Reverse(store.address(block).addr())),
            "at random" => Rng::new(5).shuffle(&mut blocks),
            other => bail!("no such order: {other}"),
        }
        let start = Instant::now();
        blocks.into_iter().try_for_each(|block| store.retire(block))?;
        Ok(per(start.elapsed(), sizes.len()))
    })
}

fn run(task: &Task, scale: Scale) -> Result<Vec<Sample>> {
    let count = scale.count(100_000);
    let (sizes, order) = (sizes(count, 4), &task.case[..]);
    let ours = gaia::name(WxMode::DualMap, false);
    let contenders = vec![
        dropping(&ours, order, gaia::Arena::new(WxMode::DualMap, false, count)?, &sizes),
        dropping(malloc::GLIBC, order, malloc::Glibc, &sizes),
        dropping(malloc::MIMALLOC, order, malloc::Mimalloc, &sizes),
        dropping(asmkit::DUAL, order, asmkit::Pool::new(asmkit::DUAL), &sizes),
    ];
    Ok(race(GROUP.name, &task.case, METRIC, scale.rounds(7), contenders))
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let ours = gaia::name(WxMode::DualMap, false);
    let row = |case: &str| {
        let ns = |peer: &str| samples.best(case, peer, METRIC);
        let figure = ns(&ours) / ns(malloc::GLIBC);
        Row::new(format!("dropping 100,000 {case}, DualMap"), Target::AtMost(1.5), figure, "x malloc")
            .ours(ns_text(ns(&ours)))
            .best_peer(Some((asmkit::DUAL, ns(asmkit::DUAL))))
            .floor(format!("{} {}", ns_text(ns(malloc::GLIBC)), malloc::GLIBC))
    };
    ORDERS.map(row).to_vec()
}
