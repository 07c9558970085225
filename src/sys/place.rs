//! Where a region's code lies in the address space that is reserved for it.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::units::{DATA_GAP, MAX_ALIGN};

/// Data begins at a multiple of this, so that it lies in pages of its own wherever Windows maps code.
const GAP: usize = DATA_GAP / 2;

/// How much address space a region needs, and where. Its code begins at a multiple of [`MAX_ALIGN`], with a page or more
/// on either side that nobody may touch; its data, if there is any, begins at a multiple of 64 KiB behind it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    code: usize,
    data: usize,
    page: usize,
    /// All of the reservation lies in here, as near to the middle as can be.
    #[cfg_attr(not(any(unix, windows)), allow(dead_code, reason = "nothing is reserved there"))]
    pub(crate) within: Option<Range<usize>>,
}

impl Place {
    /// For `code` bytes and `data` bytes, whole pages; `None` past the end of the address space.
    pub(crate) fn new(code: usize, data: usize, page: usize, within: Option<Range<usize>>) -> Option<Self> {
        let place = Self { code, data, page, within };
        code.checked_add(MAX_ALIGN + 2 * page)?.checked_add(2 * GAP)?.checked_add(data)?;
        Some(place)
    }

    /// Bytes of address space to reserve.
    pub(crate) fn total(&self) -> usize {
        MAX_ALIGN + 2 * self.page + self.used()
    }

    /// From the first byte of code to the last of data.
    fn used(&self) -> usize {
        if self.data == 0 { self.code } else { self.data_offset() + self.data }
    }

    /// How far behind the start of the code its data begins.
    pub(crate) fn data_offset(&self) -> usize {
        self.code.next_multiple_of(GAP) + GAP
    }

    /// Bytes of data.
    pub(crate) fn data_len(&self) -> usize {
        self.data
    }

    /// Bytes of code.
    pub(crate) fn len(&self) -> usize {
        self.code
    }

    /// How far behind the start of a reservation at `address` the code begins: at most a page and an alignment, by
    /// which (and another page) the reservation exceeds the code.
    pub(crate) fn skip(&self, address: usize) -> usize {
        let first = address + self.page;
        self.page + (first.wrapping_neg() & (MAX_ALIGN - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_aligned_and_inside_wherever_the_reservation_is() {
        for page in [4096, 16 << 10, 64 << 10] {
            let place = Place::new(3 * page, 5 * page, page, None).unwrap();
            for address in (0..2 * MAX_ALIGN).step_by(page).map(|offset| (64 << 20) + offset) {
                let skip = place.skip(address);
                assert_eq!((address + skip) % MAX_ALIGN, 0);
                assert!(skip >= page && skip + place.data_offset() + place.data_len() + page <= place.total());
                assert!(place.data_offset() >= place.len() + page && place.data_offset() % page == 0);
            }
        }
        assert!(Place::new(usize::MAX - 4095, 0, 4096, None).is_none());
        assert!(Place::new(4096, usize::MAX - 4095, 4096, None).is_none());
    }
}
