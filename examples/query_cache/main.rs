//! A small query engine: expressions over columns, compiled by Cranelift and kept in a
//! [`CodeCache`] by their text.
//!
//! ```text
//! cargo run --release --example query_cache
//! cargo run --release --example query_cache -- --mode dual --budget 64K --threads 4 my_queries
//! cargo run --release --example query_cache -- --query 'price * quantity * (1 - discount) where rating >= 4'
//! ```
//!
//! ```text
//! query    = expr [ "where" expr ]
//! expr     = operand { operator operand }
//! operator = "||"  |  "&&"  |  "=="  "!="  |  "<"  "<="  ">"  ">="  |  "+"  "-"  |  "*"  "/"      (loosest first)
//! operand  = { "-" | "!" } ( number | column | call | "(" expr ")" )
//! call     = ( "abs" | "sqrt" ) "(" expr ")"  |  ( "min" | "max" ) "(" expr "," expr ")"
//! ```
//!
//! A query gives one number: the sum of the first expression over all rows in which the second is
//! not 0. [`query`] defines the result of each operation, to the last bit.
//!
//! There are more queries than fit into the cache's budget, and some are asked for much more often
//! than others. Three [engines](engine) run the same sequence of queries, each for the same time:
//!
//! - an interpreter,
//! - an engine that compiles a query, runs it once and drops its code,
//! - an engine with the cache.
//!
//! All begin with the text. Every result is compared with the interpreter's, bit for bit.
//!
//! The example shows how the cache is used ([`engine::Caching`]). A hit runs under a guard, and
//! touches no reference count. A miss compiles into the batch that the cache provides. If the cache
//! has no room left, it evicts entries that were not used lately, while other threads may be
//! running them. Compiling a query takes as long as interpreting it over thousands of rows. So the
//! interpreter is faster with few rows (`--rows 100`), or with a cache that is much too small.
//!
//! Exit codes: 0 if everything was right, 1 if a result was wrong or something failed, 2 if the
//! input cannot be used.

// Targets that are slow to build for are built without the dependencies of this example.
#![cfg(not(reduced))]

#[path = "../common/mod.rs"]
mod common;
mod counts;
mod engine;
mod native;
mod options;
mod phase;
mod query;
mod report;
mod table;
#[cfg(test)]
mod tests;
mod workload;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;
use gaia_jit::CodeArena;
use gaia_jit::cache::CodeCache;

use common::failure::{Failure, exit};
use common::progress;
use engine::{Caching, CompilingEachTime, Interpreting, Native};
use options::{HELP, Options};
use phase::{Outcome, Run};
use table::Table;

/// The number of engines. They run one after another.
const ENGINES: u32 = 3;

fn main() -> ExitCode {
    exit(run())
}

fn run() -> Result<(), Failure> {
    let Some(options) = Options::from_command_line()? else {
        print!("{HELP}");
        return Ok(());
    };
    let arena = arena(&options)?;
    let table = Table::made_up(&mut Rng::with_seed(options.seed), options.rows);
    let bar = progress::bar("[{bar:40}] {msg}");
    bar.set_length(options.run_time.as_millis() as u64);
    bar.set_message("reading the queries");
    let items = workload::prepare(&options, &table)?;

    let evicted_bytes = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&evicted_bytes);
    let cache = CodeCache::builder(arena.clone())
        .budget(options.budget)
        .on_evict(move |entry, _| {
            counter.fetch_add(entry.len() as u64, Ordering::Relaxed);
        })
        .build();
    let run = Run { options: &options, items: &items, bar: &bar, phase_time: options.run_time / ENGINES };
    let native = || Native::new(&table);
    let outcomes = [
        run.phase("interpreting", || Ok(Interpreting { table: &table }))?,
        run.phase("compiling each time", || Ok(CompilingEachTime { arena: &arena, native: native()? }))?,
        run.phase("caching", || Ok(Caching { arena: &arena, cache: &cache, native: native()? }))?,
    ];
    bar.finish_and_clear();
    if options.has_queries() {
        report::print_results(&items);
    }
    report::print_engines(&options, &outcomes);
    let [.., caching] = &outcomes;
    report::print_cache(&options, items.len(), &cache, caching, evicted_bytes.load(Ordering::Relaxed));

    drop(cache);
    check_empty(&arena)?;
    check_results(&outcomes)
}

/// Returns an arena with room for more than the budget, for two reasons: evicted code stays until
/// nobody runs it any more; and if each publication takes pages of its own, small functions take
/// more space than they have bytes.
fn arena(options: &Options) -> Result<CodeArena, Failure> {
    let capacity = options.budget.saturating_mul(4).saturating_add(1 << 20);
    let arena = CodeArena::builder().capacity(capacity).mode(options.mode).build();
    arena.map_err(|error| Failure::Input(format!("no arena: {error}")))
}

/// Checks that no code is left after the cache was dropped.
fn check_empty(arena: &CodeArena) -> Result<(), Failure> {
    let stats = arena.stats();
    if stats.live_blocks != 0 || stats.pending_bytes != 0 {
        return Err(Failure::Run(format!("not all code was dropped: {stats}")));
    }
    Ok(())
}

fn check_results(outcomes: &[Outcome]) -> Result<(), Failure> {
    match outcomes.iter().find_map(|outcome| Some((outcome.name, outcome.counts.first_mismatch.as_ref()?))) {
        Some((name, mismatch)) => Err(Failure::Run(format!("mismatch when {name}: {mismatch}"))),
        None => Ok(()),
    }
}
