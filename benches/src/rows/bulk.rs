//! Bulk: 100,000 functions in batches of 1,024.
//!
//! *Warm*: the memory held the same functions before, and was emptied. *Fresh*: it is used for the
//! first time. The row's figure is the warm one, against a floor that copies into memory that is
//! populated already; the fresh one is held against a floor that maps and populates inside the
//! measured part.

use std::time::Instant;

use anyhow::Result;
use gaia_jit::WxMode;

use crate::code;
use crate::group::{Group, Row, Target, Task, ns_text};
use crate::measure::{Contender, per, race};
use crate::peers::{Bulk, Fresh, OneByOne, asmkit, cranelift, floors, gaia, jit_allocator2, malloc};
use crate::sample::{Sample, Samples};
use crate::scale::Scale;
use crate::trace::sizes;

pub const GROUP: Group =
    Group { name: "bulk", about: "100,000 functions in batches of 1,024, Flip + huge pages", tasks, run, judge };

const CASE: &str = "100000 functions";
const METRIC: &str = "ns/function";
const WARM: &str = "gaia-jit Flip huge, warm";
const INSIDE: &str = "gaia-jit Flip huge, fresh, built inside";
const OUTSIDE: &str = "gaia-jit Flip huge, fresh, built outside";

/// Against each other, in pages of the usual size.
const MODES: [WxMode; 4] = [WxMode::Flip, WxMode::DualMap, WxMode::FileWrite, WxMode::PerThread];

fn in_mode(mode: WxMode, memory: &str) -> String {
    format!("{}, {memory}", gaia::name(mode, false))
}

fn tasks(_: Scale) -> Vec<Task> {
    let alone = jit_allocator2::ALL.into_iter().map(|peer| Task::alone(CASE, peer));
    [Task::new(CASE)].into_iter().chain(alone).collect()
}

/// A contender that loads and empties, the loading measured.
fn loading<'a>(name: &str, mut bulk: impl Bulk + 'a, sizes: &'a [u16], source: &'a [u8]) -> Contender<'a> {
    Contender::new(name, move || {
        let start = Instant::now();
        bulk.load(sizes, source)?;
        let elapsed = start.elapsed();
        bulk.empty()?;
        Ok(per(elapsed, sizes.len()))
    })
}

/// As [`loading`], after one round that does not count.
fn warm<'a>(name: &str, mut bulk: impl Bulk + 'a, sizes: &'a [u16], source: &'a [u8]) -> Result<Contender<'a>> {
    bulk.load(sizes, source)?;
    bulk.empty()?;
    Ok(loading(name, bulk, sizes, source))
}

fn run(task: &Task, scale: Scale) -> Result<Vec<Sample>> {
    let (sizes, source) = (sizes(scale.count(100_000), 1), code::source());
    let (sizes, source) = (&sizes[..], &source[..]);
    let count = sizes.len();
    let loader = |mode, huge| Ok(gaia::Loader::new(gaia::builder(mode, huge, count).build()?));
    if !task.alone.is_empty() {
        let make = || Ok(OneByOne::new(jit_allocator2::Pool::new(&task.alone)));
        let fresh = loading(&format!("{}, fresh", task.alone), Fresh::new(make), sizes, source);
        return Ok(race(GROUP.name, CASE, METRIC, scale.rounds(7), vec![fresh]));
    }
    let outside = Contender::new(OUTSIDE, || {
        let mut bulk = loader(WxMode::Flip, true)?;
        let start = Instant::now();
        bulk.load(sizes, source)?;
        Ok(per(start.elapsed(), count))
    });
    let mut contenders = vec![
        warm(WARM, loader(WxMode::Flip, true)?, sizes, source)?,
        loading(INSIDE, Fresh::new(|| loader(WxMode::Flip, true)), sizes, source),
        outside,
        warm(floors::COPY_WARM, floors::PopulatedCopy::new(sizes)?, sizes, source)?,
        warm(floors::COPY_BATCHES, floors::CopyInBatches::new(sizes)?, sizes, source)?,
        loading(floors::COPY_FRESH, Fresh::new(|| floors::PopulatedCopy::new(sizes)), sizes, source),
        loading(cranelift::SYSTEM, Fresh::new(|| Ok(cranelift::system())), sizes, source),
        loading(cranelift::ARENA, Fresh::new(|| cranelift::arena(gaia::capacity_for(count))), sizes, source),
        warm(&format!("{}, warm", malloc::GLIBC), OneByOne::new(malloc::Glibc), sizes, source)?,
    ];
    for mode in MODES {
        // Not every machine has all of them.
        if let Ok(bulk) = loader(mode, false) {
            contenders.push(warm(&in_mode(mode, "warm"), bulk, sizes, source)?);
            contenders.push(loading(&in_mode(mode, "fresh"), Fresh::new(move || loader(mode, false)), sizes, source));
        }
    }
    for name in asmkit::ALL {
        let make = || Ok(OneByOne::new(asmkit::Pool::new(name)));
        contenders.push(loading(&format!("{name}, fresh"), Fresh::new(make), sizes, source));
        contenders.push(warm(&format!("{name}, warm"), make()?, sizes, source)?);
    }
    Ok(race(GROUP.name, CASE, METRIC, scale.rounds(9), contenders))
}

/// Peers that keep their blocks intact, on memory that was used before or not.
fn is_peer(name: &str, fresh: bool) -> bool {
    ["asmkit", "cranelift"].iter().any(|peer| name.starts_with(peer)) && name.ends_with("warm") != fresh
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let ns = |peer: &str| samples.best(CASE, peer, METRIC);
    let [warm, fresh] = [false, true].map(|fresh| samples.least(CASE, METRIC, |name| is_peer(name, fresh)));
    let row = |what, ours, floor, peer| {
        let row = Row::new(what, Target::None, ns(ours) / ns(floor), "x floor");
        row.ours(ns_text(ns(ours))).floor(format!("{} {floor}", ns_text(ns(floor)))).best_peer(peer)
    };
    let beaten = |what, ours, peer: Option<(&str, f64)>, target| {
        let theirs = peer.map_or(f64::NAN, |(_, ns)| ns);
        Row::new(what, target, theirs / ns(ours), "x faster").ours(ns_text(ns(ours))).best_peer(peer)
    };
    let batches = row("bulk, warm arena, per function", WARM, floors::COPY_BATCHES, warm);
    let modes = MODES[1..].iter().flat_map(|mode| {
        ["warm", "fresh"].map(|memory| {
            let [ours, flip] = [*mode, WxMode::Flip].map(|mode| ns(&in_mode(mode, memory)));
            let what = format!("bulk, {memory} arena, {mode:?} against Flip, usual pages");
            let row = Row::new(what, Target::None, ours / flip, "x Flip");
            (ours.is_finite(), row.ours(ns_text(ours)).peer(format!("{} Flip", ns_text(flip))))
        })
    });
    let modes = modes.filter_map(|(had, row)| had.then_some(row));
    let rows = vec![
        Row { target: Target::AtMost(2.0), ..batches },
        row("bulk, warm arena, one flip in all", WARM, floors::COPY_WARM, warm),
        row("bulk, fresh arena (built inside)", INSIDE, floors::COPY_FRESH, fresh),
        row("bulk, fresh arena (built outside)", OUTSIDE, floors::COPY_FRESH, fresh),
        beaten("bulk, warm arena, peers on warm memory", WARM, warm, Target::AtLeast(2.0)),
        beaten("bulk, fresh arena, peers on fresh memory", INSIDE, fresh, Target::AtLeast(1.8)),
    ];
    rows.into_iter().chain(modes).collect()
}
