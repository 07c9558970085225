//! The arena itself: one region, one lock around the bookkeeping, and the ways of a block from free space to free space.
//!
//! The lock is held for bookkeeping only: bytes are copied, flushed and protected, and the system is called, without it.
//!
//! # What one publication costs
//!
//! A small function mostly takes its space from a shelf ([`super::shelves`]) and passes the lock by; others take it once
//! to be placed and once to be freed. In `DualMap` publishing makes no system call; in `Flip` it makes one (the kernel
//! write) for a single function, and two (open, seal) for each run of pages of a batch.

use std::collections::VecDeque;

use super::guards::Guards;
use super::lookup::{BlockInfo, Entry, Lookup};
use super::observer::Observer;
use super::shelves::{Held, Shelves};
use super::tally::Tally;
use crate::Error;
use crate::icache;
use crate::region::Region;
use crate::space::pages::Pages;
use crate::space::{Run, Space};
use crate::sync::Arc;
use crate::sync::checked::{AtomicU64, Mutex, MutexGuard};
use crate::sys::Span;
use crate::units::{self, GRANULE};

pub(crate) struct Core {
    pub(crate) region: Region,
    pub(crate) lookup: Lookup,
    pub(crate) guards: Guards,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) mode: super::WxMode,
    poison: bool,
    /// Unless freed space has to be overwritten, or waits for its page to be empty.
    pub(super) shelves: Option<Shelves>,
    /// Bytes of the last two batches, 32 bits each: what the next one may come to.
    pub(super) recent: AtomicU64,
    books: Mutex<Books>,
    /// Held while free space is kept out of the books because the system is being called about it. Taken before the
    /// books, or without them.
    aside: Mutex<()>,
}

/// Everything that the lock guards.
pub(crate) struct Books {
    pub(crate) space: Space,
    pub(crate) pages: Pages,
    /// Dropped blocks whose space waits for guards, oldest first.
    pub(crate) pending: VecDeque<Pending>,
    /// Whole pages that could not be made executable again; they are tried again before space is called short.
    pub(crate) stranded: Vec<Run>,
    pub(super) live: Tally,
    pub(super) waiting: Tally,
    /// Granules that are free but kept out of the space for a moment, by holders of `aside` or on their way to it.
    aside: usize,
}

/// A dropped block that waits until all guards are younger than its epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    epoch: u64,
    pub(crate) run: Run,
    len: u32,
}

/// How often the lock is looked at before sleeping on it.
const PATIENCE: usize = if cfg!(loom) { 0 } else { 200 };

/// The part of a stretch that may be without memory when it is put into a huge page: a quarter, as the fourth batch of
/// half a megabyte does not fit into what three have left. (The system's own daemon fills up almost empty ones.)
const SPARSEST: usize = 4;

/// Granules in a huge page.
const HUGE: u32 = (units::MAX_ALIGN / GRANULE) as u32;

/// How much is overwritten with traps at a time.
const PIECE: usize = 4096;

/// Byte offsets of a run.
pub(crate) fn bytes_of(run: Run) -> std::ops::Range<usize> {
    run.start as usize * GRANULE..run.end as usize * GRANULE
}

impl Core {
    pub(crate) fn new(
        region: Region,
        mode: super::WxMode,
        poison: bool,
        observer: Option<Arc<dyn Observer>>,
    ) -> Result<Self, Error> {
        let granules = (region.len() / GRANULE) as u32;
        let books = Books {
            space: Space::new(granules)?,
            pages: Pages::new(granules, (region.page_size() / GRANULE) as u32)?,
            pending: VecDeque::new(),
            stranded: Vec::new(),
            live: Tally::default(),
            waiting: Tally::default(),
            aside: 0,
        };
        let (lookup, guards) = (Lookup::new(granules)?, Guards::new());
        if let Some((start, len)) = lookup.first_table(region.page_size())?.filter(|(_, len)| *len >= units::MAX_ALIGN)
        {
            region.advise_table(Span { start, len });
        }
        let shelves = (!poison && region.fills_holes()).then(Shelves::new);
        Ok(Self {
            region,
            lookup,
            guards,
            observer,
            mode,
            poison,
            shelves,
            recent: AtomicU64::new(0),
            books: Mutex::new(books),
            aside: Mutex::new(()),
        })
    }

    /// The bookkeeping, with the space of all that need not wait any more given back.
    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        let books = self.lock();
        if books.pending.is_empty() { books } else { self.reclaim(books) }
    }

    /// The books as they are. They are held for some hundred nanoseconds, so it is better to look again for a while than
    /// to be put to sleep and woken.
    fn lock(&self) -> MutexGuard<'_, Books> {
        for _ in 0..PATIENCE {
            match self.books.try_lock() {
                Some(books) => return books,
                None => std::hint::spin_loop(),
            }
        }
        self.books.lock()
    }

    /// As [`Core::books`], but `None` where the lock may be held for ever: in a child forked while another thread held it.
    pub(crate) fn books_to_read(&self) -> Option<MutexGuard<'_, Books>> {
        if self.region.is_own() {
            return Some(self.gather());
        }
        let mut held = match &self.shelves {
            Some(shelves) => Some(shelves.try_hold()?),
            None => None,
        };
        let mut books = self.books.try_lock()?;
        // The child's own copy, which nobody else knows.
        held.iter_mut().for_each(|held| self.empty(held, &mut books));
        Some(books)
    }

    /// The books with everything in them, also what was on shelves.
    fn gather(&self) -> MutexGuard<'_, Books> {
        let Some(shelves) = &self.shelves else { return self.books() };
        let mut held = shelves.hold();
        let mut books = self.books();
        self.empty(&mut held, &mut books);
        books
    }

    fn empty(&self, held: &mut Held<'_>, books: &mut Books) {
        held.clear(|runs, tally| {
            books.live.merge(tally);
            runs.for_each(|run| self.give_back(books, run));
        });
    }

    fn reclaim<'a>(&'a self, mut books: MutexGuard<'a, Books>) -> MutexGuard<'a, Books> {
        let oldest = self.guards.oldest();
        let ready = |pending: &Pending| oldest.is_none_or(|oldest| pending.epoch < oldest);
        if !self.poison {
            while let Some(pending) = books.pending.front().copied().filter(ready) {
                books.pending.pop_front();
                books.waiting.retire(pending.run, pending.len);
                self.give_back(&mut books, pending.run);
            }
            return books;
        }
        let count = books.pending.iter().take_while(|pending| ready(pending)).count();
        if count == 0 {
            return books;
        }
        let due: Vec<Pending> = books.pending.drain(..count).collect();
        let granules: usize = due.iter().map(|pending| pending.run.len() as usize).sum();
        books.aside += granules;
        drop(books);
        let aside = self.aside.lock();
        let (done, failed): (Vec<_>, Vec<_>) = due.into_iter().partition(|pending| self.fill_with_traps(pending.run));
        // Where other cores cannot be reached the traps come late; what is published there next is refused anyway.
        let _ = self.region.sync_cores();
        let mut books = self.lock();
        books.aside -= granules;
        for pending in done {
            books.waiting.retire(pending.run, pending.len);
            self.give_back(&mut books, pending.run);
        }
        // What could not be overwritten is tried again.
        for pending in failed.into_iter().rev() {
            books.pending.push_front(pending);
        }
        drop(aside);
        books
    }

    /// Where freed code is to be overwritten and can be, does it; whether the space may be used again.
    fn fill_with_traps(&self, run: Run) -> bool {
        if !self.poison || !self.region.fills_holes() {
            return true;
        }
        let bytes = bytes_of(run);
        let mut traps = [0; PIECE];
        icache::fill_with_traps(&mut traps);
        let mut pieces = bytes.clone().step_by(PIECE);
        let written = pieces.all(|at| {
            let piece = &traps[..PIECE.min(bytes.end - at)];
            // SAFETY: the block was retired and every guard older than that is gone: nobody runs or reads it.
            unsafe { self.region.write(at, piece) }.is_ok()
        });
        self.region.counters.flushed.add(bytes.len() as u64);
        self.region.flush(bytes);
        written
    }

    pub(super) fn give_back(&self, books: &mut Books, run: Run) {
        let hole = books.space.free(run);
        self.lookup.vacate(run, hole);
    }

    /// Gives back space that never held a published block.
    pub(crate) fn release(&self, runs: impl IntoIterator<Item = Run>) {
        let mut books = self.lock();
        for run in runs {
            self.give_back(&mut books, run);
        }
    }

    /// Pages hold memory that no block was published in.
    pub(super) fn note_resident(&self, run: Run) {
        self.lock().pages.touch(run);
    }

    /// Checks a size against what the arena could hold empty.
    pub(crate) fn granules(&self, bytes: usize) -> Result<u32, Error> {
        units::granules(bytes, self.region.len().min(u32::MAX as usize))
    }

    /// Takes `len` granules at a multiple of `align`. `note` does so in the books, under the lock.
    pub(crate) fn place<T>(&self, len: u32, align: u32, note: impl FnOnce(&mut Books, Run) -> T) -> Result<T, Error> {
        let mut books = self.books();
        let mut found = books.space.alloc(len, align);
        let mut rescued = false;
        while found.is_none() {
            // Not full before what lies on shelves, what others hold aside, and what could not be sealed is tried.
            drop(books);
            books = self.gather();
            found = books.space.alloc(len, align);
            if found.is_some() {
                break;
            }
            if books.aside > 0 {
                drop(books);
                drop(self.aside.lock());
                books = self.books();
            } else if !rescued && !books.stranded.is_empty() {
                rescued = true;
                books = self.rescue(books);
            } else {
                break;
            }
        }
        let Some(run) = found else {
            return Err(Error::ArenaFull {
                asked: len as usize * GRANULE,
                free: books.space.free_granules() as usize * GRANULE,
                largest_hole: books.space.largest_hole() as usize * GRANULE,
            });
        };
        self.lookup.occupy(run);
        Ok(note(&mut books, run))
    }

    /// Tries again to make pages executable that could not be.
    fn rescue<'a>(&'a self, mut books: MutexGuard<'a, Books>) -> MutexGuard<'a, Books> {
        if books.stranded.is_empty() {
            return books;
        }
        let stranded = std::mem::take(&mut books.stranded);
        let granules: usize = stranded.iter().map(|run| run.len() as usize).sum();
        books.aside += granules;
        drop(books);
        let aside = self.aside.lock();
        // SAFETY: stranded pages are open, belong to nobody else and hold no live code.
        let seal = |run: &Run| unsafe { self.region.seal(bytes_of(*run)) }.is_ok();
        let (sealed, still): (Vec<_>, Vec<_>) = stranded.into_iter().partition(seal);
        let mut books = self.lock();
        books.aside -= granules;
        for run in sealed {
            self.give_back(&mut books, run);
        }
        books.stranded.extend(still);
        drop(aside);
        books
    }

    /// Keeps pages that are open and cannot be sealed out of the free space until they can.
    pub(crate) fn strand(&self, run: Run) {
        self.lock().stranded.push(run);
    }

    /// The block is dropped: it cannot be found any more, and its space is free as soon as no older guard is left.
    pub(crate) fn retire(&self, entry: Entry) {
        if !self.region.is_own() {
            // A child leaves its copy of the books alone: it may not even be able to take the lock.
            return;
        }
        if let Some(observer) = &self.observer {
            self.region.let_read();
            // Also if the observer panics, the rest is done.
            let _finish = Finish { core: self, entry };
            observer.retired(&self.info(entry));
        } else {
            self.finish(entry);
        }
    }

    /// The second half of a retirement, after the observer.
    fn finish(&self, entry: Entry) {
        if !self.region.is_own() {
            // The observer forked.
            return;
        }
        let run = entry.run();
        self.lookup.remove(entry);
        // Right after the read-modify-write in there, as it has to be.
        let unguarded = self.guards.oldest().is_none();
        if let (true, Some(shelves)) = (unguarded, &self.shelves) {
            let spill = |runs: &mut dyn Iterator<Item = Run>| {
                let mut books = self.lock();
                runs.for_each(|run| self.give_back(&mut books, run));
            };
            if shelves.put(run, entry.len, spill).is_ok() {
                return;
            }
        }
        let mut books = self.lock();
        books.live.retire(run, entry.len);
        if unguarded && !self.poison {
            self.give_back(&mut books, run);
            return;
        }
        let epoch = self.guards.next_epoch();
        books.waiting.add(run, entry.len);
        books.pending.push_back(Pending { epoch, run, len: entry.len });
        if self.poison {
            // Overwrites it now, if it need not wait.
            drop(self.reclaim(books));
        }
    }

    /// Gives the memory of wholly free pages back to the system; returns the bytes.
    pub(crate) fn trim(&self) -> Result<usize, Error> {
        self.region.check_own("trim")?;
        if !self.region.gives_back() {
            return Ok(0);
        }
        let mut books = self.rescue(self.gather());
        let _aside = MutexGuard::unlocked(&mut books, || self.aside.lock());
        // The pages are taken while the system is called, so that nobody places code in them meanwhile.
        let (mut taken, mut from) = (Vec::new(), 0);
        while let Some(run) = books.pages.next_to_trim(&books.space, from, HUGE) {
            books.space.alloc_at(run);
            from = books.pages.of(run).end;
            books.aside += run.len() as usize;
            taken.push(run);
        }
        drop(books);
        let mut result = Ok(0);
        for run in taken {
            // SAFETY: the pages are taken and hold no block, live or pending.
            let gone = unsafe { self.region.decommit(bytes_of(run)) };
            let mut books = self.lock();
            match gone {
                Ok(()) => {
                    let bytes = books.pages.gone(run) * self.region.page_size();
                    result = result.map(|sum| sum + bytes);
                }
                Err(error) => result = result.and(Err(error)),
            }
            books.aside -= run.len() as usize;
            self.give_back(&mut books, run);
        }
        result
    }

    /// Puts stretches of 2 MiB that hold memory almost throughout into huge pages; returns the bytes.
    pub(crate) fn collapse(&self) -> Result<usize, Error> {
        self.region.check_own("collapse")?;
        let page = self.region.page_size();
        let (mut bytes, mut refused) = (0, None);
        for start in (0..self.region.len()).step_by(units::MAX_ALIGN) {
            let range = start..start + units::MAX_ALIGN;
            let pages = range.start / page..range.end / page;
            // So that no trim takes the memory away before it is counted. The books as they are: to reclaim takes this lock.
            let _aside = self.aside.lock();
            let missing = pages.len() - self.lock().pages.count_resident(pages.clone());
            if range.end > self.region.len() || pages.is_empty() || missing > pages.len() / SPARSEST {
                continue;
            }
            let collapsed = self.region.collapse(range.clone());
            if collapsed.is_ok() || self.region.is_dual() {
                // A huge page is there as a whole; also if only one of two views is made of it.
                let run = Run::new((range.start / GRANULE) as u32, (range.len() / GRANULE) as u32);
                self.lock().pages.touch(run);
            }
            match collapsed {
                Ok(()) => bytes += units::MAX_ALIGN,
                // The system cannot move pages that a batch has open; other stretches it can.
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) if bytes == 0 => Err(error),
            _ => Ok(bytes),
        }
    }

    pub(crate) fn info(&self, entry: Entry) -> BlockInfo {
        BlockInfo {
            start: self.region.address(entry.start as usize * GRANULE),
            len: entry.len as usize,
            tag: entry.tag,
        }
    }
}

/// Retires the rest of the way when dropped.
struct Finish<'a> {
    core: &'a Core,
    entry: Entry,
}

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.core.finish(self.entry);
    }
}
