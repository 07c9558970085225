//! The place of a region's code in the address space that is reserved for it.
//!
//! ```text
//! reservation  | gap | code (aligned to a huge page if it is large) | gap | data | gap |
//!              ^ start: anywhere                                                      ^ end
//! ```
//!
//! The reservation is a little larger than code and data together, so that the code can be aligned
//! wherever the system puts it. The gaps are never accessible. Near an address, the place must lie
//! in the range of a direct branch, from every byte of the code.
//!
//! It is plain arithmetic, without calls of the system.
#![forbid(unsafe_code)]
#![cfg_attr(not(any(unix, windows)), allow(dead_code, reason = "nothing is reserved there"))]

use std::ops::Range;

use crate::units::MAX_ALIGN;

/// The unit of addresses at which Windows reserves and maps.
const WINDOWS: usize = 64 << 10;

/// The size of a region's address space, and where it may lie.
///
/// ```text
///   a page or more    code    a page or more    data    a page or more
///   without access            without access            without access
/// ```
///
/// Code begins at a multiple of [`Place::align`]. Data begins at a multiple of its own size from
/// there, up to 64 KiB.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    code: usize,
    data: usize,
    page: usize,
    near: Option<Near>,
}

/// An address to which all of the code is to be close.
#[derive(Clone, Debug)]
pub(crate) struct Near {
    pub(crate) address: usize,
    /// The range in which all of the reservation lies.
    pub(crate) within: Range<usize>,
}

impl Place {
    /// Makes a place for `code` bytes and `data` bytes, whole pages. Returns `None` past the end of
    /// the address space.
    pub(crate) fn new(code: usize, data: usize, page: usize) -> Option<Self> {
        code.checked_add(2 * MAX_ALIGN + 2 * page)?.checked_add(2 * WINDOWS)?.checked_add(data)?;
        Some(Self { code, data, page, near: None })
    }

    /// Requires that no part of the code is farther than `reach` from an address.
    pub(crate) fn near(self, address: usize, reach: usize) -> Self {
        let behind = self.used() - self.code + self.page;
        let within = address.saturating_sub(reach)..address.saturating_add(reach).saturating_add(behind);
        Self { near: Some(Near { address, within }), ..self }
    }

    /// Returns the address to be close to.
    pub(crate) fn is_near(&self) -> Option<&Near> {
        self.near.as_ref()
    }

    /// Returns the alignment of the code, which is also the largest alignment of a block: its size
    /// as a power of two, up to [`MAX_ALIGN`].
    pub(crate) fn align(&self) -> usize {
        let least = if cfg!(windows) { WINDOWS } else { self.page };
        self.code.next_power_of_two().clamp(least, MAX_ALIGN)
    }

    /// Returns the bytes of address space of the region.
    pub(crate) fn total(&self) -> usize {
        let slack = if cfg!(windows) { self.align() } else { 0 };
        slack + 2 * self.page + self.used()
    }

    /// Returns a number of bytes in which there is such a range, wherever they begin. The rest is
    /// released.
    #[cfg(unix)]
    pub(crate) fn anywhere(&self) -> usize {
        self.total() + self.align()
    }

    /// Returns the bytes from the first byte of code to the last byte of data.
    fn used(&self) -> usize {
        if self.data == 0 { self.code } else { self.data_offset() + self.data }
    }

    /// Returns the offset of the data from the start of the code.
    pub(crate) fn data_offset(&self) -> usize {
        let unit = if cfg!(windows) { WINDOWS } else { self.data.next_power_of_two().clamp(self.page, WINDOWS) };
        // If mappings are made only at multiples of a unit, nothing is mapped between the end of
        // the code and the next multiple.
        let end = if cfg!(windows) { self.code.next_multiple_of(unit) } else { self.code };
        (end + self.page).next_multiple_of(unit)
    }

    /// Returns the bytes of data.
    pub(crate) fn data_len(&self) -> usize {
        self.data
    }

    /// Returns the bytes of code.
    pub(crate) fn len(&self) -> usize {
        self.code
    }

    /// Returns the offset of the code in a reservation at `address`: at least a page, and no more
    /// if the reservation begins as [`Place::start_after`] says.
    pub(crate) fn skip(&self, address: usize) -> usize {
        let first = address + self.page;
        self.page + (first.wrapping_neg() & (self.align() - 1))
    }

    /// Returns the possible starts of reservations: a unit, and the offset behind its multiples.
    fn starts(&self) -> (usize, usize) {
        if cfg!(windows) { (WINDOWS, 0) } else { (self.align(), self.align() - self.page) }
    }

    /// Returns the first start of a reservation that is not below `at`.
    pub(crate) fn start_after(&self, at: usize) -> Option<usize> {
        let (unit, offset) = self.starts();
        at.checked_add(unit - offset).and_then(|at| at.checked_next_multiple_of(unit)).map(|at| at - (unit - offset))
    }

    /// Returns the last start of a reservation that is not above `at`.
    pub(crate) fn start_before(&self, at: usize) -> Option<usize> {
        let (unit, offset) = self.starts();
        (at.checked_add(unit - offset)? & !(unit - 1)).checked_sub(unit - offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_aligned_and_inside_wherever_the_reservation_is() {
        for page in [4096, 16 << 10, 64 << 10] {
            for (code, data) in [(page, 0), (3 * page, 5 * page), (5 << 20, 64 << 10), (64 << 10, page)] {
                let place = Place::new(code, data, page).unwrap();
                assert!(place.align() >= page && (place.align() >= code || place.align() == MAX_ALIGN));
                for address in (0..2 * MAX_ALIGN).step_by(page).map(|offset| (64 << 20) + offset) {
                    let start = place.start_after(address).unwrap();
                    assert!(address <= start && start < address + place.align().max(WINDOWS));
                    assert_eq!(place.start_before(start), Some(start));
                    assert!(place.start_before(address).unwrap() <= address);
                    let skip = place.skip(start);
                    assert_eq!((start + skip) % place.align(), 0);
                    assert!(cfg!(windows) || skip == page, "no more than it needs");
                    let data = place.data_offset() + place.data_len();
                    assert!(
                        skip >= page
                            && skip + code.max(if place.data_len() > 0 { data } else { 0 }) + page <= place.total()
                    );
                    assert!(place.data_offset() >= place.len() + page && place.data_offset() % page == 0);
                    #[cfg(unix)]
                    assert!(start + place.total() <= address + place.anywhere());
                }
            }
        }
        assert!(Place::new(usize::MAX - 4095, 0, 4096).is_none());
        assert!(Place::new(4096, usize::MAX - 4095, 4096).is_none());
    }

    #[test]
    fn a_small_arena_takes_little_address_space() {
        let place = Place::new(64 << 10, 8 << 10, 4096).unwrap();
        assert!(cfg!(windows) || place.total() <= 96 << 10, "{}", place.total());
    }

    #[test]
    fn all_of_the_code_is_in_reach() {
        for (code, data) in [(64 << 10, 0), (64 << 10, 8 << 10), (16 << 20, 2 << 20)] {
            let place = Place::new(code, data, 4096).unwrap().near(1 << 30, 64 << 20);
            let near = place.is_near().unwrap();
            let last = near.within.end - place.total();
            let start = last + place.skip(last);
            assert!(start + code <= near.address + (64 << 20), "{code} {data}");
        }
    }
}
