//! The report at the end of a run.

use comfy_table::{CellAlignment, Table, presets};
use gaia_jit::cache::{CodeCache, Stats};

use crate::common::format::{grouped, size};
use crate::options::Options;
use crate::phase::Outcome;
use crate::workload::Item;

/// Prints the result of each query.
pub(crate) fn print_results(items: &[Item]) {
    for Item { text, expected } in items {
        println!("{text}: {}", f64::from_bits(*expected));
    }
}

/// Prints the results of the engines, compared with the first.
pub(crate) fn print_engines(options: &Options, outcomes: &[Outcome]) {
    let mut table = table();
    table.set_header(["engine", "queries/s", "rows/s", "× interpreting", "compiled", "µs each", "mismatches"]);
    let per_second = |outcome: &Outcome| outcome.counts.queries as f64 / outcome.time.as_secs_f64();
    let first = outcomes.first().map_or(0.0, per_second);
    for outcome in outcomes {
        let (counts, queries) = (&outcome.counts, per_second(outcome));
        let each = match counts.compilations {
            0 => String::new(),
            compilations => format!("{:.0}", counts.compile_time.as_secs_f64() * 1e6 / compilations as f64),
        };
        table.add_row([
            outcome.name.to_owned(),
            grouped(queries as u64),
            grouped((queries * options.rows as f64) as u64),
            format!("{:.2}", queries / first),
            grouped(counts.compilations),
            each,
            grouped(counts.mismatches),
        ]);
    }
    align(&mut table, 7);
    println!("{table}");
}

/// Prints the cache's figures for its engine, `outcome`.
pub(crate) fn print_cache(
    options: &Options,
    queries: usize,
    cache: &CodeCache<String>,
    outcome: &Outcome,
    evicted_bytes: u64,
) {
    let counts = &outcome.counts;
    let Stats { hits, misses, evictions, entries, bytes, held, waited, .. } = cache.stats();
    // The cache counted entries that another thread added between the two looks.
    let hits = hits + counts.hits;
    let ratio = percent(hits, hits + misses);
    let average = counts.code_bytes.checked_div(counts.compilations).unwrap_or(0) as usize;
    let rows = [
        ("mode, threads", format!("{:?}, {}", cache.arena().mode(), options.threads)),
        ("different queries", grouped(queries as u64)),
        ("code of a query, on average", size(average)),
        ("hits, misses", format!("{}, {}", grouped(hits), grouped(misses))),
        ("hit ratio", ratio),
        ("waited for another thread", grouped(waited)),
        ("evictions", format!("{}, {}", grouped(evictions), size(evicted_bytes as usize))),
        ("entries", format!("{}, {} of {}", grouped(entries as u64), size(bytes), size(cache.budget()))),
        ("kept by guards and holders", size(held)),
        ("interpreted for want of room", grouped(counts.interpreted)),
    ];
    let mut table = table();
    for (name, value) in rows {
        table.add_row([name.to_owned(), value]);
    }
    align(&mut table, 2);
    println!("{table}");
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table
}

/// Aligns all columns except the first to the right.
fn align(table: &mut Table, columns: usize) {
    for index in 1..columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "n/a".to_owned(),
        _ => format!("{:.2} %", 100.0 * part as f64 / whole as f64),
    }
}
