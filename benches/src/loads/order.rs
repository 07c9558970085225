//! 40,000 functions of one instruction, dropped first in first out and last in first out.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Result, bail};
use gaia_jit::WxMode;

use crate::code;
use crate::group::{Group, Row, Target, Task, bytes_text, ns_text};
use crate::measure::per;
use crate::peers::{Store, asmkit, gaia, malloc};
use crate::sample::{Sample, Samples};
use crate::scale::Scale;
use crate::trace::Order;

pub const GROUP: Group =
    Group { name: "order", about: "40,000 one-instruction functions, dropped FIFO and LIFO", tasks, run, judge };

const ORDERS: [Order; 2] = [Order::Fifo, Order::Lifo];
const MODES: [WxMode; 2] = [WxMode::Flip, WxMode::DualMap];
const PUBLISH: &str = "ns/publish";
const DROP: &str = "ns/drop";
const LEFT: &str = "resident bytes after trim";

fn tasks(_: Scale) -> Vec<Task> {
    ORDERS.map(|order| Task::new(order.name())).to_vec()
}

/// The best of a few rounds of publishing all and dropping all.
fn all<S: Store>(store: &mut S, peer: &str, order: Order, scale: Scale) -> Result<[Sample; 2]> {
    let (code, count) = (code::returns(1), scale.count(40_000));
    let mut best = [f64::INFINITY; 2];
    for _ in 0..scale.rounds(5) {
        let mut blocks = VecDeque::with_capacity(count);
        let start = Instant::now();
        for _ in 0..count {
            blocks.push_back(store.publish(&code)?);
        }
        let published = start.elapsed();
        let next = |blocks: &mut VecDeque<S::Block>| match order {
            Order::Fifo => blocks.pop_front(),
            Order::Lifo => blocks.pop_back(),
        };
        while let Some(block) = next(&mut blocks) {
            store.retire(block)?;
        }
        let dropped = start.elapsed() - published;
        best = [per(published, count).min(best[0]), per(dropped, count).min(best[1])];
    }
    let sample = |metric, ns| Sample::value(GROUP.name, order.name(), peer, metric, ns);
    Ok([sample(PUBLISH, best[0]), sample(DROP, best[1])])
}

fn run(task: &Task, scale: Scale) -> Result<Vec<Sample>> {
    let Some(order) = ORDERS.into_iter().find(|order| order.name() == task.case) else { bail!("no such order") };
    let mut samples = Vec::new();
    for mode in MODES {
        let (mut arena, peer) = (gaia::Arena::new(mode, false, 40_000)?, gaia::name(mode, false));
        samples.extend(all(&mut arena, &peer, order, scale)?);
        arena.0.trim()?;
        let stats = arena.0.stats();
        if stats.free_bytes != stats.capacity {
            bail!("{} bytes did not come back", stats.capacity - stats.free_bytes);
        }
        samples.push(Sample::value(GROUP.name, order.name(), &peer, LEFT, stats.resident_bytes as f64));
    }
    samples.extend(all(&mut asmkit::Pool::new(asmkit::DUAL), asmkit::DUAL, order, scale)?);
    samples.extend(all(&mut malloc::Glibc, malloc::GLIBC, order, scale)?);
    Ok(samples)
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let of = |order: Order, mode: WxMode| {
        let (case, peer) = (order.name(), gaia::name(mode, false));
        let pair = |peer: &str| {
            let ns = |metric| ns_text(samples.best(case, peer, metric));
            format!("{} + {}", ns(PUBLISH), ns(DROP))
        };
        let left = samples.best(case, &peer, LEFT);
        Row::new(
            format!("40,000 of one instruction, {case}, {mode:?}, left after trim"),
            Target::AtMost(0.0),
            left,
            "bytes",
        )
        .ours(format!("{}, publish + drop {}", bytes_text(left), pair(&peer)))
        .peer(format!("{} {}", pair(asmkit::DUAL), asmkit::DUAL))
        .floor(format!("{} {}", pair(malloc::GLIBC), malloc::GLIBC))
    };
    ORDERS.into_iter().flat_map(|order| MODES.map(|mode| of(order, mode))).collect()
}
