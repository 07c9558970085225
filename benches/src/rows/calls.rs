//! Random calls over 64 MiB of functions that only return: what huge pages are worth when code
//! runs.

use anyhow::Result;
use gaia_jit::WxMode;

use crate::code;
use crate::group::{Group, Row, Target, Task, ns_text};
use crate::measure::{Contender, race, time};
use crate::peers::{Store, asmkit, floors, gaia};
use crate::proc;
use crate::sample::{Sample, Samples};
use crate::scale::Scale;
use crate::trace::{MAX_SIZE, MIN_SIZE, Rng, sizes};

pub const GROUP: Group =
    Group { name: "calls", about: "random calls over 64 MiB of code, huge pages on and off", tasks, run, judge };

pub const CASE: &str = "64 MiB";
pub const METRIC: &str = "ns/call";
const HUGE: &str = "MiB in huge pages";
const NEAR: &str = "floor: within 32 KiB";

fn tasks(_: Scale) -> Vec<Task> {
    vec![Task::new(CASE)]
}

/// Functions that take about this much together.
fn functions(bytes: usize) -> Vec<u16> {
    sizes(bytes / ((MIN_SIZE + MAX_SIZE) / 2), 4)
}

/// Functions in a random order, to be called again and again.
pub struct Called<S: Store> {
    store: S,
    blocks: Vec<S::Block>,
    order: Vec<unsafe extern "C" fn()>,
}

impl<S: Store> Called<S> {
    /// Fills a store with `bytes` of code, in large batches where it has batches.
    pub fn new(mut store: S, bytes: usize) -> Result<Self> {
        let sizes = functions(bytes);
        let blocks = store.fill(&sizes, &code::source())?;
        store.tidy()?;
        let entry = |block| {
            let address: *const u8 = store.address(block);
            // SAFETY: the address of a block that does nothing but return.
            unsafe { std::mem::transmute::<*const u8, unsafe extern "C" fn()>(address) }
        };
        let mut order: Vec<_> = blocks.iter().map(entry).collect();
        Rng::new(5).shuffle(&mut order);
        Ok(Self { store, blocks, order })
    }

    /// Nanoseconds for each call.
    pub fn call_all(&self) -> f64 {
        // SAFETY: `self` keeps the blocks alive.
        time(self.order.len(), |i| unsafe { self.order[i]() })
    }

    /// Bytes that lie in huge pages.
    pub fn huge(&self) -> Result<usize> {
        let addresses = || self.blocks.iter().map(|block| self.store.address(block).addr());
        let range = addresses().min().unwrap_or(0)..addresses().max().unwrap_or(0) + 1;
        Ok(proc::usage(|mapping, _| mapping.start < range.end && range.start < mapping.end)?.huge)
    }
}

fn calling<S: Store + 'static>(
    peer: &str,
    store: Result<S>,
    bytes: usize,
    samples: &mut Vec<Sample>,
) -> Result<Contender<'static>> {
    let called = Called::new(store?, bytes)?;
    let huge = (called.huge()? >> 20) as f64;
    samples.push(Sample::value(GROUP.name, CASE, peer, HUGE, huge));
    Ok(Contender::new(peer, move || {
        // What the neighbours left in the caches does not count.
        called.call_all();
        Ok(called.call_all())
    }))
}

fn run(_: &Task, scale: Scale) -> Result<Vec<Sample>> {
    let bytes = if scale.quick { 4 << 20 } else { 64 << 20 };
    let count = functions(bytes).len();
    let mut samples = Vec::new();
    let mut contenders = Vec::new();
    for mode in [WxMode::Flip, WxMode::DualMap] {
        for huge in [false, true] {
            let arena = gaia::Arena::new(mode, huge, count);
            contenders.push(calling(&gaia::name(mode, huge), arena, bytes, &mut samples)?);
        }
    }
    contenders.push(calling(asmkit::DUAL, Ok(asmkit::Pool::new(asmkit::DUAL)), bytes, &mut samples)?);
    let populated = floors::PopulatedCopy::new(&functions(bytes));
    contenders.push(calling(floors::HUGE_PAGES, populated, bytes, &mut samples)?);
    let near = Called::new(gaia::Arena::new(WxMode::Flip, false, 1000)?, 32 << 10)?;
    contenders.push(Contender::new(NEAR, move || Ok((0..50).map(|_| near.call_all()).fold(f64::INFINITY, f64::min))));
    samples.extend(race(GROUP.name, CASE, METRIC, scale.rounds(15), contenders));
    Ok(samples)
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let ns = |peer: &str| samples.best(CASE, peer, METRIC);
    let row = |mode| {
        let (off, on) = (gaia::name(mode, false), gaia::name(mode, true));
        let what = format!("random calls over 64 MiB, {mode:?}, huge pages");
        Row::new(what, Target::AtLeast(1.2), ns(&off) / ns(&on), "x faster")
            .ours(format!(
                "{} on ({:.0} MiB huge), {} off",
                ns_text(ns(&on)),
                samples.best(CASE, &on, HUGE),
                ns_text(ns(&off))
            ))
            .best_peer(Some((asmkit::DUAL, ns(asmkit::DUAL))))
            .floor(format!("{} all in huge pages", ns_text(ns(floors::HUGE_PAGES))))
    };
    vec![row(WxMode::Flip), row(WxMode::DualMap)]
}
