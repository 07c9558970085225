//! What each page of an arena holds.
#![forbid(unsafe_code)]

use super::core::{Core, bytes_of};
use crate::space::Run;

/// The use of every page of an arena at one moment, for pictures and for tuning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Occupancy {
    /// Bytes in a page.
    pub page_size: usize,
    /// All pages of the capacity, in order.
    pub pages: Vec<PageUse>,
}

/// The use of one page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PageUse {
    /// Bytes that live blocks and open batches take.
    pub live: u32,
    /// Bytes of dropped blocks that wait for a guard.
    pub pending: u32,
    /// Whether the page holds memory.
    pub resident: bool,
}

impl Core {
    pub(crate) fn occupancy(&self) -> Occupancy {
        let page_size = self.region.page_size();
        let count = self.region.len() / page_size;
        let Some(books) = self.books_to_read() else { return Occupancy { page_size, pages: Vec::new() } };
        let mut pages: Vec<PageUse> =
            (0..count).map(|page| PageUse { live: 0, pending: 0, resident: books.pages.is_resident(page) }).collect();
        for run in books.space.taken_runs() {
            spread(&mut pages, page_size, run, |page, bytes| page.live += bytes);
        }
        for pending in &books.pending {
            spread(&mut pages, page_size, pending.run, |page, bytes| {
                page.live -= bytes;
                page.pending += bytes;
            });
        }
        Occupancy { page_size, pages }
    }
}

/// Adds the bytes of `run` to the pages that it lies in.
fn spread(pages: &mut [PageUse], page_size: usize, run: Run, add: impl Fn(&mut PageUse, u32)) {
    let bytes = bytes_of(run);
    for (index, page) in pages.iter_mut().enumerate().take(bytes.end.div_ceil(page_size)).skip(bytes.start / page_size)
    {
        let (from, to) = (bytes.start.max(index * page_size), bytes.end.min((index + 1) * page_size));
        add(page, (to - from) as u32);
    }
}
