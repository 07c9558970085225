//! `pin` and the drop of the guard.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Result, ensure};
use gaia_jit::WxMode;

use crate::code;
use crate::group::{Group, Row, Target, Task, ns_text};
use crate::measure::{Contender, per, race, time};
use crate::peers::{Store, epoch, gaia};
use crate::sample::{Sample, Samples};
use crate::scale::Scale;
use crate::trace::sizes;

pub const GROUP: Group = Group { name: "pin", about: "pin and the drop of the guard", tasks, run, judge };

const CASE: &str = "pin and drop";
const METRIC: &str = "ns/pin";
/// Another pin while so many guards are held.
const HELD: &str = "50,000 guards held";
/// A publication while so many blocks wait for a guard, which goes in between.
const WAITING: &str = "100,000 blocks waiting";
const FLOOR: &str = "floor: a store, a fence and a store";

fn tasks(_: Scale) -> Vec<Task> {
    [CASE, HELD, WAITING].map(Task::new).to_vec()
}

fn run(task: &Task, scale: Scale) -> Result<Vec<Sample>> {
    match &task.case[..] {
        HELD => return held(scale),
        WAITING => return waiting(scale),
        _ => {}
    }
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

fn held(scale: Scale) -> Result<Vec<Sample>> {
    let arena = gaia::Arena::new(WxMode::Flip, false, 1_000)?.0;
    let guards: Vec<_> = (0..scale.count(50_000)).map(|_| arena.pin()).collect();
    let count = scale.count(100_000);
    let contenders = vec![Contender::new("gaia-jit", || Ok(time(count, |_| drop(arena.pin()))))];
    let samples = race(GROUP.name, HELD, METRIC, scale.rounds(7), contenders);
    drop(guards);
    Ok(samples)
}

/// The slowest of the publications that come right after the guard is gone.
fn waiting(scale: Scale) -> Result<Vec<Sample>> {
    let count = scale.count(100_000);
    let mut arena = gaia::Arena::new(WxMode::DualMap, false, 2 * count)?;
    let (code, sizes) = (code::source(), sizes(count, 9));
    let round = || {
        let blocks = arena.fill(&sizes, &code)?;
        let guard = arena.0.pin();
        drop(blocks);
        ensure!(arena.0.map().pages.iter().any(|page| page.pending > 0), "nothing waits");
        drop(guard);
        let mut slowest = 0.0_f64;
        for _ in 0..64 {
            let start = Instant::now();
            let block = arena.0.publish(&code[..100])?;
            slowest = slowest.max(per(start.elapsed(), 1));
            drop(block);
        }
        Ok(slowest)
    };
    let contenders = vec![Contender::new("gaia-jit", round)];
    Ok(race(GROUP.name, WAITING, METRIC, scale.rounds(5), contenders))
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let ns = |peer| samples.best(CASE, peer, METRIC);
    vec![
        Row::new("pin and drop of the guard", Target::AtMost(20.0), ns("gaia-jit"), "ns")
            .ours(ns_text(ns("gaia-jit")))
            .best_peer(Some((epoch::NAME, ns(epoch::NAME))))
            .floor(ns_text(ns(FLOOR))),
        Row::new(
            "a pin with 50,000 guards held",
            Target::AtMost(1_000.0),
            samples.best(HELD, "gaia-jit", METRIC),
            "ns",
        )
        .ours(ns_text(samples.best(HELD, "gaia-jit", METRIC))),
        Row::new(
            "the slowest publication with 100,000 blocks waiting",
            Target::AtMost(50.0),
            samples.best(WAITING, "gaia-jit", METRIC) / 1_000.0,
            "µs",
        )
        .ours(ns_text(samples.best(WAITING, "gaia-jit", METRIC))),
    ]
}
