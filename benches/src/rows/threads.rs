//! Two threads against one: publish and drop in one arena.

use std::sync::Barrier;
use std::thread;

use anyhow::{Context, Result};
use gaia_jit::WxMode;

use crate::group::{Group, Row, Target, Task, ns_text};
use crate::measure::{Contender, race};
use crate::peers::churner::Churner;
use crate::peers::{Store, gaia, malloc};
use crate::sample::{Sample, Samples};
use crate::scale::Scale;

pub const GROUP: Group =
    Group { name: "threads", about: "two threads against one, publish and drop, DualMap", tasks, run, judge };

const METRIC: &str = "ns/replacement";
const CASE: &str = "throughput";
const LIVE: usize = 1_000;

fn tasks(_: Scale) -> Vec<Task> {
    vec![Task::new(CASE)]
}

/// Nanoseconds for each replacement, over all threads: each has its own live blocks in the same
/// store.
pub fn together<S: Store>(churners: &mut [Churner<S>], steps: usize) -> Result<f64>
where
    Churner<S>: Send,
{
    let threads = churners.len();
    let barrier = Barrier::new(threads);
    let times = thread::scope(|scope| {
        let start = |churner| {
            let churner: &mut Churner<S> = churner;
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                churner.run(steps)
            })
        };
        let running: Vec<_> = churners.iter_mut().map(start).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<f64>>| {
            thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
        };
        running.into_iter().map(join).collect::<Result<Vec<f64>>>()
    })?;
    let slowest = times.into_iter().reduce(f64::max).context("no threads")?;
    Ok(slowest / threads as f64)
}

fn name(peer: &str, threads: u64) -> String {
    format!("{peer}, {threads} thread{}", if threads == 1 { "" } else { "s" })
}

fn enter<S: Store + Clone + 'static>(
    peer: &str,
    store: &S,
    scale: Scale,
    contenders: &mut Vec<Contender<'static>>,
) -> Result<()>
where
    Churner<S>: Send,
{
    let steps = scale.count(60_000);
    for threads in [1, 2] {
        let one = |seed| Churner::new(store.clone(), LIVE, seed);
        let mut churners = (0..threads).map(one).collect::<Result<Vec<_>>>()?;
        contenders.push(Contender::new(name(peer, threads), move || together(&mut churners, steps)));
    }
    Ok(())
}

fn run(_: &Task, scale: Scale) -> Result<Vec<Sample>> {
    let mut contenders = Vec::new();
    for mode in [WxMode::DualMap, WxMode::Flip] {
        let arena = gaia::Arena::new(mode, false, 8 * LIVE)?;
        enter(&gaia::name(mode, false), &arena, scale, &mut contenders)?;
    }
    enter(malloc::GLIBC, &malloc::Glibc, scale, &mut contenders)?;
    enter(malloc::MIMALLOC, &malloc::Mimalloc, scale, &mut contenders)?;
    Ok(race(GROUP.name, CASE, METRIC, scale.rounds(15), contenders))
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let ns = |peer: &str, threads| samples.best(CASE, &name(peer, threads), METRIC);
    let gain = |peer: &str| ns(peer, 1) / ns(peer, 2);
    let best = gain(malloc::MIMALLOC).max(gain(malloc::GLIBC));
    let row = |mode, target| {
        let ours = gaia::name(mode, false);
        Row::new(format!("two threads against one, {mode:?}"), target, gain(&ours) / best, "x malloc's gain")
            .ours(format!("{:.2} x: {} one, {} two", gain(&ours), ns_text(ns(&ours, 1)), ns_text(ns(&ours, 2))))
            .peer(format!("{:.2} x {}", gain(malloc::MIMALLOC), malloc::MIMALLOC))
            .floor(format!("{:.2} x {}", gain(malloc::GLIBC), malloc::GLIBC))
    };
    vec![row(WxMode::DualMap, Target::AtLeast(0.9)), row(WxMode::Flip, Target::None)]
}
