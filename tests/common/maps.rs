//! The system's list of this process's mappings.

/// Returns the permissions of this process's mappings in `[start, start + len)`.
pub fn mappings(start: usize, len: usize) -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let parse = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (from, to) = range.split_once('-')?;
        let (from, to) = (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
        (from < start + len && to > start).then(|| rest[..4].to_string())
    };
    maps.lines().filter_map(parse).collect()
}

/// Returns the ranges in `[start, start + len)` that this process may read and run, as addresses.
pub fn executable(start: usize, len: usize) -> Vec<(usize, usize)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let parse = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (from, to) = range.split_once('-')?;
        let (from, to) = (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
        let (from, to) = (from.max(start), to.min(start + len));
        (from < to && rest.starts_with('r') && rest[..4].contains('x')).then_some((from, to))
    };
    maps.lines().filter_map(parse).collect()
}

/// Returns the largest number of bytes between two mappings in a range of addresses.
pub fn largest_gap(within: std::ops::Range<usize>) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let parse = |line: &str| {
        let (from, to) = line.split_once(' ')?.0.split_once('-')?;
        Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
    };
    let (mut largest, mut free) = (0, within.start);
    for (from, to) in maps.lines().filter_map(parse).chain([(within.end, within.end)]) {
        largest = largest.max(from.min(within.end).saturating_sub(free));
        free = free.max(to);
    }
    largest
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
