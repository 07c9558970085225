//! A small JIT, on a code cache that is too small for its programs.
//!
//! ```text
//! cargo run --release --example code_cache
//! cargo run --release --example code_cache -- --mode dual --capacity 2M --seconds 20 my_kernels.tiny
//! ```
//!
//! Cranelift ([`native`]) compiles a few dozen kernels and thousands of random programs, all in a
//! little [`language`]. Threads then call them at random, some much more often than others.
//!
//! - Kernels have a redirect, an address that stays. They begin in the interpreter, and become
//!   machine code behind it ([`tiers`]).
//! - Random programs are cached ([`cache`]). A program that is not in the arena is linked for its
//!   addresses and published. Programs that were not called lately are evicted to make room. All of
//!   this happens while other threads run code from the same pages.
//!
//! Every result is compared with the interpreter's. Every block is looked up by an address inside
//! it. At the end all memory has to be free.
//!
//! # What a miss costs
//!
//! A program is a few functions that call each other. It is published and evicted as a whole.
//! Cranelift's output is kept outside of the arena, without addresses. So a miss is work for the
//! arena: find room, copy, link calls, make executable, flush. Compiling again costs a hundred
//! times as much, and would measure Cranelift. A runtime that keeps nothing compiles on every miss.
//! `--recompile` sets the percentage of misses that do so. The new code has to be equal to the old
//! code, byte for byte.
//!
//! Exit codes: 0 if everything was right, 1 if something was wrong with the code or the arena, 2 if
//! the input cannot be used.

mod cache;
#[path = "../common/mod.rs"]
mod common;
mod counters;
mod language;
mod native;
mod observers;
mod options;
mod report;
mod tiers;
mod worker;
mod workload;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gaia_jit::CodeArena;

use cache::Cache;
use common::failure::{Failure, exit};
use common::format;
use common::progress::bar;
use common::threads::on_threads;
use counters::Counters;
use language::machine::STACK_BYTES;
use options::{HELP, Options};
use report::Snapshot;
use tiers::Tiers;
use worker::Worker;
use workload::Unit;

fn main() -> ExitCode {
    exit(run())
}

fn run() -> Result<(), Failure> {
    let Some(options) = Options::from_command_line()? else {
        print!("{HELP}");
        return Ok(());
    };
    let arena = observers::add(CodeArena::builder(), &options)?
        .capacity(options.capacity)
        .mode(options.mode)
        .build()
        .map_err(|error| Failure::Input(format!("no arena: {error}")))?;

    let (picture, picture_path) = report::open_picture(&options)?;

    let bar = bar("compiling [{bar:40}] {pos}/{len} programs");
    let units = workload::prepare(&options, &bar)?;
    bar.finish_and_clear();
    check_capacity(&options, &units)?;

    let counters = Arc::new(Counters::default());
    let tiers = Tiers::new(&arena, &units, &counters, options.tier_up_calls)?;
    let cache = Cache::new(&arena, &units, &counters);
    let snapshot = call_programs(&options, &cache, &tiers, &units, &counters)?;
    report::print(&options, &units, &counters, &snapshot, tiers.count());
    report::draw(&options, &snapshot, picture)
        .map_err(|error| Failure::Run(format!("{}: {error}", picture_path.display())))?;
    println!("picture of the arena: {}", picture_path.display());

    drop((cache, tiers));
    check_empty(&arena)?;
    match counters.first_mismatch.get() {
        Some(mismatch) => Err(Failure::Run(format!("mismatch: {mismatch}"))),
        None => Ok(()),
    }
}

/// Refuses an arena in which the threads could block each other.
fn check_capacity(options: &Options, units: &[Unit]) -> Result<(), Failure> {
    let largest = units.iter().map(|unit| unit.object.bytes()).max().unwrap_or(0);
    let kernels: usize = units.iter().filter(|unit| unit.is_from_file).map(|unit| unit.object.bytes()).sum();
    // Each thread may hold one program and publish another. Four times that leaves space for gaps.
    let needed = 2 * kernels + 4 * largest * options.threads;
    if options.capacity >= needed {
        return Ok(());
    }
    let (needed, largest) = (format::size(needed), format::size(largest));
    Err(Failure::Input(format!(
        "--capacity: {} threads, and programs of up to {largest}, need {needed} at least",
        options.threads
    )))
}

/// Runs the threads for the given time, and reads the arena's figures just before they stop.
fn call_programs(
    options: &Options,
    cache: &Cache<'_>,
    tiers: &Tiers<'_>,
    units: &[Unit],
    counters: &Counters,
) -> Result<Snapshot, Failure> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            watch(options.run_time, counters, &stop);
            let snapshot = Snapshot::take(cache.code());
            stop.store(true, Ordering::Relaxed);
            snapshot
        });
        let work = |number| {
            let worker = Worker::new(number, options, cache, tiers, units, counters);
            // A thread that fails stops the others.
            worker.and_then(|worker| worker.work(&stop)).inspect_err(|_| stop.store(true, Ordering::Relaxed))
        };
        on_threads(options.threads, STACK_BYTES, work)?;
        watch.join().map_err(|_| Failure::Run("the thread that watches panicked".to_owned()))
    })
}

/// Shows the progress until time is up or the threads have stopped.
fn watch(run_time: Duration, counters: &Counters, stop: &AtomicBool) {
    let bar = bar("running   [{bar:40}] {msg}");
    bar.set_length(run_time.as_millis() as u64);
    let start = Instant::now();
    while start.elapsed() < run_time && !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(50));
        bar.set_position(start.elapsed().as_millis() as u64);
        bar.set_message(format!("{} calls, {} functions published", counters.calls.get(), counters.functions.get()));
    }
    bar.finish_and_clear();
}

/// Checks that nothing is left after everything was dropped, neither live nor resident.
fn check_empty(arena: &CodeArena) -> Result<(), Failure> {
    let trimmed = arena.trim().map_err(|error| Failure::Run(format!("cannot trim: {error}")))?;
    let stats = arena.stats();
    if stats.live_blocks != 0 || stats.pending_bytes != 0 || stats.resident_bytes != 0 {
        return Err(Failure::Run(format!("not all memory came back: {stats}")));
    }
    println!("all dropped: {} given back to the system, nothing left", format::size(trimmed));
    Ok(())
}
