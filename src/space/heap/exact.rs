//! Searches that miss no hole. They are slow, and are made before the arena reports that it is
//! full.
#![forbid(unsafe_code)]

use super::{Heap, Tables};
use crate::space::Run;
use crate::space::granules::SPAN;
use crate::space::large::{SMALL, bin_of, class_of};

impl Heap {
    /// Takes granules as [`Heap::alloc`] does, but misses no hole of this heap.
    pub(crate) fn alloc_exactly(&mut self, tables: &Tables, len: u32, align: u32) -> Option<Run> {
        self.give_cursor_up(tables);
        if let Some(run) = self.alloc(tables, len, align) {
            return Some(run);
        }
        let least = class_of(len.max(SMALL));
        if let Some((run, hole)) = self.find_large(tables, least, None, len, align) {
            self.large.file(&tables.links, bin_of(hole.start), 0);
            self.take(tables, run, hole);
            return Some(run);
        }
        if len >= SMALL {
            return None;
        }
        self.relist_all(tables, len);
        if align == 1 {
            if let Some(run) = self.take_hinted(tables, len) {
                return Some(run);
            }
        }
        let run = self.find_small(tables, len, align).or_else(|| self.find_across(tables, len, align))?;
        self.take_at(tables, run);
        Some(run)
    }

    /// Returns the holes that lie across the ends of spans.
    fn holes_across<'a>(&'a self, tables: &'a Tables) -> impl Iterator<Item = Run> + 'a {
        let granules = &tables.granules;
        let own = move |granule: u32| granules.owner_at(granule) == Some(self.owner) && !granules.is_taken(granule);
        let edges = (1..granules.spans()).map(|span| span * SPAN).filter(move |&edge| own(edge - 1) && own(edge));
        edges.map(|edge| Run { start: granules.hole_start(edge, self.owner), end: granules.hole_end(edge, self.owner) })
    }

    /// Finds a place for a small block across the end of a span.
    fn find_across(&self, tables: &Tables, len: u32, align: u32) -> Option<Run> {
        self.holes_across(tables).find_map(|hole| hole.fit(len, align))
    }

    /// Finds an aligned place in a small hole: by all hints, then in all spans with lost holes.
    fn find_small(&self, tables: &Tables, len: u32, align: u32) -> Option<Run> {
        let hinted = (len..SMALL).find_map(|size| {
            let holes = self.hints[size as usize].iter().map(|&start| Run::new(start, size));
            holes.filter(|hole| self.is_hole(tables, hole.start, size)).find_map(|hole| hole.fit(len, align))
        });
        let granules = &tables.granules;
        let in_span = |span: u32| granules.holes(granules.span(span)).find_map(|hole| hole.fit(len, align));
        hinted.or_else(|| {
            let spans = self.lost_spans(tables).filter(|(_, lost)| *lost >= len).map(|(span, _)| span);
            spans.chain(self.all_spans(tables)).find_map(in_span)
        })
    }

    /// Returns all spans of this heap, if it does not know in which of them holes are lost.
    fn all_spans<'a>(&'a self, tables: &'a Tables) -> impl Iterator<Item = u32> + 'a {
        let count = if self.lost.is_partial { tables.granules.spans() } else { 0 };
        let own = |span: &u32| tables.granules.owner_at(tables.granules.span(*span).start) == Some(self.owner);
        (0..count).filter(own)
    }

    /// Returns the length of the largest hole.
    pub(crate) fn largest(&mut self, tables: &Tables) -> u32 {
        let mut most = self.cursor.len();
        if let Some(class) = self.large.last() {
            let holes = self.large.of_class(&tables.links, class).map(|bin| self.large_hole(tables, bin).len());
            most = holes.fold(most, u32::max);
        }
        for size in (most + 1..SMALL).rev() {
            while let Some(&start) = self.hints[size as usize].last() {
                if self.is_hole(tables, start, size) {
                    most = size;
                    break;
                }
                self.hints[size as usize].pop();
            }
            if most == size {
                break;
            }
        }
        let granules = &tables.granules;
        let lost = self.lost_spans(tables).filter(|(_, lost)| *lost > most).map(|(span, _)| span);
        let in_span = |span: u32| granules.holes(granules.span(span)).map(|hole| hole.len()).max().unwrap_or(0);
        let most = lost.chain(self.all_spans(tables)).map(in_span).fold(most, u32::max);
        if most >= SMALL { most } else { self.holes_across(tables).map(|hole| hole.len()).fold(most, u32::max) }
    }
}
