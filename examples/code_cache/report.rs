//! The report at the end of a run: a table and a picture.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use comfy_table::{CellAlignment, Table, presets};
use gaia_jit::cache::{self, CodeCache};
use gaia_jit::{CodeArena, Map, Stats};

use crate::common::failure::Failure;
use crate::common::format::{grouped, size};
use crate::counters::{Counters, Timed};
use crate::options::Options;
use crate::workload::Unit;

/// The figures of the arena while the threads ran.
pub(crate) struct Snapshot {
    stats: Stats,
    cache: cache::Stats,
    map: Map,
    /// The number of mappings of the process in the arena, on systems that report them.
    mappings: Option<usize>,
}

impl Snapshot {
    pub(crate) fn take(cache: &CodeCache<usize>) -> Self {
        let arena = cache.arena();
        Self { stats: arena.stats(), cache: cache.stats(), map: arena.map(), mappings: mappings(arena) }
    }
}

/// Counts the lines of `/proc/self/maps` that begin inside the arena.
fn mappings(arena: &CodeArena) -> Option<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let begins = maps.lines().filter_map(|line| usize::from_str_radix(line.split_once('-')?.0, 16).ok());
    Some(begins.filter(|begin| arena.contains(std::ptr::without_provenance(*begin))).count())
}

/// Prints the table.
pub(crate) fn print(options: &Options, units: &[Unit], counters: &Counters, snapshot: &Snapshot, kernels: usize) {
    let functions: usize = units.iter().map(|unit| unit.object.pieces.len()).sum();
    let bytes: usize = units.iter().map(|unit| unit.object.bytes()).sum();
    let (stats, cache) = (&snapshot.stats, &snapshot.cache);
    let [interpreted, compiled] = &counters.tiers;
    let found = counters.found.get();
    let per_function = |time: u64, functions: u64| match functions {
        0 => "n/a".to_owned(),
        _ => format!("{} ns", time / functions),
    };
    let timed = |calls: &Timed| format!("{} calls, {} ns each", grouped(calls.calls()), grouped(calls.mean()));
    let percent = |part: u64, rest: u64| 100.0 * part as f64 / (part + rest).max(1) as f64;
    let seconds = options.run_time.as_secs().max(1);
    let published = counters.functions.get();
    let rows: Vec<(&str, String)> = vec![
        ("mode, capacity, threads", setting(options)),
        ("working set", format!("{functions} functions in {} programs, {}", units.len(), size(bytes))),
        ("calls", format!("{} ({} a second)", grouped(counters.calls.get()), grouped(counters.calls.get() / seconds))),
        ("mismatches", grouped(counters.mismatches.get())),
        ("tier-up", format!("{} of {kernels} kernels", counters.tiered_up.get())),
        ("interpreted before", timed(interpreted)),
        ("compiled after", timed(compiled)),
        ("found in the cache", format!("{} ({:.1} %)", grouped(found), percent(found, cache.misses))),
        ("missed", format!("{}, {} compiled anew", grouped(cache.misses), grouped(counters.recompiled.get()))),
        ("waited", format!("{} for a compilation, {} for space", grouped(cache.waited), grouped(counters.full.get()))),
        (
            "published",
            format!(
                "{} functions, {} programs, {}",
                grouped(published),
                grouped(counters.programs.get()),
                size(counters.bytes.get() as usize)
            ),
        ),
        (
            "evicted",
            format!("{} functions, {} programs", grouped(counters.evicted_functions.get()), grouped(cache.evictions)),
        ),
        ("push, per function", per_function(counters.push_time.get(), published)),
        ("linking calls, per function", per_function(counters.link_time.get(), published)),
        ("publish and evict, per function", per_function(counters.publish_time.get(), published)),
        (
            "cached",
            format!("{} programs, {}; {} held or under guards", cache.entries, size(cache.bytes), size(cache.held)),
        ),
        ("live", format!("{} in {} blocks", size(stats.live_bytes), stats.live_blocks)),
        ("free, largest hole", format!("{}, {}", size(stats.free_bytes), size(stats.largest_hole))),
        ("waiting for guards", size(stats.pending_bytes)),
        ("resident", size(stats.resident_bytes)),
        ("flips, kernel writes", format!("{}, {}", grouped(stats.flips), grouped(stats.kernel_writes))),
        ("flushed, barriers", format!("{}, {}", size(stats.flushed_bytes as usize), grouped(stats.barriers))),
        ("mappings in the arena", snapshot.mappings.map_or("n/a".to_owned(), |count| count.to_string())),
    ];
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    for (name, value) in rows {
        table.add_row(vec![name.to_owned(), value]);
    }
    if let Some(values) = table.column_mut(1) {
        values.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
}

/// The file for the picture. It is opened before the work begins, so that a wrong path is reported
/// at once.
pub(crate) fn open_picture(options: &Options) -> Result<(File, PathBuf), Failure> {
    let path = match &options.svg {
        Some(path) => path.clone(),
        None if Path::new("target").is_dir() => PathBuf::from("target/occupancy.svg"),
        None => PathBuf::from("occupancy.svg"),
    };
    match File::create(&path) {
        Ok(file) => Ok((file, path)),
        Err(error) => Err(Failure::Input(format!("{}: {error}", path.display()))),
    }
}

/// Draws the picture.
pub(crate) fn draw(options: &Options, snapshot: &Snapshot, mut file: File) -> io::Result<()> {
    let stats = &snapshot.stats;
    let figures = [
        format!("{} live in {} blocks", size(stats.live_bytes), stats.live_blocks),
        format!(
            "{} free, the largest hole {}; {} waiting for guards; {} resident",
            size(stats.free_bytes),
            size(stats.largest_hole),
            size(stats.pending_bytes),
            size(stats.resident_bytes)
        ),
    ];
    let title = format!("gaia-jit, a code cache under churn: {}", setting(options));
    file.write_all(snapshot.map.to_svg(&title, &figures).as_bytes())
}

fn setting(options: &Options) -> String {
    format!("{:?}, {}, {} threads", options.mode, size(options.capacity), options.threads)
}
