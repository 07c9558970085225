//! `lookup` of random addresses inside random live blocks.

use std::collections::BTreeMap;
use std::sync::RwLock;
use std::time::Duration;

use anyhow::{Result, ensure};
use gaia_jit::{CodeArena, WxMode};

use crate::group::{Group, Row, Target, Task, ns_text};
use crate::measure::{Contender, race, time, try_time};
use crate::peers::churner::Churner;
use crate::peers::{Store, asmkit, gaia};
use crate::sample::{Sample, Samples};
use crate::scale::Scale;
use crate::trace::{MIN_SIZE, Rng};

pub const GROUP: Group =
    Group { name: "lookup", about: "random addresses among 10,000 and 400,000 live functions", tasks, run, judge };

const METRIC: &str = "ns/lookup";
const LATENCY: &str = "gaia-jit DualMap, each after the last";
const THEIRS: &str = "asmkit dual, of block starts";
const MANY: &str = "gaia-jit DualMap, 64 at once";
/// One load from a table of 16 bytes for each function, each after the last.
const TABLE: &str = "floor: one dependent load";
const MAP: &str = "RwLock<BTreeMap>";
const LOOKUPS: usize = 100_000;

fn tasks(_: Scale) -> Vec<Task> {
    vec![Task::new(10_000), Task::new(400_000)]
}

/// Addresses inside random live blocks, anywhere in what every block has.
pub fn addresses_inside<S: Store>(churner: &Churner<S>, count: usize) -> Vec<*const u8> {
    let (starts, mut rng) = (churner.addresses(), Rng::new(7));
    (0..count).map(|_| starts[rng.below(starts.len())].wrapping_add(rng.below(MIN_SIZE))).collect()
}

/// Each lookup waits for the last: the tag, which is 0, is part of the next index.
fn one_after_another(arena: &CodeArena, wanted: &[*const u8]) -> f64 {
    let mut tag = 0;
    time(wanted.len(), |i| {
        tag = arena.lookup(wanted[i + tag]).map_or(0, |hit| hit.tag as usize);
    })
}

/// As [`one_after_another`], from a table in which each entry says that the next is to be read.
fn loads(table: &[[u64; 2]], wanted: &[usize]) -> f64 {
    let mut tag = 0;
    time(wanted.len(), |i| {
        tag = table[wanted[i] + tag][1] as usize;
    })
}

fn many(arena: &CodeArena, wanted: &[*const u8]) -> f64 {
    let mut found = [None; 64];
    let pieces = wanted.chunks_exact(64);
    time(pieces.len(), |i| arena.lookup_many(&wanted[i * 64..][..64], &mut found)) / 64.0
}

/// The second of two runs: what the neighbours left in the caches does not count.
fn twice<T>(work: impl Fn() -> T) -> T {
    work();
    work()
}

fn run(task: &Task, scale: Scale) -> Result<Vec<Sample>> {
    let live = scale.count(task.case.parse()?);
    let ours = gaia::name(WxMode::DualMap, false);
    let mut churner = Churner::new(gaia::Arena::new(WxMode::DualMap, false, live)?, live, 8)?;
    churner.age(live, Duration::from_secs(2))?;
    let arena = churner.store.0.clone();
    let wanted = addresses_inside(&churner, scale.count(LOOKUPS));
    ensure!(wanted.iter().all(|&at| arena.lookup(at).is_some()), "an address inside a live block was not found");

    let mut others = Churner::new(asmkit::Pool::new(asmkit::DUAL), live, 8)?;
    others.age(live, scale.patience())?;
    // It finds a block only by its first byte.
    let (starts, mut rng) = (others.addresses(), Rng::new(7));
    let theirs: Vec<_> = wanted.iter().map(|_| starts[rng.below(starts.len())]).collect();
    let starts = churner.addresses().into_iter().map(|start| (start.addr(), 0_u64));
    let map: RwLock<BTreeMap<usize, u64>> = RwLock::new(starts.collect());
    let find = |address: usize| {
        let map = map.read().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        Ok(map.range(..=address).next_back().map(|(start, tag)| (*start, *tag)))
    };
    let table = vec![[0_u64; 2]; live];
    let entries: Vec<usize> = wanted.iter().map(|_| rng.below(live)).collect();
    let contenders = vec![
        Contender::new(MANY, || Ok(twice(|| many(&arena, &wanted)))),
        Contender::new(TABLE, || Ok(twice(|| loads(&table, &entries)))),
        Contender::new(&*ours, || Ok(twice(|| time(wanted.len(), |i| arena.lookup(wanted[i]))))),
        Contender::new(LATENCY, || Ok(twice(|| one_after_another(&arena, &wanted)))),
        Contender::new(THEIRS, || twice(|| try_time(theirs.len(), |i| others.store.query(theirs[i])))),
        Contender::new(MAP, || twice(|| try_time(wanted.len(), |i| find(wanted[i].addr())))),
    ];
    Ok(race(GROUP.name, &task.case, METRIC, scale.rounds(11), contenders))
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let ours = gaia::name(WxMode::DualMap, false);
    let ns = |case, peer: &str| samples.best(case, peer, METRIC);
    let against = |what: &str, case, mine: &str, other: &str, target, unit| {
        Row::new(what, target, ns(case, mine) / ns(case, other), unit).ours(ns_text(ns(case, mine)))
    };
    let text = |case, peer: &str| format!("{} {peer}", ns_text(ns(case, peer)));
    let dependent = "lookup, 400,000 live, each after the last";
    let independent = "lookup, 400,000 live, against asmkit's of starts";
    let flat = ns("400000", &ours) / ns("10000", &ours);
    vec![
        against(dependent, "400000", LATENCY, TABLE, Target::AtMost(1.2), "x one load").floor(text("400000", TABLE)),
        against(independent, "400000", &ours, THEIRS, Target::AtMost(1.0), "x asmkit").peer(text("400000", THEIRS)),
        against("lookup_many of 64, 400,000 live", "400000", MANY, &ours, Target::AtMost(0.5), "x lookup"),
        against("lookup, 10,000 live", "10000", &ours, THEIRS, Target::None, "x asmkit").peer(text("10000", THEIRS)),
        Row::new("lookup, 400,000 / 10,000 live", Target::None, flat, "x").ours(ns_text(ns("400000", &ours))),
    ]
}
