//! The modes against each other: one function at a time, on fresh memory and in place of another,
//! by one to four threads.

use std::time::Instant;

use anyhow::{Result, ensure};
use gaia_jit::WxMode;

use super::together;
use crate::code;
use crate::group::{Group, Row, Target, Task, ns_text};
use crate::measure::{Contender, per, race};
use crate::peers::churner::Churner;
use crate::peers::{Store, gaia};
use crate::sample::{Sample, Samples};
use crate::scale::Scale;
use crate::trace::sizes;

pub const GROUP: Group =
    Group { name: "modes", about: "the modes against each other, one function at a time", tasks, run, judge };

const CASE: &str = "1000 live";
const FRESH: &str = "ns/publish";
const LIVE: usize = 1_000;
const THREADS: [usize; 3] = [1, 2, 4];
/// `FileWrite` in a process that ignores `SIGXFSZ`, so that the limit need not be looked at.
const IGNORED: &str = "gaia-jit FileWrite, SIGXFSZ ignored";
/// `Flip` under a filter that refuses the kernel write: in a process of its own.
const REFUSED: &str = "gaia-jit Flip, kernel write refused";

fn tasks(_: Scale) -> Vec<Task> {
    vec![Task::new(CASE), Task::alone(CASE, REFUSED)]
}

fn replaced(threads: usize) -> String {
    format!("ns/replacement, {threads} threads")
}

/// Has arenas of `FileWrite` built as in a process that ignores the signal, or as in others.
fn ignore_limit_signal(yes: bool) {
    let how = if yes { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: nothing here handles the signal.
    unsafe { libc::signal(libc::SIGXFSZ, how) };
}

fn arena(name: &str, mode: WxMode, count: usize) -> Result<gaia::Arena> {
    ignore_limit_signal(name == IGNORED);
    let arena = gaia::Arena::new(mode, false, count);
    ignore_limit_signal(false);
    arena
}

fn run(task: &Task, scale: Scale) -> Result<Vec<Sample>> {
    let mut modes = vec![(REFUSED.to_owned(), WxMode::Flip)];
    if task.alone.is_empty() {
        let all = [WxMode::Flip, WxMode::FileWrite, WxMode::DualMap, WxMode::PerThread];
        modes = all.into_iter().map(|mode| (gaia::name(mode, false), mode)).collect();
        modes.push((IGNORED.to_owned(), WxMode::FileWrite));
        modes.retain(|(name, mode)| arena(name, *mode, 1).is_ok());
    } else {
        ensure!(crate::filter::deny_kernel_writes(), "no filters of system calls here");
    }
    let (sizes, source) = (sizes(scale.count(5_000), 2), code::source());
    let (sizes, source) = (&sizes[..], &source[..]);
    let fresh = modes.iter().map(|(name, mode)| {
        Contender::new(name.clone(), move || {
            // Where each function takes a page.
            let room = if name == REFUSED { 8 * sizes.len() } else { sizes.len() };
            let mut arena = arena(name, *mode, room)?;
            let mut blocks = Vec::with_capacity(sizes.len());
            let start = Instant::now();
            for &size in sizes {
                blocks.push(arena.publish(&source[..usize::from(size)])?);
            }
            Ok(per(start.elapsed(), sizes.len()))
        })
    });
    let mut samples = race(GROUP.name, CASE, FRESH, scale.rounds(9), fresh.collect());
    for threads in THREADS {
        let mut contenders = Vec::new();
        for (name, mode) in &modes {
            let arena = arena(name, *mode, 8 * LIVE)?;
            let one = |seed| Churner::new(arena.clone(), LIVE / threads, seed);
            let mut churners = (0..threads as u64).map(one).collect::<Result<Vec<_>>>()?;
            let steps = scale.count(40_000);
            contenders.push(Contender::new(name.clone(), move || together(&mut churners, steps)));
        }
        samples.extend(race(GROUP.name, CASE, &replaced(threads), scale.rounds(9), contenders));
    }
    Ok(samples)
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let flip = gaia::name(WxMode::Flip, false);
    let ns = |peer: &str, metric: &str| samples.best(CASE, peer, metric);
    let against = |peer: &str, metric: &str, what: &str, target| {
        let (ours, other) = (ns(peer, metric), ns(&flip, metric));
        Row::new(
            format!("{}, {what}, against Flip", peer.trim_start_matches("gaia-jit ")),
            target,
            ours / other,
            "x Flip",
        )
        .ours(ns_text(ours))
        .peer(format!("{} Flip", ns_text(other)))
    };
    let one = replaced(1);
    let file = gaia::name(WxMode::FileWrite, false);
    let mut rows = vec![
        against(&file, FRESH, "fresh memory", Target::AtMost(0.7)),
        against(&file, &one, "replaced", Target::AtMost(0.7)),
        against(IGNORED, FRESH, "fresh memory", Target::AtMost(0.7)),
        against(IGNORED, &one, "replaced", Target::AtMost(0.7)),
        against(REFUSED, FRESH, "fresh memory", Target::None),
        against(REFUSED, &one, "replaced", Target::None),
    ];
    let each = |name: &str| THREADS.map(|threads| ns_text(ns(name, &replaced(threads)))).join(" / ");
    let modes =
        [WxMode::Flip, WxMode::FileWrite, WxMode::DualMap, WxMode::PerThread].map(|mode| gaia::name(mode, false));
    for name in modes.iter().map(String::as_str).chain([IGNORED, REFUSED]) {
        let gain = ns(name, &one) / ns(name, &replaced(2));
        if gain.is_finite() {
            let what = format!("{}, 1 / 2 / 4 threads, replaced", name.trim_start_matches("gaia-jit "));
            rows.push(Row::new(what, Target::None, gain, "x with two").ours(each(name)));
        }
    }
    rows
}
