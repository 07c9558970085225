//! Misses of a `CodeCache` that is full: each compiles one function and evicts another.
//!
//! | contender | keeps blocks in | publishes | what is evicted |
//! |---|---|---|---|
//! | `get_or_compile` | the cache, with a budget of 1,000 functions | in its batch | what the cache chooses |
//! | batch, drop of the oldest | a queue | in a batch of one | the oldest |
//! | publish, drop of the oldest | a queue | alone | the oldest |
//! | `get_or_insert_with` | `quick_cache` | in a batch of one | what `quick_cache` chooses |
//!
//! The unit is nanoseconds for each miss. The row compares the cache with the queue and the batch,
//! and has no target.
//!
//! The comparison is fair because each contender has an arena of the same settings, and is filled
//! twice over before the first round. To compile is to copy the same 512 bytes, so no compiler is
//! measured. After each round the newest function is called and the live blocks are counted.

use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use gaia_jit::cache::CodeCache;
use gaia_jit::{Batch, CodeArena, CodeBlock, Error, Slot, WxMode};

use crate::code;
use crate::group::{Group, Row, Target, Task, ns_text};
use crate::measure::{Contender, race, try_time};
use crate::peers::gaia;
use crate::sample::{Sample, Samples};
use crate::scale::Scale;

pub const GROUP: Group =
    Group { name: "misses", about: "a cache by key that is full: compile one, evict one", tasks, run, judge };

const METRIC: &str = "ns/miss";
const CASE: &str = "1000 functions of 512 B";
const OURS: &str = "gaia-jit get_or_compile";
const BY_HAND: &str = "batch, drop of the oldest";
const NO_BATCH: &str = "publish, drop of the oldest";
const THEIRS: &str = "quick_cache get_or_insert_with";
const LIVE: usize = 1_000;
const LEN: usize = 512;

fn tasks(_: Scale) -> Vec<Task> {
    vec![Task::new(CASE)]
}

/// Keeps the code of the last [`LIVE`] keys, or so.
trait Keeper {
    /// Compiles the code of a key that was never there.
    fn miss(&mut self, key: u64, code: &[u8]) -> Result<()>;

    /// Whether it has done so for all keys up to this one.
    fn check(&self, newest: u64) -> Result<()>;
}

struct Cached {
    arena: CodeArena,
    cache: CodeCache<u64>,
}

impl Keeper for Cached {
    #[inline]
    fn miss(&mut self, key: u64, code: &[u8]) -> Result<()> {
        self.cache.get_or_compile(&key, |batch: &mut Batch| -> Result<Slot, Error> { batch.push(code) })?;
        Ok(())
    }

    fn check(&self, newest: u64) -> Result<()> {
        let (stats, live) = (self.cache.stats(), LIVE as u64);
        ensure!((stats.hits, stats.misses) == (0, newest + 1), "not all of them missed");
        ensure!(stats.evictions == newest + 1 - live, "other evictions than misses");
        ensure!((stats.entries, stats.held) == (LIVE, 0), "the cache is not full");
        let guard = self.arena.pin();
        let entry = self.cache.get_in(&guard, &newest).context("the newest is gone")?;
        check(&self.arena, entry.block(), LIVE..=LIVE)
    }
}

struct Queue {
    arena: CodeArena,
    live: VecDeque<CodeBlock>,
    is_batched: bool,
}

impl Keeper for Queue {
    #[inline]
    fn miss(&mut self, _: u64, code: &[u8]) -> Result<()> {
        if self.is_batched {
            let mut batch = self.arena.batch();
            batch.push(code)?;
            self.live.extend(batch.publish()?);
        } else {
            self.live.push_back(self.arena.publish(code)?);
        }
        if self.live.len() > LIVE {
            drop(self.live.pop_front());
        }
        Ok(())
    }

    fn check(&self, _: u64) -> Result<()> {
        check(&self.arena, self.live.back().context("the newest is gone")?, LIVE..=LIVE)
    }
}

struct Quick {
    arena: CodeArena,
    cache: quick_cache::sync::Cache<u64, Arc<CodeBlock>>,
}

impl Keeper for Quick {
    #[inline]
    fn miss(&mut self, key: u64, code: &[u8]) -> Result<()> {
        self.cache.get_or_insert_with(&key, || {
            let mut batch = self.arena.batch();
            batch.push(code)?;
            batch.publish()?.pop().map(Arc::new).context("nothing was published")
        })?;
        Ok(())
    }

    fn check(&self, newest: u64) -> Result<()> {
        // Each of its shards holds as much as it may, or less.
        check(&self.arena, &*self.cache.get(&newest).context("the newest is gone")?, LIVE / 2..=LIVE)
    }
}

fn check(arena: &CodeArena, newest: &CodeBlock, live: std::ops::RangeInclusive<usize>) -> Result<()> {
    ensure!(live.contains(&arena.stats().live_blocks), "{} blocks are live", arena.stats().live_blocks);
    ensure!(arena.lookup(newest.as_ptr()).is_some_and(|found| found.len == LEN), "the newest is not found");
    // SAFETY: any of the code is a function that does nothing but return.
    let function = unsafe { newest.as_fn::<extern "C" fn()>() };
    function();
    Ok(())
}

/// Nanoseconds for each of `count` misses, beginning when it is full.
fn missing<'a>(name: &str, count: usize, mut keeper: impl Keeper + 'a) -> Result<Contender<'a>> {
    let code = code::returns(LEN);
    let mut next = 0;
    for _ in 0..2 * LIVE {
        keeper.miss(next, &code)?;
        next += 1;
    }
    Ok(Contender::new(name, move || {
        let each = try_time(count, |_| {
            next += 1;
            keeper.miss(next - 1, &code)
        })?;
        keeper.check(next - 1)?;
        Ok(each)
    }))
}

fn run(_: &Task, scale: Scale) -> Result<Vec<Sample>> {
    let count = scale.count(10_000);
    let arena = || gaia::builder(WxMode::DualMap, false, LIVE).build();
    let cached = || -> Result<Cached> {
        let arena = arena()?;
        Ok(Cached { cache: CodeCache::builder(arena.clone()).budget(LIVE * LEN).build(), arena })
    };
    let queue = |is_batched| -> Result<Queue> { Ok(Queue { arena: arena()?, live: VecDeque::new(), is_batched }) };
    let contenders = vec![
        missing(OURS, count, cached()?)?,
        missing(BY_HAND, count, queue(true)?)?,
        missing(NO_BATCH, count, queue(false)?)?,
        missing(THEIRS, count, Quick { arena: arena()?, cache: quick_cache::sync::Cache::new(LIVE) })?,
    ];
    Ok(race(GROUP.name, CASE, METRIC, scale.rounds(21), contenders))
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let ns = |peer| samples.best(CASE, peer, METRIC);
    let what = "cache miss that evicts one, against batch, publish and drop by hand, DualMap";
    vec![
        Row::new(what, Target::None, ns(OURS) / ns(BY_HAND), "x by hand")
            .ours(ns_text(ns(OURS)))
            .best_peer(Some((THEIRS, ns(THEIRS))))
            .floor(format!("{} {BY_HAND}; {} {NO_BATCH}", ns_text(ns(BY_HAND)), ns_text(ns(NO_BATCH)))),
    ]
}
