//! What the kernel says of this process.

use std::fs;
use std::ops::Range;

use anyhow::{Context, Result};
use gaia_jit::{CodeArena, WxMode};

/// Resident bytes of the process.
pub fn rss() -> Result<usize> {
    let statm = fs::read_to_string("/proc/self/statm").context("reading /proc/self/statm")?;
    let pages: usize = statm.split_whitespace().nth(1).context("statm has no second field")?.parse()?;
    Ok(pages * crate::peers::floors::page_size())
}

/// How many mappings the process has.
pub fn mappings() -> Result<usize> {
    Ok(fs::read_to_string("/proc/self/maps").context("reading /proc/self/maps")?.lines().count())
}

/// Memory of some mappings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub resident: usize,
    /// Of it, in huge pages.
    pub huge: usize,
    pub mappings: usize,
}

/// The memory of the mappings that `select` picks by address range and line, by `/proc/self/smaps`.
pub fn usage(select: impl Fn(Range<usize>, &str) -> bool) -> Result<Usage> {
    let smaps = fs::read_to_string("/proc/self/smaps").context("reading /proc/self/smaps")?;
    let mut usage = Usage::default();
    let mut inside = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-') {
            let (start, end) = (usize::from_str_radix(start, 16)?, usize::from_str_radix(end, 16)?);
            inside = select(start..end, line);
            usage.mappings += usize::from(inside);
        } else if inside {
            let mut kib = || words.next().and_then(|kib| kib.parse::<usize>().ok()).unwrap_or(0) << 10;
            match first {
                "Rss:" => usage.resident += kib(),
                "AnonHugePages:" | "ShmemPmdMapped:" | "FilePmdMapped:" => usage.huge += kib(),
                _ => {}
            }
        }
    }
    Ok(usage)
}

/// The memory that an arena holds: where its code is, or (of shared memory, which only the writable
/// view has touched) in that view.
pub fn arena_usage(arena: &CodeArena) -> Result<Usage> {
    let inside = |at: usize| arena.contains(std::ptr::without_provenance(at));
    let shared = arena.mode() == WxMode::DualMap;
    usage(|range, line| match shared {
        true => line.contains(" rw-s ") && line.contains("memfd:gaia-jit"),
        false => inside(range.start) || inside(range.end - 1),
    })
}
