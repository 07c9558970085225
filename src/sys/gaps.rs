//! Gaps between mappings: the places where a reservation near an address is possible.
//!
//! ```text
//!            | mapping |      gap      | mapping |  gap  | heap -->    256 MiB left free    <-- stack |
//! candidates             ^    ^       ^            ^   ^
//!                                                near: the closest candidate is tried first
//! ```
//!
//! It is plain arithmetic on a list of mappings. `maps` reads that list on Linux; where there is
//! none, places all around are tried without knowledge ([`blind`]). The system may take a place
//! between the look and the reservation. Then the next candidate is tried.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::Place;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
use super::{Refused, Result};

/// The space that is left for the C library's heap and the first stack to grow, if there is so
/// much.
const ROOM: usize = if cfg!(target_pointer_width = "64") { 256 << 20 } else { 8 << 20 };

/// The lowest address: nothing can be mapped below it.
const LOWEST: usize = 1 << 16;

/// Address space that is in use.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    pub(super) start: usize,
    pub(super) end: usize,
    /// Whether it grows upwards.
    pub(super) grows_up: bool,
    /// Whether it grows downwards.
    pub(super) grows_down: bool,
}

/// Returns the used part of an address range, where the `region` crate can ask for it.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn query(within: &Range<usize>) -> Result<Vec<Taken>> {
    let refused = |e: region::Error| Refused::new("query of the memory map", e.into());
    let low = within.start.max(LOWEST);
    let mapped = region::query_range(std::ptr::without_provenance::<u8>(low), within.end.saturating_sub(low).max(1));
    let taken =
        |area: region::Region| Taken { start: area.as_range().start, end: area.as_range().end, ..Taken::default() };
    mapped.map_err(refused)?.map(|area| area.map(taken).map_err(refused)).collect()
}

/// Returns addresses where a reservation could start, the closest to `near` first. There are
/// several in each gap, because one may be refused although the list shows it as free.
pub(super) fn candidates(place: &Place, near: usize, within: &Range<usize>, taken: &[Taken]) -> Vec<usize> {
    let len = place.total();
    let (low, high) = (within.start.max(LOWEST), within.end.min(end_of_addresses(taken)));
    let mut found = Vec::new();
    let mut gap = |before: Taken, after: Taken| {
        let (start, end) = (before.end.max(low), after.start.min(high));
        let Some(spare) = end.checked_sub(start).and_then(|size| size.checked_sub(len)) else { return };
        let room = |grows: bool| if grows { (spare / 2).min(ROOM) } else { 0 };
        let (start, end) = (start + room(before.grows_up), end - room(after.grows_down));
        let closest = near.clamp(start, end - len);
        let others = [closest + (end - len - closest) / 2, start + (closest - start) / 2, start, end - len];
        for wanted in std::iter::once(closest).chain(others) {
            let at = place.start_after(wanted).filter(|at| *at <= end - len);
            let at = at.or_else(|| place.start_before(wanted).filter(|at| *at >= start));
            found.extend(at);
        }
    };
    let mut before = Taken::default();
    for area in taken.iter().filter(|area| area.start < high) {
        gap(before, *area);
        before = if area.end >= before.end { *area } else { before };
    }
    gap(before, Taken { start: usize::MAX, end: usize::MAX, ..Taken::default() });
    let distance = |start: usize| if start > near { start - near } else { near.saturating_sub(start + len) };
    found.sort_by_key(|&start| distance(start));
    found.dedup();
    found
}

/// Returns addresses in both directions, the closest first, for systems that do not list mappings.
#[cfg(any(unix, all(test, target_pointer_width = "64")))]
pub(super) fn blind(place: &Place, near: usize, within: &Range<usize>) -> Vec<usize> {
    let fits = |start: &usize| {
        let end = start.checked_add(place.total());
        *start >= within.start.max(LOWEST) && end.is_some_and(|end| end <= within.end)
    };
    let mut found = Vec::new();
    let mut distance: usize = 0;
    while distance < within.len() && found.len() < 4096 {
        let above = near.checked_add(distance).and_then(|at| place.start_after(at));
        let below = near.checked_sub(distance).and_then(|at| at.checked_sub(place.total()));
        found.extend(above.filter(fits));
        found.extend(below.and_then(|at| place.start_before(at)).filter(fits));
        // The steps become longer, so that places close to the address are tried closely.
        distance += (distance / 64).max(1 << 20);
    }
    found
}

/// Returns the end of addresses that can be mapped: the power of two above the stack, because
/// systems put the stack below it.
fn end_of_addresses(taken: &[Taken]) -> usize {
    // The upper half of the address space contains what the system shows of itself.
    let highest = taken.iter().map(|area| area.end).filter(|end| *end <= usize::MAX / 2).max();
    let end = highest.and_then(usize::checked_next_power_of_two);
    match usize::BITS {
        32 => usize::MAX,
        _ => end.map_or(usize::MAX, |end| end - LOWEST),
    }
}

#[cfg(test)]
#[cfg(target_pointer_width = "64")]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    fn place(code: usize) -> Place {
        Place::new(code, 0, PAGE).unwrap()
    }

    fn taken(areas: &[(usize, usize)]) -> Vec<Taken> {
        areas.iter().map(|&(start, end)| Taken { start, end, ..Taken::default() }).collect()
    }

    /// A stack near the end of 47 bits.
    const STACK: (usize, usize) = (0x7ffd_0000_0000, 0x7ffd_0010_0000);

    #[test]
    fn the_closest_gap_comes_first_and_the_closest_place_in_it() {
        let program = 0x5555_0000_0000;
        let near = program + 0x3000;
        let within = near - (2 << 30)..near + (2 << 30);
        let list = taken(&[(program, program + 0x10_0000), (program + 0x20_0000, program + 0x90_0000), STACK]);
        let place = place(64 << 10);
        let found = candidates(&place, near, &within, &list);
        // Right below the program, and then between the two.
        assert!(found[0] + place.total() <= program && program - found[0] < 256 << 10, "{found:x?}");
        assert!(found.iter().any(|at| (program + 0x10_0000..program + 0x20_0000).contains(at)));
        let free = |at: usize| !list.iter().any(|area| at < area.end && area.start < at + place.total());
        assert!(found.iter().all(|&at| free(at) && within.start <= at && at + place.total() <= within.end));
        // Several in the gap below, as far as it reaches.
        assert!(found.iter().filter(|at| **at < program).count() >= 3);
    }

    #[test]
    fn of_two_gaps_the_closer_comes_first_wherever_it_lies() {
        let (program, len) = (0x5555_0000_0000, 10 << 20);
        let place = place(64 << 10);
        for (near, above) in [(program + len - 4096, true), (program + 4096, false)] {
            let within = near - (2 << 30)..near + (2 << 30);
            let found = candidates(&place, near, &within, &taken(&[(program, program + len), STACK]));
            assert_eq!(found[0] > near, above, "{found:x?}");
            let distance = |start: &usize| if *start > near { start - near } else { near - (start + place.total()) };
            assert!(found.is_sorted_by_key(distance) && distance(&found[0]) < 128 << 10, "{found:x?}");
        }
    }

    #[test]
    fn the_last_gap_ends_where_addresses_do() {
        let near = 0x7fff_ffff_e000;
        let within = near - (2 << 30)..near + (2 << 30);
        let place = place(1 << 20);
        let found = candidates(&place, near, &within, &taken(&[STACK]));
        assert!(!found.is_empty() && found.iter().all(|at| at + place.total() < 1 << 47), "{found:x?}");
    }

    #[test]
    fn what_grows_is_left_room() {
        let heap = Taken { start: 1 << 40, end: (1 << 40) + (1 << 20), grows_up: true, grows_down: false };
        let stack =
            Taken { start: heap.end + (1 << 30), end: heap.end + (1 << 30) + 4096, grows_up: false, grows_down: true };
        let (place, near) = (place(1 << 20), heap.end);
        let within = heap.end..near + (2 << 30);
        let found = candidates(&place, near, &within, &[heap, stack]);
        assert_eq!(found.iter().min().map(|at| *at >= heap.end + ROOM), Some(true));
        assert!(found.iter().filter(|at| **at < stack.start).all(|at| at + place.total() <= stack.start - ROOM));
    }

    #[test]
    fn no_gap_no_place() {
        let near = 1 << 40;
        let list = taken(&[(LOWEST, 1 << 44), STACK]);
        assert!(candidates(&place(4096), near, &(near - (2 << 30)..near + (2 << 30)), &list).is_empty());
    }

    #[test]
    fn without_a_list_all_around_is_tried() {
        let (place, near) = (place(1 << 20), 1 << 40);
        let within = near - (2 << 30)..near + (2 << 30);
        let found = blind(&place, near, &within);
        assert!(found.len() > 300 && found[0].abs_diff(near) < 4 << 20);
        assert!(found.iter().all(|&at| within.start <= at && at + place.total() <= within.end));
        assert!(found.iter().any(|at| *at < near - (1 << 30)) && found.iter().any(|at| *at > near + (1 << 30)));
        // At the ends of the address space.
        for near in [0, 4096, usize::MAX] {
            let within = near.saturating_sub(2 << 30)..near.saturating_add(2 << 30);
            assert!(blind(&place, near, &within).iter().all(|at| *at >= LOWEST));
        }
    }
}
