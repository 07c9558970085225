//! The system's list of this process's mappings.

use std::ops::Range;

/// Returns this process's mappings by address, each with its permissions.
fn all() -> Vec<(Range<usize>, String)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let parse = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (from, to) = range.split_once('-')?;
        let (from, to) = (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
        Some((from..to, rest[..4].to_string()))
    };
    maps.lines().filter_map(parse).collect()
}

/// Returns the permissions of this process's mappings in `[start, start + len)`.
pub fn mappings(start: usize, len: usize) -> Vec<String> {
    let within = |range: &Range<usize>| range.start < start + len && range.end > start;
    all().into_iter().filter(|(range, _)| within(range)).map(|(_, permissions)| permissions).collect()
}

/// Returns the ranges in `[start, start + len)` that this process may read and run, as addresses.
pub fn executable(start: usize, len: usize) -> Vec<(usize, usize)> {
    let cut = |(range, permissions): (Range<usize>, String)| {
        let (from, to) = (range.start.max(start), range.end.min(start + len));
        (from < to && permissions.starts_with('r') && permissions.contains('x')).then_some((from, to))
    };
    all().into_iter().filter_map(cut).collect()
}

/// Returns the largest number of bytes between two mappings in a range of addresses.
pub fn largest_gap(within: Range<usize>) -> usize {
    let (mut largest, mut free) = (0, within.start);
    for (range, _) in all() {
        largest = largest.max(range.start.min(within.end).saturating_sub(free));
        free = free.max(range.end);
    }
    largest.max(within.end.saturating_sub(free))
}

/// Returns how many of `len` bytes at `base` hold memory.
pub fn resident(base: usize, len: usize) -> usize {
    let page = region::page::size();
    let mut pages = vec![0u8; len / page];
    // SAFETY: the arena's address space is mapped, and there is a byte for each page.
    let got = unsafe { libc::mincore(std::ptr::without_provenance_mut(base), len, pages.as_mut_ptr()) };
    assert_eq!(got, 0);
    pages.iter().filter(|page| **page & 1 == 1).count() * page
}
