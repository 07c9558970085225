//! Threads that share the work in other ways than each for itself: one publishes and another drops;
//! four publish at one time.

use std::sync::Barrier;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use gaia_jit::{CodeArena, CodeBlock, WxMode};

use crate::code;
use crate::group::{Group, Row, Target, Task, ns_text};
use crate::measure::{Contender, per, race};
use crate::peers::gaia;
use crate::sample::{Sample, Samples};
use crate::scale::Scale;
use crate::trace::sizes;

pub const GROUP: Group =
    Group { name: "handover", about: "one publishes and another drops; four publish", tasks, run, judge };

const METRIC: &str = "ns/function";
const PAIR: &str = "one publishes, another drops";
const FOUR: &str = "publishing, DualMap";
const FOUR_FLIP: &str = "publishing, Flip";
const ALONE: &str = "one thread";
const TWO: &str = "two threads";
const FOURS: &str = "four threads";
/// Blocks that change hands together, so that the channel is not what is measured.
const HANDED: usize = 512;

fn tasks(_: Scale) -> Vec<Task> {
    [PAIR, FOUR, FOUR_FLIP].map(Task::new).to_vec()
}

fn publish(arena: &CodeArena, sizes: &[u16], source: &[u8]) -> Result<Vec<CodeBlock>> {
    sizes.iter().map(|&size| Ok(arena.publish(&source[..usize::from(size)])?)).collect()
}

fn alone(arena: &CodeArena, sizes: &[u16], source: &[u8]) -> Result<f64> {
    let start = Instant::now();
    for sizes in sizes.chunks(HANDED) {
        drop(publish(arena, sizes, source)?);
    }
    Ok(per(start.elapsed(), sizes.len()))
}

fn handed(arena: &CodeArena, sizes: &[u16], source: &[u8]) -> Result<f64> {
    thread::scope(|scope| {
        let (send, receive) = sync_channel::<Vec<CodeBlock>>(4);
        let dropper = scope.spawn(move || receive.into_iter().for_each(drop));
        let start = Instant::now();
        for sizes in sizes.chunks(HANDED) {
            send.send(publish(arena, sizes, source)?).context("the other thread is gone")?;
        }
        drop(send);
        dropper.join().map_err(|_| anyhow!("a thread panicked"))?;
        Ok(per(start.elapsed(), sizes.len()))
    })
}

/// Nanoseconds for each function over all threads, each of which publishes these sizes.
fn publishing(arena: &CodeArena, threads: usize, sizes: &[u16], source: &[u8]) -> Result<f64> {
    let barrier = Barrier::new(threads);
    let times = thread::scope(|scope| {
        let work = || {
            barrier.wait();
            let start = Instant::now();
            let blocks = publish(arena, sizes, source)?;
            let elapsed = per(start.elapsed(), sizes.len());
            // Dropped when all have published.
            barrier.wait();
            drop(blocks);
            Ok(elapsed)
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?).collect()
    });
    let times: Vec<f64> = Result::<Vec<f64>>::from(times)?;
    let slowest = times.into_iter().reduce(f64::max).context("no threads")?;
    Ok(slowest / threads as f64)
}

fn run(task: &Task, scale: Scale) -> Result<Vec<Sample>> {
    let source = code::source();
    let sizes = sizes(scale.count(40_000), 6);
    let mode = if task.case == FOUR_FLIP { WxMode::Flip } else { WxMode::DualMap };
    let arena = gaia::builder(mode, false, 5 * sizes.len()).build()?;
    let (arena, sizes, source) = (&arena, &sizes[..], &source[..]);
    // So that no round finds memory that was never used.
    publishing(arena, 4, sizes, source)?;
    let contenders = match &task.case[..] {
        PAIR => vec![
            Contender::new(ALONE, move || alone(arena, sizes, source)),
            Contender::new(TWO, move || handed(arena, sizes, source)),
        ],
        _ => vec![
            Contender::new(ALONE, move || publishing(arena, 1, sizes, source)),
            Contender::new(TWO, move || publishing(arena, 2, sizes, source)),
            Contender::new(FOURS, move || publishing(arena, 4, sizes, source)),
        ],
    };
    Ok(race(GROUP.name, &task.case, METRIC, scale.rounds(9), contenders))
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let ns = |case, peer| samples.best(case, peer, METRIC);
    let row = |what: &str, case, peer, target| {
        Row::new(what, target, ns(case, ALONE) / ns(case, peer), "x throughput").ours(format!(
            "{} {peer}, {} {ALONE}",
            ns_text(ns(case, peer)),
            ns_text(ns(case, ALONE))
        ))
    };
    vec![
        row("one thread publishes, another drops, DualMap", PAIR, TWO, Target::AtLeast(0.6)),
        row("four threads that publish against one, DualMap", FOUR, FOURS, Target::AtLeast(1.0)),
        row("four threads that publish against one, Flip", FOUR_FLIP, FOURS, Target::AtLeast(1.0)),
        row("two threads that publish against one, Flip", FOUR_FLIP, TWO, Target::None),
    ]
}
