//! Which pages hold memory: a page becomes resident when code is placed in it, and stops being so when it is trimmed.
#![forbid(unsafe_code)]

use super::bitmap::Bitmap;
use super::{Run, Space};
use crate::Error;

pub(crate) struct Pages {
    resident: Bitmap,
    count: usize,
    /// Granules in a page of the system.
    granules: u32,
}

impl Pages {
    /// For `granules` in all, `page` of them to a page.
    pub(crate) fn new(granules: u32, page: u32) -> Result<Self, Error> {
        Ok(Self { resident: Bitmap::new(granules.div_ceil(page) as usize)?, count: 0, granules: page })
    }

    /// Pages that hold memory.
    pub(crate) fn resident(&self) -> usize {
        self.count
    }

    pub(crate) fn count_resident(&self, pages: std::ops::Range<usize>) -> usize {
        pages.filter(|page| self.resident.get(*page)).count()
    }

    pub(crate) fn all_resident(&self, mut pages: std::ops::Range<usize>) -> bool {
        pages.all(|page| self.resident.get(page))
    }

    pub(crate) fn is_resident(&self, page: usize) -> bool {
        self.resident.get(page)
    }

    /// Pages that `run` lies in, wholly or partly.
    pub(crate) fn of(&self, run: Run) -> std::ops::Range<usize> {
        (run.start / self.granules) as usize..run.end.div_ceil(self.granules) as usize
    }

    /// Code goes to `run`.
    pub(crate) fn touch(&mut self, run: Run) {
        let pages = self.of(run);
        self.count += pages.clone().filter(|&page| !self.resident.get(page)).count();
        self.resident.set(pages.start, pages.end);
    }

    /// The memory of these whole pages went back to the system; returns how many were resident.
    pub(crate) fn gone(&mut self, run: Run) -> usize {
        let pages = self.of(run);
        let count = pages.clone().filter(|&page| self.resident.get(page)).count();
        self.count -= count;
        self.resident.clear(pages.start, pages.end);
        count
    }

    /// Granules in a page.
    pub(crate) fn granules(&self) -> u32 {
        self.granules
    }

    /// The first run, at or behind page `from`, of resident pages that are wholly free in `space`; in granules.
    pub(crate) fn next_empty(&self, space: &Space, from: usize) -> Option<Run> {
        let mut page = self.resident.next_set(from)?;
        while !self.is_empty(space, page) {
            page = self.resident.next_set(page + 1)?;
        }
        let first = page;
        while self.resident.get(page) && self.is_empty(space, page) {
            page += 1;
        }
        Some(Run { start: first as u32 * self.granules, end: page as u32 * self.granules })
    }

    /// As [`Pages::next_empty`], and the empty pages around, as far as `huge` granules at a multiple of that reach: where
    /// only some pages of a huge page are known to hold memory, the others may hold some too.
    pub(crate) fn next_to_trim(&self, space: &Space, from: usize, huge: u32) -> Option<Run> {
        let run = self.next_empty(space, from)?;
        let (hole, page) = (space.hole_around(run.start), self.granules);
        let start = (run.start / huge * huge).max(hole.start.next_multiple_of(page));
        let end = run.end.next_multiple_of(huge).min(hole.end / page * page);
        Some(Run { start, end })
    }

    fn is_empty(&self, space: &Space, page: usize) -> bool {
        let start = page as u32 * self.granules;
        space.is_free(start, start + self.granules)
    }
}
