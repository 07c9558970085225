//! Hits of a `CodeCache`: finding the code of a key.
//!
//! | contender | found value | kept by |
//! |---|---|---|
//! | `get` | an entry of the cache | a reference count |
//! | `get_in` | an entry of the cache | one guard for each turn |
//! | `quick_cache` of the same entries | the same entries | a reference count |
//! | `quick_cache` of counted blocks | other blocks with the same code | a reference count |
//!
//! The unit is nanoseconds for each hit, over all threads. The cases are 100 and 10,000 keys, with
//! one and with two threads. The target compares `get` and `get_in` with `quick_cache` of the same
//! entries.
//!
//! The comparison is fair because all contenders get the same keys in the same order. Each adds up
//! the addresses that it finds, and the sum must be right. A turn counts only if every thread had a
//! processor for nine tenths of it, because threads that ran one after another did not disturb each
//! other.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use gaia_jit::cache::{CodeCache, Entry};
use gaia_jit::{CodeBlock, WxMode};

use crate::code::{self, Numbered};
use crate::group::{Group, Row, Target, Task, ns_text};
use crate::measure::{Contender, per, race};
use crate::peers::gaia;
use crate::sample::{Sample, Samples};
use crate::scale::Scale;
use crate::trace::Rng;

pub const GROUP: Group =
    Group { name: "cache", about: "hits of a cache by key, by one and two threads", tasks, run, judge };

const METRIC: &str = "ns/hit";
const GET: &str = "gaia-jit get";
const GET_IN: &str = "gaia-jit get_in under one guard";
/// Of the very entries that are in our cache.
const SAME: &str = "quick_cache of the same entries";
/// What somebody would put there who has no [`Entry`].
const BLOCKS: &str = "quick_cache of counted blocks";
/// Keys and threads.
const CASES: [(usize, usize); 4] = [(100, 1), (100, 2), (10_000, 1), (10_000, 2)];
/// Of each thread in a turn: few, so that some turns are undisturbed on a machine that does other
/// things too.
const HITS: usize = 5_000;
/// Turns in a round, each with keys of its own.
const TURNS: usize = 32;
/// How often a round is tried again.
const ATTEMPTS: usize = 60;

fn case((keys, threads): (usize, usize)) -> String {
    format!("{keys} keys, {threads} threads")
}

fn tasks(_: Scale) -> Vec<Task> {
    CASES.map(|sizes| Task::new(case(sizes))).to_vec()
}

/// The keys that one thread asks for in one turn, and the sum of the addresses that it is to find.
struct Asked {
    keys: Vec<u64>,
    sum: usize,
}

impl Asked {
    /// Asks for all, touching the address of each.
    #[inline]
    fn ask(&self, find: impl Fn(&u64) -> Option<*const u8>) -> Result<()> {
        let mut sum = 0_usize;
        for key in &self.keys {
            sum = sum.wrapping_add(black_box(find(key)).map_or(0, <*const u8>::addr));
        }
        ensure!(sum == self.sum, "what was found is not what was cached");
        Ok(())
    }
}

/// When a turn of a thread began and ended, and how much of that it had a processor for.
struct Run {
    start: Instant,
    end: Instant,
    on_processor: Duration,
}

/// A contender that asks on as many threads as there are lists: nanoseconds for each hit, over all
/// threads.
fn asking<'a>(name: &str, asked: Vec<[Asked; TURNS]>, ask: impl Fn(&Asked) -> Result<()> + Sync + 'a) -> Contender<'a> {
    Contender::new(name, move || {
        // What ran one after the other, because the machine does other things too, says nothing of
        // two threads.
        let best = (0..ATTEMPTS).find_map(|_| best_turn(&asked, &ask).transpose());
        best.unwrap_or_else(|| bail!("the threads never ran at the same time"))
    })
}

/// The best of the turns in which all threads were running for nine tenths of the time, if there
/// was one.
fn best_turn(asked: &[[Asked; TURNS]], ask: &(impl Fn(&Asked) -> Result<()> + Sync)) -> Result<Option<f64>> {
    let ready = &AtomicUsize::new(0);
    let runs: Vec<Vec<Run>> = thread::scope(|scope| {
        let start = |mine: &'_ [Asked; TURNS]| {
            let turn = |(turn, mine): (usize, &Asked)| {
                // Spinning, so that all have a processor when they begin.
                ready.fetch_add(1, Ordering::SeqCst);
                while ready.load(Ordering::SeqCst) < (turn + 1) * asked.len() {
                    std::hint::spin_loop();
                }
                let (start, before) = (Instant::now(), thread_time()?);
                let done = ask(mine);
                let (end, after) = (Instant::now(), thread_time()?);
                done.map(|()| Run { start, end, on_processor: after.saturating_sub(before) })
            };
            mine.iter().enumerate().map(turn).collect::<Vec<Result<Run>>>().into_iter().collect::<Result<Vec<Run>>>()
        };
        let spawn = |(thread, mine)| {
            scope.spawn(move || {
                // Where it is refused, fewer turns count.
                let _ = stay_on_processor(thread);
                // Who has slept is let run at once.
                thread::sleep(Duration::from_millis(1));
                start(mine)
            })
        };
        let running: Vec<_> = asked.iter().enumerate().map(spawn).collect();
        let join = |thread: ScopedJoinHandle<'_, _>| thread.join().map_err(|_| anyhow!("a thread panicked"))?;
        running.into_iter().map(join).collect::<Result<_>>()
    })?;
    let of_turn = |turn: usize| {
        let runs = || runs.iter().map(|runs| &runs[turn]);
        let whole = runs().map(|run| run.end).max()? - runs().map(|run| run.start).min()?;
        let is_enough = runs().all(|run| run.on_processor >= whole.mul_f64(0.9));
        is_enough.then(|| per(whole, asked.len() * HITS))
    };
    Ok((0..TURNS).filter_map(of_turn).reduce(f64::min))
}

/// Keeps this thread on one processor of those that it may use. (Two that spin may be left on one
/// for long.)
fn stay_on_processor(number: usize) -> Result<()> {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: a set of bits, all of which may be 0.
    let (mut allowed, mut mine) = unsafe { std::mem::zeroed::<(libc::cpu_set_t, libc::cpu_set_t)>() };
    // SAFETY: `allowed` is valid for so many bytes to be written.
    let got = unsafe { libc::sched_getaffinity(0, size, &raw mut allowed) };
    ensure!(got == 0, "sched_getaffinity: {}", std::io::Error::last_os_error());
    // SAFETY: below the size of the set.
    let is_allowed = |&cpu: &usize| unsafe { libc::CPU_ISSET(cpu, &allowed) };
    let cpu = (0..8 * size).filter(is_allowed).nth(number).context("fewer processors than threads")?;
    // SAFETY: below the size of the set.
    unsafe { libc::CPU_SET(cpu, &mut mine) };
    // SAFETY: `mine` is valid for so many bytes.
    let set = unsafe { libc::sched_setaffinity(0, size, &raw const mine) };
    ensure!(set == 0, "sched_setaffinity: {}", std::io::Error::last_os_error());
    Ok(())
}

/// How long this thread has had a processor.
fn thread_time() -> Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for the call to write to.
    let got = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    ensure!(got == 0, "clock_gettime: {}", std::io::Error::last_os_error());
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// What each thread asks for, all keys alike.
fn asked(threads: usize, addresses: &[usize]) -> Vec<[Asked; TURNS]> {
    let of_thread = |thread| {
        let mut rng = Rng::new(20 + thread as u64);
        std::array::from_fn(|_| {
            let keys: Vec<u64> = (0..HITS).map(|_| rng.below(addresses.len()) as u64).collect();
            let sum = keys.iter().fold(0_usize, |sum, &key| sum.wrapping_add(addresses[key as usize]));
            Asked { keys, sum }
        })
    };
    (0..threads).map(of_thread).collect()
}

fn run(task: &Task, scale: Scale) -> Result<Vec<Sample>> {
    let sizes = CASES.into_iter().find(|&sizes| case(sizes) == task.case).context("no such case")?;
    let (count, threads) = (scale.count(sizes.0), sizes.1);
    ensure!(thread::available_parallelism()?.get() >= threads, "fewer processors than threads");
    let arena = gaia::builder(WxMode::DualMap, false, 2 * count).build()?;
    let cache: CodeCache<u64> = CodeCache::builder(arena.clone()).build();
    // Twice the room, as it divides it among its shards.
    let same: quick_cache::sync::Cache<u64, Arc<Entry<u64>>> = quick_cache::sync::Cache::new(2 * count);
    let blocks: quick_cache::sync::Cache<u64, Arc<CodeBlock>> = quick_cache::sync::Cache::new(2 * count);
    let (mut entries_at, mut blocks_at) = (Vec::new(), Vec::new());
    for key in 0..count as u64 {
        let code = code::numbered(key as u16);
        let entry = cache.get_or_compile(&key, |batch| batch.push(&code))?;
        let block = Arc::new(arena.publish(&code)?);
        entries_at.push(entry.as_ptr().addr());
        blocks_at.push(block.as_ptr().addr());
        same.insert(key, entry);
        blocks.insert(key, block);
    }
    for key in 0..count as u64 {
        let (entry, other) = (cache.get(&key).context("a key is gone")?, same.get(&key).context("a key is gone")?);
        // SAFETY: made by `numbered`, and held.
        let function = unsafe { entry.as_fn::<Numbered>() };
        ensure!(function() == key as i32 && Arc::ptr_eq(&entry, &other), "the code of another key");
    }
    let entries = || asked(threads, &entries_at);
    let contenders = vec![
        asking(GET, entries(), |asked| asked.ask(|key| cache.get(key).map(|entry| entry.as_ptr()))),
        asking(GET_IN, entries(), |asked| {
            let guard = arena.pin();
            asked.ask(|key| cache.get_in(&guard, key).map(Entry::as_ptr))
        }),
        asking(SAME, entries(), |asked| asked.ask(|key| same.get(key).map(|entry| entry.as_ptr()))),
        asking(BLOCKS, asked(threads, &blocks_at), |asked| {
            asked.ask(|key| blocks.get(key).map(|block| block.as_ptr()))
        }),
    ];
    let samples = race(GROUP.name, &task.case, METRIC, scale.rounds(15), contenders);
    ensure!(cache.stats().misses == count as u64 && cache.stats().evictions == 0, "the cache missed");
    Ok(samples)
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let row = |sizes: (usize, usize), peer, how: &str| {
        let case = case(sizes);
        let ns = |peer| samples.best(&case, peer, METRIC);
        let keys = if sizes.0 == 100 { "100" } else { "10,000" };
        let threads = if sizes.1 == 1 { "one thread" } else { "two threads" };
        let what = format!("cache hit, {how}, {keys} keys, {threads}");
        Row::new(what, Target::AtMost(1.25), ns(peer) / ns(SAME), "x quick_cache")
            .ours(ns_text(ns(peer)))
            .best_peer(Some((SAME, ns(SAME))))
            .floor(format!("{} {BLOCKS}", ns_text(ns(BLOCKS))))
    };
    CASES.into_iter().flat_map(|sizes| [row(sizes, GET, "get"), row(sizes, GET_IN, "get_in")]).collect()
}
