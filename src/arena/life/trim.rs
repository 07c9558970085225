//! Giving the memory of free pages back to the system, and moving code into huge pages.
//!
//! Both take the pages, or `system`, so that nobody places code there while the system is called.
//! No heap is locked during the call:
//!
//! ```text
//! `system` held:  all heaps locked: take empty pages --> bar (with poison), decommit --> heap locked: free them
//! ```
//!
//! While the system is called, the granules are *in flight*: they are taken, and counted, so that
//! an arena is not reported as full because of them. If the system refuses, the pages keep their
//! memory, they are free again, and the call returns the error. `keep_free` uses the same path from
//! a drop.

use crate::Error;
use crate::arena::core::{Core, bytes_of};
use crate::arena::heaps::All;
use crate::modes::Trims;
use crate::space::Run;
use crate::space::granules::{FREE, SPAN, span_of};
use crate::sync::Ordering;
use crate::units::{self, GRANULE};

/// The fraction of 2 MiB that may be without memory when they are moved into a huge page: a
/// quarter, because the fourth batch of half a megabyte does not fit into the rest that three
/// batches leave. (The system's own daemon fills huge pages that are almost empty.)
const SPARSEST: usize = 4;

/// The granules of a huge page.
const HUGE: u32 = (units::MAX_ALIGN / GRANULE) as u32;

/// The number of spans that a drop gives back with one call: 2 MiB.
const SPANS: u32 = HUGE / SPAN;

impl Core {
    /// Gives the memory of wholly free pages back to the system. Returns the number of bytes.
    pub(crate) fn trim(&self) -> Result<usize, Error> {
        self.memory.check_own("trim")?;
        let data = self.trim_data();
        let trims = self.memory.rules().trims;
        if trims == Trims::Nothing {
            return data;
        }
        self.reclaim_all()?;
        self.seal_stuck();
        let system = self.system.lock();
        // The pages are taken while the system is called, so that nobody places code in them
        // meanwhile. Traps are written only to a little more than was written before. A free span
        // is taken as a whole.
        let around = if trims == Trims::WithTraps { SPAN } else { HUGE };
        let runs = self.take_empty_pages(&mut self.heaps.all(), around);
        if self.memory.bars_for_good() {
            // One page shows whether the refusal has passed. It is barred again with the others.
            let barred = runs.iter().find_map(|run| self.first_barred(*run));
            let _ = barred.map(|page| self.fill_barred(page));
        }
        let mut result = data;
        for run in runs {
            match self.decommit(run) {
                Ok(bytes) => result = result.map(|sum| sum + bytes),
                Err(error) => result = result.and(Err(error)),
            }
        }
        self.leave_out_of_dumps();
        drop(system);
        if let Ok(bytes @ 1..) = result {
            self.announce_trimmed(bytes);
        }
        result
    }

    /// Excludes the part behind the last span of a heap from core dumps.
    fn leave_out_of_dumps(&self) {
        // Locked, so that nobody takes a span meanwhile.
        let _all = self.heaps.all();
        let granules = self.heaps.granules();
        let is_owned = |span: &u32| granules.owner_at(span * SPAN).is_some_and(|owner| owner != FREE);
        let last = (0..granules.spans()).rev().find(is_owned);
        let end = last.map_or(granules.first(), |span| (span + 1) * SPAN).min(granules.len());
        self.memory.unused_from(bytes_of(Run::new(0, end)).end);
    }

    /// Takes all empty pages that hold memory, and the empty pages around them up to a multiple of
    /// `around`. This is usually a huge page. If only some pages of a huge page are known to hold
    /// memory, the others may hold some too. Each run has one owner.
    fn take_empty_pages(&self, all: &mut All<'_>, around: u32) -> Vec<Run> {
        let (tables, granules) = (&self.heaps.tables, self.heaps.granules());
        let page = granules.page();
        let mut taken = Vec::new();
        let mut at = 0;
        while at < granules.len() {
            let free = granules.next_free(at, granules.len());
            let hole = Run { start: free, end: granules.next_taken(free, granules.len()) };
            at = hole.end;
            // If memory that others mapped begins or ends inside a page, the arena owns nothing
            // else of that page.
            let pages = Run {
                start: if hole.start == granules.first() {
                    hole.start / page * page
                } else {
                    hole.start.next_multiple_of(page)
                },
                end: if hole.end == granules.len() { hole.end.next_multiple_of(page) } else { hole.end / page * page },
            };
            let mut from = pages.start;
            while let Some(first) = self.next_resident(from, pages.end) {
                let mut end = first;
                while end < pages.end && self.holds_memory(end) {
                    end += page;
                }
                let run = Run {
                    start: (first / around * around).max(from),
                    end: end.next_multiple_of(around).min(pages.end),
                };
                from = run.end;
                taken.extend(self.by_owner(Run { start: run.start.max(hole.start), end: run.end.min(hole.end) }));
            }
        }
        for run in &taken {
            match granules.owner_at(run.start).unwrap_or(FREE) {
                FREE => {
                    all.pool.take(granules, span_of(run.start)..span_of(run.end - 1) + 1);
                    granules.set(*run);
                }
                owner => all.heaps[usize::from(owner) - 1].space.take_at(tables, *run),
            }
            self.in_flight.fetch_add(u64::from(run.len()), Ordering::Relaxed);
        }
        taken
    }

    /// Returns the first page in `from..end` that holds memory.
    fn next_resident(&self, from: u32, end: u32) -> Option<u32> {
        let granules = self.heaps.granules();
        let mut at = from;
        while at < end {
            let within = granules.span(span_of(at));
            if granules.count_resident(within) == 0 {
                at = (span_of(at) + 1) * SPAN;
            } else if self.holds_memory(at) {
                return Some(at);
            } else {
                at += granules.page();
            }
        }
        None
    }

    fn holds_memory(&self, granule: u32) -> bool {
        self.heaps.granules().all_resident(Run::new(granule, self.page()))
    }

    /// Divides a run of free granules where the owner changes. A free span is taken as a whole or
    /// not at all.
    fn by_owner(&self, run: Run) -> Vec<Run> {
        let granules = self.heaps.granules();
        let mut pieces: Vec<(u16, Run)> = Vec::new();
        for span in span_of(run.start)..=span_of(run.end - 1) {
            let within = granules.span(span);
            let owner = granules.owner_at(within.start).unwrap_or(FREE);
            let part = match owner {
                FREE => within,
                _ => Run { start: run.start.max(within.start), end: run.end.min(within.end) },
            };
            match pieces.last_mut() {
                Some((last, piece)) if *last == owner && piece.end == part.start => piece.end = part.end,
                _ => pieces.push((owner, part)),
            }
        }
        pieces.into_iter().map(|(_, piece)| piece).collect()
    }

    /// Gives the memory of taken pages back, or does what the mode does instead. Then frees the
    /// pages. Returns the number of bytes given back.
    fn decommit(&self, run: Run) -> Result<usize, Error> {
        // If pages cannot be unbarred, they are left as they are.
        let left = self.memory.bars_for_good();
        let gone = if self.memory.bars() {
            // SAFETY: the pages are taken and hold no block, live or pending.
            unsafe { self.memory.bar_and_trim(bytes_of(run)) }
        } else {
            // SAFETY: as above.
            unsafe { self.memory.trim(bytes_of(run)) }
        };
        // Resident pages have to be executable. If pages cannot be made executable any more, they
        // count as given back until they are used again.
        let lost = gone.is_ok() || self.memory.bars() && !left && !self.unbar_resident(run);
        let granules = self.heaps.granules();
        let pages = if granules.owner_at(run.start) == Some(FREE) {
            let mut pool = self.heaps.pool();
            let pages = if lost { granules.gone(run) } else { 0 };
            granules.clear(run);
            pool.put(granules, span_of(run.start)..span_of(run.end - 1) + 1);
            pages
        } else {
            let mut heap = self.heaps.of(run.start);
            let pages = if lost { heap.space.gone(&self.heaps.tables, run) } else { 0 };
            self.free(&mut heap, run);
            pages
        };
        self.in_flight.fetch_sub(u64::from(run.len()), Ordering::Relaxed);
        gone.map(|given_back| if given_back { pages as usize * self.memory.page_size() } else { 0 })
    }

    /// Gives memory of free spans back until no more is left than the arena is to keep. Only one
    /// thread at a time does this. A refusal ends it. It is tried again when twice as much is free.
    #[cold]
    pub(in crate::arena) fn shrink(&self) {
        let Some(system) = self.system.try_lock() else { return };
        let mut bytes = 0;
        while self.heaps.free_resident() > self.keep_free.load(Ordering::Relaxed) {
            let granules = self.heaps.granules();
            let run = {
                let mut pool = self.heaps.pool();
                let Some(spans) = pool.take_resident_run(granules, SPANS) else { break };
                let run = Run { start: spans.start * SPAN, end: (spans.end * SPAN).min(granules.len()) };
                granules.set(run);
                self.in_flight.fetch_add(u64::from(run.len()), Ordering::Relaxed);
                run
            };
            match self.decommit(run) {
                Ok(gone) => {
                    bytes += gone;
                    self.keep_free.store(self.least_kept, Ordering::Relaxed);
                }
                Err(_) => self.keep_free.store(2 * self.heaps.free_resident(), Ordering::Relaxed),
            }
        }
        drop(system);
        if bytes > 0 {
            self.announce_shrunk(bytes);
        }
    }

    /// Moves 2 MiB at a time into a huge page, if almost all of them hold memory. Returns the
    /// number of bytes.
    pub(crate) fn collapse(&self) -> Result<usize, Error> {
        self.memory.check_own("collapse")?;
        self.memory.check_not_given("collapse")?;
        let (mut bytes, mut refused) = (0, None);
        for start in (0..self.memory.len() / units::MAX_ALIGN).map(|index| index * units::MAX_ALIGN) {
            let run = Run::new((start / GRANULE) as u32, HUGE);
            // Locked, so that no trim takes the memory away before it is counted.
            let _system = self.system.lock();
            let (pages, resident) = (HUGE / self.page(), self.heaps.granules().count_resident(run));
            if (pages - resident) as usize > pages as usize / SPARSEST {
                continue;
            }
            if self.memory.bars() {
                // All of it has to be executable, or nothing.
                match self.unbar_range(run) {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(error) => {
                        refused = Some(error);
                        continue;
                    }
                }
            }
            let collapsed = self.memory.collapse(bytes_of(run));
            if collapsed.is_ok() || self.memory.rules().collapses_in_steps {
                // A huge page holds memory as a whole, even if only one of two views could be
                // moved.
                self.heaps.all().touch(&self.heaps.tables, run);
            }
            match collapsed {
                Ok(()) => bytes += units::MAX_ALIGN,
                // The system cannot move pages that a batch has open. It can move others.
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) if bytes == 0 => Err(error),
            _ => Ok(bytes),
        }
    }
}
