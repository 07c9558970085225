//! Churn: drop a random block, publish another, at several numbers of live functions.
//!
//! | task | stores | unit |
//! |---|---|---|
//! | 1,000 to 1,000,000 live functions | three arenas, malloc of glibc and of mimalloc, asmkit; up to 100,000 also peers with a mapping for each function | ns for each replacement |
//! | one instruction | an arena, asmkit, malloc | ns to publish and drop it |
//! | each peer of jit-allocator2, alone | that peer, in a process of its own | ns for each replacement; blocks dropped until damage |
//!
//! - *Fair*: all stores get the same sizes and the same victims, from one seed. A store is filled
//!   and aged before it is measured, so holes exist. A tenth of the steps runs unmeasured before
//!   each round, because the neighbours have changed the caches.
//! - *Target*: a multiple of the time of glibc's malloc, because malloc needs no executable memory.
//!   For one instruction it is the time of asmkit.
//! - *Left out*: jit-allocator2 does not count as the best peer, because its blocks overlap. It may
//!   crash, so it prints its best figure again and again.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;
use gaia_jit::WxMode;

use crate::code;
use crate::group::{Group, Row, Target, Task, ns_text};
use crate::measure::{Contender, race, try_time};
use crate::peers::churner::Churner;
use crate::peers::verify::verify;
use crate::peers::{Store, asmkit, dynasm, floors, gaia, gaia01, jit_allocator2, malloc};
use crate::sample::{Sample, Samples};
use crate::scale::Scale;

pub const GROUP: Group =
    Group { name: "churn", about: "drop a random block, publish another; by live functions", tasks, run, judge };

pub const METRIC: &str = "ns/replacement";
const VERIFY: &str = "verify";
const LIVE: [usize; 5] = [1_000, 10_000, 100_000, 400_000, 1_000_000];
/// What each is to cost, in malloc's of the same.
const TARGETS: [f64; 5] = [2.0, 2.0, 1.25, 1.1, 1.1];
/// One block of one instruction, published and dropped.
const ONE: &str = "one instruction";
/// With more, the peers with a mapping for each function would take gigabytes.
const MOST_MAPPINGS: usize = 100_000;

fn tasks(scale: Scale) -> Vec<Task> {
    let live = if scale.quick { &LIVE[..4] } else { &LIVE };
    let of = |&live: &usize| {
        let alone = jit_allocator2::ALL.into_iter().map(move |peer| Task::alone(live, peer));
        [Task::new(live)].into_iter().chain(alone)
    };
    let verify = jit_allocator2::ALL.into_iter().map(|peer| Task::alone(VERIFY, peer));
    live.iter().flat_map(of).chain(verify).chain([Task::new(ONE)]).collect()
}

/// Fills and ages a store, both outside the race.
fn churning<'a, S: Store + 'a>(peer: &str, live: usize, scale: Scale, store: Result<S>) -> Result<Contender<'a>> {
    let mut churner = Churner::new(store?, live, 3)?;
    churner.age(3 * live, 2 * scale.patience())?;
    let budget = Duration::from_millis(if scale.quick { 2 } else { 20 });
    let steps = churner.steps_within(budget, 50_000)?;
    Ok(Contender::new(peer, move || {
        // What the neighbours left in the caches does not count.
        churner.run(steps / 10)?;
        churner.run(steps)
    }))
}

fn run(task: &Task, scale: Scale) -> Result<Vec<Sample>> {
    if task.case == VERIFY {
        return alone(task, 0, scale);
    }
    if task.case == ONE {
        return one(scale);
    }
    let live: usize = task.case.parse()?;
    let gated = matches!(live, 10_000 | 400_000);
    let live = scale.count(live);
    if !task.alone.is_empty() {
        return alone(task, live, scale);
    }
    let (mut samples, mut contenders) = (Vec::new(), Vec::new());
    let mut enter = |peer: &str, contender: Result<Contender<'static>>| match contender {
        Ok(contender) => contenders.push(contender),
        Err(error) => samples.push(Sample::failed(GROUP.name, &task.case, peer, &format!("{error:#}"))),
    };
    for (mode, huge) in [(WxMode::DualMap, false), (WxMode::DualMap, true), (WxMode::Flip, false)] {
        let name = gaia::name(mode, huge);
        enter(&name, churning(&name, live, scale, gaia::Arena::new(mode, huge, live)));
    }
    enter(malloc::GLIBC, churning(malloc::GLIBC, live, scale, Ok(malloc::Glibc)));
    enter(malloc::MIMALLOC, churning(malloc::MIMALLOC, live, scale, Ok(malloc::Mimalloc)));
    for name in asmkit::ALL {
        enter(name, churning(name, live, scale, Ok(asmkit::Pool::new(name))));
    }
    if live <= MOST_MAPPINGS {
        enter(gaia01::NAME, churning(gaia01::NAME, live, scale, Ok(gaia01::PerFunction)));
        enter(dynasm::NAME, churning(dynasm::NAME, live, scale, Ok(dynasm::PerFunction)));
        enter(floors::SYSCALLS, churning(floors::SYSCALLS, live, scale, Ok(floors::Syscalls)));
    }
    samples.extend(race(GROUP.name, &task.case, METRIC, scale.rounds(if gated { 11 } else { 5 }), contenders));
    Ok(samples)
}

/// Publishes one instruction and drops it, again and again.
fn one(scale: Scale) -> Result<Vec<Sample>> {
    let (code, count) = (code::returns(1), scale.count(200_000));
    let code = &code[..];
    fn again<'a, S: Store + 'a>(name: &str, mut store: S, code: &'a [u8], count: usize) -> Contender<'a> {
        Contender::new(name, move || {
            try_time(count, |_| {
                let block = black_box(store.publish(code)?);
                store.retire(block)
            })
        })
    }
    let ours = gaia::name(WxMode::DualMap, false);
    let contenders = vec![
        again(&ours, gaia::Arena::new(WxMode::DualMap, false, 1_000)?, code, count),
        again(asmkit::DUAL, asmkit::Pool::new(asmkit::DUAL), code, count),
        again(malloc::GLIBC, malloc::Glibc, code, count),
    ];
    Ok(race(GROUP.name, ONE, METRIC, scale.rounds(11), contenders))
}

/// A peer that may crash: its figure is passed on again and again, for as long as it lives.
fn alone(task: &Task, live: usize, scale: Scale) -> Result<Vec<Sample>> {
    let peer = &task.alone;
    if task.case == VERIFY {
        let live = scale.count(10_000);
        let verdict = verify(jit_allocator2::Pool::new(peer), live, 20 * live)?;
        let sample = Sample::value(GROUP.name, VERIFY, peer, "dropped until damage", verdict.dropped as f64);
        let damage = format!("a live block had been overwritten by another after {} replacements", verdict.dropped);
        return Ok(vec![if verdict.damaged { sample.with_note(damage) } else { sample }]);
    }
    let mut churner = Churner::new(jit_allocator2::Pool::new(peer), live, 3)?;
    let deadline = Instant::now() + 2 * scale.patience();
    let (mut best, mut steps, mut next) = (f64::INFINITY, 0, 0);
    while Instant::now() < deadline {
        best = best.min(churner.run(500)?);
        steps += 500;
        if steps >= next {
            next = steps + steps / 4;
            let note = format!("its best until {steps} replacements");
            println!("{}", Sample::value(GROUP.name, &task.case, peer, METRIC, best).with_note(note).to_line());
        }
    }
    Ok(vec![Sample::value(GROUP.name, &task.case, peer, METRIC, best)])
}

/// Peers that keep their blocks apart: jit-allocator2 does not, so its figures count for nothing.
fn is_peer(name: &str) -> bool {
    let broken = jit_allocator2::ALL.contains(&name);
    !gaia::is_ours(name) && !name.starts_with("malloc") && name != floors::SYSCALLS && !broken
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let ours = gaia::name(WxMode::DualMap, false);
    let ns = |case: &str, peer: &str| samples.best(case, peer, METRIC);
    let against = |(live, target): (usize, f64)| {
        let case = live.to_string();
        let (mine, malloc) = (ns(&case, &ours), ns(&case, malloc::GLIBC));
        let live = match live {
            1_000_000 => "1,000,000".to_owned(),
            live => format!("{},000", live / 1_000),
        };
        Row::new(format!("churn, DualMap, {live} live"), Target::AtMost(target), mine / malloc, "x malloc")
            .ours(ns_text(mine))
            .floor(format!("{} {}", ns_text(malloc), malloc::GLIBC))
            .best_peer(samples.least(&case, METRIC, is_peer))
    };
    let growth = |peer: &str| ns("400000", peer) / ns("10000", peer);
    let flattest = "asmkit dual";
    let growth = Row::new("churn, DualMap, 400,000 / 10,000 live", Target::None, growth(&ours), "x")
        .ours(ns_text(ns("400000", &ours)))
        .peer(format!("{:.1} x {flattest}", growth(flattest)))
        .floor(format!("{:.1} x {}", growth(malloc::GLIBC), malloc::GLIBC));
    let one = Row::new(
        "publish and drop of one instruction, DualMap",
        Target::AtMost(1.0),
        ns(ONE, &ours) / ns(ONE, asmkit::DUAL),
        "x asmkit",
    )
    .ours(ns_text(ns(ONE, &ours)))
    .peer(format!("{} {}", ns_text(ns(ONE, asmkit::DUAL)), asmkit::DUAL))
    .floor(format!("{} {}", ns_text(ns(ONE, malloc::GLIBC)), malloc::GLIBC));
    LIVE.into_iter().zip(TARGETS).map(against).chain([growth, one]).collect()
}
