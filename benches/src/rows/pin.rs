//! `pin` and the drop of the guard.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use gaia_jit::WxMode;

use crate::group::{Group, Row, Target, Task, ns_text};
use crate::measure::{Contender, race, time};
use crate::peers::{epoch, gaia};
use crate::sample::{Sample, Samples};
use crate::scale::Scale;

pub const GROUP: Group = Group { name: "pin", about: "pin and the drop of the guard", tasks, run, judge };

const CASE: &str = "pin and drop";
const METRIC: &str = "ns/pin";
const FLOOR: &str = "floor: a store, a fence and a store";

fn tasks(_: Scale) -> Vec<Task> {
    vec![Task::new(CASE)]
}

fn run(_: &Task, scale: Scale) -> Result<Vec<Sample>> {
    let count = scale.count(500_000);
    let arena = gaia::Arena::new(WxMode::Flip, false, 1_000)?.0;
    let word = AtomicU64::new(0);
    let fenced = || {
        word.store(1, Ordering::SeqCst);
        word.store(0, Ordering::Release);
    };
    let contenders = vec![
        Contender::new("gaia-jit", || Ok(time(count, |_| drop(arena.pin())))),
        Contender::new(epoch::NAME, || Ok(time(count, |_| epoch::pin()))),
        Contender::new(FLOOR, || Ok(time(count, |_| fenced()))),
    ];
    Ok(race(GROUP.name, CASE, METRIC, scale.rounds(15), contenders))
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let ns = |peer| samples.best(CASE, peer, METRIC);
    vec![
        Row::new("pin and drop of the guard", Target::AtMost(20.0), ns("gaia-jit"), "ns")
            .ours(ns_text(ns("gaia-jit")))
            .best_peer(Some((epoch::NAME, ns(epoch::NAME))))
            .floor(ns_text(ns(FLOOR))),
    ]
}
