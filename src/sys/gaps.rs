//! Gaps between mappings: where a reservation near an address can go.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::{Refused, Result};

/// How far from other mappings a reservation stays where it can choose.
const MARGIN: usize = if cfg!(target_pointer_width = "64") { 256 << 20 } else { 8 << 20 };

/// Where in the gaps between mappings `len` bytes could go, those nearest to the middle of `within` first; at multiples
/// of `align`, a power of two that is no less than a page.
pub(super) fn candidates(len: usize, within: &Range<usize>, align: usize) -> Result<Vec<usize>> {
    let refused = |e: region::Error| Refused::new("query of the memory map", e.into());
    // The lowest pages are never free to map.
    let (low, high) = (within.start.max(1 << 16), within.end & !(align - 1));
    let low = low.next_multiple_of(align);
    if low >= high {
        return Ok(Vec::new());
    }
    let middle = low + (high - low) / 2;
    let mut found = Vec::new();
    let mut gap = |start: usize, end: usize| {
        let Some(start) = start.checked_next_multiple_of(align) else { return };
        let Some(spare) = end.checked_sub(start).and_then(|size| size.checked_sub(len)) else { return };
        // Away from what is mapped, if there is room: it may be a heap or a stack, and want to grow.
        let margin = (spare / 2).min(MARGIN);
        let start_at = middle.saturating_sub(len / 2).clamp(start + margin, end - len - margin);
        found.push(start_at & !(align - 1));
    };
    let mut at = low;
    let mapped = region::query_range(std::ptr::without_provenance::<u8>(low), high - low).map_err(refused)?;
    for area in mapped {
        let area = area.map_err(refused)?.as_range();
        gap(at, area.start.min(high));
        at = at.max(area.end);
    }
    gap(at, high);
    found.sort_by_key(|&start| start.abs_diff(middle));
    Ok(found)
}
