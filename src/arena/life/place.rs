//! Placing: the granules of the next block.
//!
//! A heap takes space in this order:
//!
//! 1. its own holes;
//! 2. free spans that hold memory;
//! 3. for small blocks, sparse spans of other heaps, which change owner with their blocks; for
//!    larger blocks, holes of other heaps;
//! 4. memory that was never used.
//!
//! While little of a heap's memory is free (a sixteenth), it places functions one after another,
//! because of locality. Otherwise it uses the tightest hole, so that holes are filled again and
//! little memory is needed.
//!
//! Before the arena reports that it is full, all heaps are locked, and every run of free granules
//! counts. If it lies across spans of different owners, these change owner too.

use super::retire::RECLAIMED;
use crate::Error;
use crate::arena::core::{Core, bytes_of};
use crate::arena::heaps::{All, Counts, Locked, State, last};
use crate::space::granules::{FREE, SPAN, span_of};
use crate::space::{Run, two_mut};
use crate::sync::Ordering;
use crate::units::GRANULE;

/// The largest block (in granules, 2 KiB) for which spans change owner before new memory is used.
const ADOPTED_FOR: u32 = 127;
/// The largest number of heaps that one search tries, and of spans that it takes from one heap.
const ASKED: usize = 4;
const ADOPTED: usize = 4;
/// After a search that found spans of no use, searches are left out until the heap has placed this
/// many granules elsewhere (4 KiB).
const FIRST_LEFT_OUT: u32 = 256;
/// Each further such search doubles that, up to this fraction of the heap's memory.
const LEFT_OUT: u32 = 32;
/// The number of waiting blocks above which no blocks are added to them.
const WAITING: usize = 1024;
/// The number of times that a search waits for space that others have in flight.
const WAITS: usize = 64;

impl Core {
    /// Takes `len` granules at a multiple of `align`. `note` does the caller's part under the
    /// heap's lock. If it fails, the space is free again.
    #[inline]
    pub(crate) fn place<T>(
        &self,
        len: u32,
        align: u32,
        note: impl FnOnce(&mut State, Run) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.place_pages(len, align, |heap, run| {
            self.unbar(heap, run)?;
            note(heap, run)
        })
    }

    /// Takes whole pages that are to be opened, as [`Core::place`] takes granules. Barred pages
    /// stay barred until they are sealed.
    #[inline]
    pub(crate) fn place_pages<T>(
        &self,
        len: u32,
        align: u32,
        note: impl FnOnce(&mut State, Run) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.guards.catch_up();
        let mut heap = self.heaps.any();
        if !heap.pending.is_empty() {
            heap = self.reclaim(heap, RECLAIMED)?;
        }
        let (mut heap, run) = match self.find(&mut heap, len, align) {
            Some(run) => (heap, run),
            None => self.find_elsewhere(heap, len, align)?,
        };
        note(&mut heap, run).inspect_err(|_| self.free(&mut heap, run))
    }

    /// Takes granules from the holes of a heap.
    #[inline]
    fn find(&self, heap: &mut State, len: u32, align: u32) -> Option<Run> {
        let tables = &self.heaps.tables;
        if align == 1 && heap.space.is_sparse(tables) {
            if let Some(run) = heap.space.take_hinted(tables, len) {
                return Some(run);
            }
            if heap.space.has_only_cursor(len) {
                if let Some(run) = heap.space.bump_resident(tables, len, 1) {
                    return Some(run);
                }
            }
        }
        self.find_in(heap, len, align)
    }

    fn find_in(&self, heap: &mut State, len: u32, align: u32) -> Option<Run> {
        let (tables, space) = (&self.heaps.tables, &mut heap.space);
        if align == 1 && !space.is_sparse(tables) {
            let next = match self.heaps.free_resident() {
                0 => space.bump(tables, len, 1),
                _ => space.bump_resident(tables, len, 1),
            };
            if next.is_some() {
                return next;
            }
        }
        space.alloc(tables, len, align).or_else(|| space.bump_resident(tables, len, align))
    }

    #[cold]
    fn find_elsewhere<'a>(&'a self, mut heap: Locked<'a>, len: u32, align: u32) -> Result<(Locked<'a>, Run), Error> {
        let resident = self.take_spans(&mut heap, len, align, true).or_else(|| self.take_joined(&mut heap, len, align));
        if let Some(run) = resident {
            return Ok((heap, run));
        }
        if let Some(run) = self.adopt(&mut heap, len, align) {
            return Ok((heap, run));
        }
        let own = heap.index;
        drop(heap);
        for mut other in self.heaps.others(own) {
            if !other.pending.is_empty() {
                other = self.reclaim(other, RECLAIMED)?;
            }
            if !other.space.is_sparse(&self.heaps.tables) {
                continue;
            }
            if let Some(run) = self.find(&mut other, len, align) {
                // The other heap has more of the space that this thread needs.
                last::set(other.index);
                return Ok((other, run));
            }
        }
        let mut heap = self.heaps.lock(own);
        // More functions follow in the same page.
        heap.left_out = heap.left_out.saturating_sub(self.page());
        let fresh = heap.space.bump(&self.heaps.tables, len, align);
        match fresh.or_else(|| self.take_spans(&mut heap, len, align, false)) {
            Some(run) => Ok((heap, run)),
            None => {
                drop(heap);
                self.find_exactly(len, align)
            }
        }
    }

    /// Takes granules for a small block from sparse spans of other heaps. These spans become this
    /// heap's, with their blocks.
    fn adopt(&self, heap: &mut State, len: u32, align: u32) -> Option<Run> {
        if align > 1 || len > ADOPTED_FOR {
            return None;
        }
        if heap.left_out > 0 {
            heap.left_out = heap.left_out.saturating_sub(len);
            return None;
        }
        let tables = &self.heaps.tables;
        let mut took = 0;
        for mut other in self.heaps.others_spinning(heap.index).take(ASKED) {
            for _ in 0..ADOPTED {
                // Blocks that wait move too, and have to be searched for that.
                let many = other.pending.len() > RECLAIMED || heap.pending.len() > WAITING;
                if many || !other.space.is_sparse(tables) {
                    break;
                }
                let Some(span) = other.space.sparse_span(tables) else { break };
                self.heaps.give_span(&mut other, span, heap);
                took += 1;
                if let Some(run) = heap.space.take_hinted(tables, len).or_else(|| heap.space.alloc(tables, len, 1)) {
                    heap.in_vain = 0;
                    return Some(run);
                }
            }
        }
        // Without this, spans that are of no use would move to and fro between heaps.
        if took > 0 {
            let resident = heap.space.resident_pages() * tables.granules.page();
            heap.in_vain = (2 * heap.in_vain + FIRST_LEFT_OUT).min(resident / LEFT_OUT);
            heap.left_out = heap.in_vain;
        }
        None
    }

    /// Takes granules from free spans: only from spans that hold memory, or from any.
    fn take_spans(&self, heap: &mut State, len: u32, align: u32, resident: bool) -> Option<Run> {
        if resident && self.heaps.free_resident() == 0 {
            return None;
        }
        let (tables, granules) = (&self.heaps.tables, self.heaps.granules());
        let small = align == 1 && len <= SPAN / 2;
        // The first span and the last may be too short, but then there is another one.
        for _ in 0..if small { 3 } else { 0 } {
            let (next, mut pool) = (heap.space.cursor_end() / SPAN, self.heaps.pool());
            let spans = if resident { pool.take_resident(granules, next) } else { pool.take_any(granules, next) }?;
            self.memory.use_up_to(bytes_of(Run::new(0, spans.end * SPAN)).end);
            heap.space.extend(tables, spans);
            let found = heap.space.bump(tables, len, align);
            if found.is_some() {
                return found;
            }
        }
        let mut pool = self.heaps.pool();
        let spans = pool.take_run(granules, len, align, resident)?;
        self.memory.use_up_to(bytes_of(Run::new(0, spans.end * SPAN)).end);
        heap.space.alloc_in(tables, spans, len, align)
    }

    /// Takes many granules from holes of a heap together with free spans next to them, if all of
    /// them hold memory. After a large block was dropped, the spans inside it are free, and its
    /// ends belong to the heap.
    fn take_joined(&self, heap: &mut State, len: u32, align: u32) -> Option<Run> {
        if align == 1 && len <= SPAN / 2 {
            return None;
        }
        let (tables, granules) = (&self.heaps.tables, self.heaps.granules());
        let own = heap.index as u16 + 1;
        let mut pool = self.heaps.pool();
        // The granules of other heaps may change meanwhile, and are not taken.
        let owner = |span: u32| granules.owner_at(span * SPAN).unwrap_or(FREE);
        let is_ours = |span: u32| owner(span) == own || owner(span) == FREE && pool.is_free(span);
        let ours = |run: &Run| (span_of(run.start)..=span_of(run.end - 1)).all(is_ours) && granules.all_resident(*run);
        let run = granules.holes_across_owners().filter_map(|hole| hole.fit(len, align)).find(ours)?;
        for span in span_of(run.start)..=span_of(run.end - 1) {
            if owner(span) == FREE {
                let spans = pool.take(granules, span..span + 1);
                heap.space.adopt(tables, spans);
            }
        }
        heap.space.take_at(tables, run);
        self.memory.use_up_to(bytes_of(Run::new(0, (span_of(run.end - 1) + 1) * SPAN)).end);
        Some(run)
    }

    /// Takes granules wherever there are enough, or returns how much space there is.
    fn find_exactly(&self, len: u32, align: u32) -> Result<(Locked<'_>, Run), Error> {
        for _ in 0..WAITS {
            let given = self.heaps.given();
            self.reclaim_all()?;
            self.seal_stuck();
            let mut all = self.heaps.all();
            if let Some((heap, run)) = self.find_in_all(&mut all, len, align) {
                self.memory.use_up_to(bytes_of(Run::new(0, (span_of(run.end - 1) + 1) * SPAN)).end);
                return Ok((all.into_heap(heap), run));
            }
            if self.in_flight.load(Ordering::Relaxed) == 0 {
                if self.heaps.given() == given {
                    return Err(self.full(&mut all, len));
                }
                // Reclaimed space may be in a heap that was searched before.
                continue;
            }
            drop(all);
            // A thread that has space in flight holds this lock.
            drop(self.system.lock());
        }
        Err(self.full(&mut self.heaps.all(), len))
    }

    fn full(&self, all: &mut All<'_>, len: u32) -> Error {
        let mut waiting = Counts::default();
        all.heaps.iter().for_each(|heap| waiting.merge(heap.waiting));
        Error::ArenaFull {
            asked: len as usize * GRANULE,
            free: all.free_granules() as usize * GRANULE,
            largest_hole: self.largest_hole(all) as usize * GRANULE,
            waiting: waiting.granules() * GRANULE,
        }
    }

    /// Returns the granules of the largest run that is free, whatever its owner.
    pub(in crate::arena) fn largest_hole(&self, all: &mut All<'_>) -> u32 {
        let (tables, granules) = (&self.heaps.tables, self.heaps.granules());
        let of_heaps = all.heaps.iter_mut().map(|heap| heap.space.largest(tables)).fold(0, u32::max);
        let across = granules.holes_across_owners().map(|hole| hole.len()).fold(of_heaps, u32::max);
        across.max(all.pool.largest(granules))
    }

    /// Takes granules from any holes. Returns the heap that owns them now.
    fn find_in_all(&self, all: &mut All<'_>, len: u32, align: u32) -> Option<(usize, Run)> {
        let (tables, granules) = (&self.heaps.tables, self.heaps.granules());
        for (index, heap) in all.heaps.iter_mut().enumerate() {
            if let Some(run) = heap.space.alloc_exactly(tables, len, align) {
                return Some((index, run));
            }
        }
        if let Some(spans) = all.pool.take_run(granules, len, align, false) {
            return all.heaps[0].space.alloc_in(tables, spans, len, align).map(|run| (0, run));
        }
        let run = granules.holes_across_owners().find_map(|hole| hole.fit(len, align))?;
        let heap = self.unite(all, run);
        all.heaps[heap].space.take_at(tables, run);
        Some((heap, run))
    }

    /// Makes one heap the owner of all spans of a run of free granules. Returns the number of the
    /// heap.
    fn unite(&self, all: &mut All<'_>, run: Run) -> usize {
        let (tables, granules) = (&self.heaps.tables, self.heaps.granules());
        let owner = |span: u32| granules.owner_at(span * SPAN).unwrap_or(FREE);
        let (first, mut last) = (span_of(run.start), span_of(run.end - 1));
        let heir = (first..=last).map(owner).find(|owner| *owner != FREE).unwrap_or(1);
        // A block that lies across the end of the last span moves too, with all of its spans. (No
        // block lies across the start of the first span, because that span is free or belongs to
        // the new owner.)
        let crossed =
            |span: u32| span < granules.spans() && owner(span) == owner(span - 1) && granules.is_crossed(span);
        while owner(last) != heir && crossed(last + 1) {
            last += 1;
        }
        let to = usize::from(heir) - 1;
        for span in first..=last {
            let from = owner(span);
            if from == FREE {
                let spans = all.pool.take(granules, span..span + 1);
                all.heaps[to].space.adopt(tables, spans);
            } else if let Some((from, to)) = two_mut(&mut all.heaps, usize::from(from) - 1, to) {
                self.heaps.give_span(from, span, to);
            }
        }
        to
    }

    /// Tries again to make pages executable that could not be made so before.
    pub(in crate::arena) fn seal_stuck(&self) {
        if self.heaps.each().all(|heap| heap.stuck.is_empty()) {
            return;
        }
        // Locked before the heaps. A thread that finds granules in flight waits for this lock.
        let system = self.system.lock();
        let mut granules = 0;
        let take = |mut heap: Locked<'_>| {
            let stuck = std::mem::take(&mut heap.stuck);
            let taken = stuck.iter().map(|run| u64::from(run.len())).sum();
            // Changed while the heap is locked, so that the granules are always counted in one
            // place or the other.
            self.in_flight.fetch_add(taken, Ordering::Relaxed);
            granules += taken;
            stuck
        };
        let stuck: Vec<Run> = self.heaps.each().flat_map(take).collect();
        for run in stuck {
            // SAFETY: these pages are open, belong to nobody else and contain no live code.
            if unsafe { self.seal(run, 0) }.is_ok() {
                if self.memory.bars() {
                    // Barred pages hold no memory.
                    // SAFETY: as above. They are barred.
                    let _ = unsafe { self.memory.trim(bytes_of(run)) };
                }
                self.release([run]);
            } else {
                self.keep_stuck(run);
            }
        }
        self.in_flight.fetch_sub(granules, Ordering::Relaxed);
        drop(system);
    }
}
