//! One function at a time, in `Flip`.

use std::time::Instant;

use anyhow::Result;
use gaia_jit::WxMode;

use crate::code;
use crate::group::{Group, Row, Target, Task, ns_text};
use crate::measure::{Contender, per, race};
use crate::peers::{Store, asmkit, dynasm, floors, gaia, gaia01, kernel_write, malloc};
use crate::sample::{Sample, Samples};
use crate::scale::Scale;
use crate::trace::sizes;

pub const GROUP: Group =
    Group { name: "one-at-a-time", about: "single functions, Flip, against a mapping each", tasks, run, judge };

/// Few enough for a mapping each, of which Linux allows 65,530.
const CASE: &str = "20000 functions";
const PUBLISH: &str = "ns/publish";
const BOTH: &str = "ns/publish and drop";
const USE: &str = "page use %";
const OURS: &str = "gaia-jit Flip";

fn tasks(_: Scale) -> Vec<Task> {
    vec![Task::new(CASE)]
}

/// Publishes all, then drops all, in a new store; `BOTH` or only the publishing counts.
fn living<'a, S: Store>(
    name: impl Into<String>,
    metric: &'a str,
    sizes: &'a [u16],
    source: &'a [u8],
    make: impl Fn() -> Result<S> + 'a,
) -> Contender<'a> {
    Contender::new(name, move || {
        let mut blocks = Vec::with_capacity(sizes.len());
        let mut store = make()?;
        let start = Instant::now();
        for &size in sizes {
            blocks.push(store.publish(&source[..usize::from(size)])?);
        }
        let published = start.elapsed();
        blocks.into_iter().try_for_each(|block| store.retire(block))?;
        Ok(per(if metric == BOTH { start.elapsed() } else { published }, sizes.len()))
    })
}

fn run(_: &Task, scale: Scale) -> Result<Vec<Sample>> {
    let (sizes, source) = (sizes(scale.count(20_000), 2), code::source());
    let (sizes, source) = (&sizes[..], &source[..]);
    let count = sizes.len();
    let mut samples = Vec::new();
    for (metric, rounds) in [(PUBLISH, 7), (BOTH, 5)] {
        let arena = |mode, huge| {
            living(gaia::name(mode, huge), metric, sizes, source, move || gaia::Arena::new(mode, huge, count))
        };
        let kernel = || kernel_write::KernelWrites::new(gaia::capacity_for(count));
        let mut contenders = vec![
            arena(WxMode::Flip, false),
            arena(WxMode::Flip, true),
            arena(WxMode::DualMap, false),
            living(gaia01::NAME, metric, sizes, source, || Ok(gaia01::PerFunction)),
            living(dynasm::NAME, metric, sizes, source, || Ok(dynasm::PerFunction)),
            living(floors::SYSCALLS, metric, sizes, source, || Ok(floors::Syscalls)),
            living(kernel_write::NAME, metric, sizes, source, kernel),
            living(malloc::GLIBC, metric, sizes, source, || Ok(malloc::Glibc)),
        ];
        for name in asmkit::ALL {
            contenders.push(living(name, metric, sizes, source, move || Ok(asmkit::Pool::new(name))));
        }
        samples.extend(race(GROUP.name, CASE, metric, scale.rounds(rounds), contenders));
    }
    let mut arena = gaia::Arena::new(WxMode::Flip, false, count)?;
    let blocks = sizes.iter().map(|&size| arena.publish(&source[..usize::from(size)])).collect::<Result<Vec<_>>>()?;
    let stats = arena.0.stats();
    drop(blocks);
    let payload: usize = sizes.iter().map(|&size| usize::from(size)).sum();
    let share = |resident: usize| 100.0 * payload as f64 / resident as f64;
    samples.push(Sample::value(GROUP.name, CASE, OURS, USE, share(stats.resident_bytes)));
    samples.push(Sample::value(GROUP.name, CASE, gaia01::NAME, USE, share(count * floors::page_size())));
    Ok(samples)
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let ns = |peer| samples.best(CASE, peer, PUBLISH);
    let page_use = |peer| samples.best(CASE, peer, USE);
    let against = |peer: &'static str| {
        Row::new(format!("one at a time, Flip / {peer}"), Target::AtMost(0.35), ns(OURS) / ns(peer), "x")
            .ours(ns_text(ns(OURS)))
            .best_peer(Some((peer, ns(peer))))
            .floor(ns_text(ns(kernel_write::NAME)))
    };
    vec![
        against(gaia01::NAME),
        against(dynasm::NAME),
        Row::new("one at a time, use of each page", Target::AtLeast(85.0), page_use(OURS), "%")
            .ours(format!("{:.1} %", page_use(OURS)))
            .peer(format!("{:.1} % {}", page_use(gaia01::NAME), gaia01::NAME)),
    ]
}
