//! The arena itself: one memory, one lock around the bookkeeping, and the ways of a block from free space to free space.
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
use super::observers::Observers;
use super::shelves::{Held, Shelves};
use super::tally::Tally;
use crate::Error;
use crate::icache;
use crate::modes::CodeMemory;
use crate::space::pages::Pages;
use crate::space::{Run, Space};
use crate::sync::checked::{AtomicU64, Mutex, MutexGuard};
use crate::sys::Span;
use crate::units::{self, GRANULE};

pub(crate) struct Core {
    pub(crate) memory: CodeMemory,
    pub(crate) lookup: Lookup,
    pub(crate) guards: Guards,
    pub(super) observers: Observers,
    poison: bool,
    /// Unless freed space has to be overwritten, or waits for its page to be empty.
    pub(super) shelves: Option<Shelves>,
    /// Bytes of the last two batches, 32 bits each: what the next one may come to.
    pub(super) recent: AtomicU64,
    books: Mutex<Books>,
    /// Held while free space is kept out of the books because the system is being called about it. Taken before the
    /// books, or without them.
    pub(super) aside: Mutex<()>,
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
    /// Granules of pages with data of modules.
    pub(super) data: usize,
    /// Granules that are free but kept out of the space for a moment, by holders of `aside` or on their way to it.
    pub(super) aside: usize,
}

/// A dropped block that waits until all guards are younger than its epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    epoch: u64,
    pub(super) entry: Entry,
}

/// How often the lock is looked at before sleeping on it.
const PATIENCE: usize = if cfg!(loom) { 0 } else { 200 };

/// How many blocks one call reclaims, unless it would fail otherwise or has to be exact.
const RECLAIMED: usize = 64;
/// How many of those that have waited a drop reclaims that has to wait itself.
const PAID_BY_DROP: usize = 2;

/// How much is overwritten with traps at a time.
const PIECE: usize = 4096;

/// Byte offsets of a run.
pub(crate) fn bytes_of(run: Run) -> std::ops::Range<usize> {
    run.start as usize * GRANULE..run.end as usize * GRANULE
}

impl Core {
    pub(crate) fn new(memory: CodeMemory, poison: bool, observers: Observers) -> Result<Self, Error> {
        let granules = (memory.len() / GRANULE) as u32;
        let books = Books {
            space: Space::new(granules)?,
            pages: Pages::new(granules, (memory.page_size() / GRANULE) as u32)?,
            pending: VecDeque::new(),
            stranded: Vec::new(),
            live: Tally::default(),
            waiting: Tally::default(),
            data: 0,
            aside: 0,
        };
        let (lookup, guards) = (Lookup::new(granules)?, Guards::new());
        if let Some((start, len)) = lookup.first_table(memory.page_size())?.filter(|(_, len)| *len >= units::MAX_ALIGN)
        {
            memory.advise_table(Span { start, len });
        }
        let shelves = (!poison && memory.rules().fills_holes).then(Shelves::new);
        Ok(Self {
            memory,
            lookup,
            guards,
            observers,
            poison,
            shelves,
            recent: AtomicU64::new(0),
            books: Mutex::new(books),
            aside: Mutex::new(()),
        })
    }

    /// The bookkeeping, with the space of some blocks that need not wait any more given back: of no more
    /// than [`RECLAIMED`], however many wait.
    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        let books = self.lock();
        if books.pending.is_empty() { books } else { self.reclaim(books, RECLAIMED) }
    }

    /// As [`Core::books`], with the space of all of them given back.
    fn reclaimed(&self) -> MutexGuard<'_, Books> {
        let books = self.lock();
        if books.pending.is_empty() { books } else { self.reclaim(books, usize::MAX) }
    }

    /// The books as they are. They are held for some hundred nanoseconds, so it is better to look again for a while than
    /// to be put to sleep and woken.
    pub(super) fn lock(&self) -> MutexGuard<'_, Books> {
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
        if self.memory.is_own() {
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
    pub(super) fn gather(&self) -> MutexGuard<'_, Books> {
        let Some(shelves) = &self.shelves else { return self.reclaimed() };
        let mut held = shelves.hold();
        let mut books = self.reclaimed();
        self.empty(&mut held, &mut books);
        books
    }

    fn empty(&self, held: &mut Held<'_>, books: &mut Books) {
        held.clear(|runs, tally| {
            books.live.merge(tally);
            runs.for_each(|run| self.give_back(books, run));
        });
    }

    /// Gives back the space of up to `most` blocks that need not wait any more, the oldest first.
    fn reclaim<'a>(&'a self, mut books: MutexGuard<'a, Books>, most: usize) -> MutexGuard<'a, Books> {
        let oldest = self.guards.oldest();
        if books.pending.back().is_some_and(|youngest| youngest.epoch == self.guards.epoch()) {
            // When it was dropped there was no counter left for younger guards; now there may be.
            self.guards.advance();
        }
        let ready = |pending: &Pending| oldest.is_none_or(|oldest| pending.epoch < oldest);
        if !self.poison && self.observers.is_empty() {
            for _ in 0..most {
                let Some(pending) = books.pending.front().copied().filter(ready) else { break };
                books.pending.pop_front();
                self.come_free(&mut books, pending);
            }
            return books;
        }
        let count = books.pending.iter().take(most).take_while(|pending| ready(pending)).count();
        if count == 0 {
            return books;
        }
        let due: Vec<Pending> = books.pending.drain(..count).collect();
        let granules: usize = due.iter().map(|pending| pending.entry.run().len() as usize).sum();
        books.aside += granules;
        drop(books);
        let aside = self.aside.lock();
        let (done, failed): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|pending| self.fill_with_traps(pending.entry.run()));
        if self.poison {
            // Where other cores cannot be reached the traps come late; what is published there next is refused anyway.
            let _ = self.memory.sync_cores();
        }
        self.announce_freed(done.iter().map(|pending| self.info(pending.entry)));
        let mut books = self.lock();
        books.aside -= granules;
        for pending in done {
            self.come_free(&mut books, pending);
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
        if !self.poison || !self.memory.rules().fills_holes {
            return true;
        }
        let bytes = bytes_of(run);
        let mut traps = [0; PIECE];
        icache::fill_with_traps(&mut traps);
        let mut pieces = bytes.clone().step_by(PIECE);
        let written = pieces.all(|at| {
            let piece = &traps[..PIECE.min(bytes.end - at)];
            // SAFETY: the block was retired and every guard older than that is gone: nobody runs or reads it.
            unsafe { self.memory.write(at, piece) }.is_ok()
        });
        self.memory.counters.flushed.add(bytes.len() as u64);
        self.memory.flush(bytes);
        written
    }

    /// The space of a block that had to wait is free.
    fn come_free(&self, books: &mut Books, pending: Pending) {
        let (run, len) = (pending.entry.run(), pending.entry.len);
        books.waiting.retire(run, len);
        self.observers.note_reclaimed(len as usize);
        self.give_back(books, run);
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
        units::granules(bytes, self.memory.len().min(u32::MAX as usize))
    }

    /// Takes `len` granules at a multiple of `align`. `note` does so in the books, under the lock.
    pub(crate) fn place<T>(&self, len: u32, align: u32, note: impl FnOnce(&mut Books, Run) -> T) -> Result<T, Error> {
        self.place_by(len, |space| space.alloc(len, align), note)
    }

    /// As [`Core::place`], where `alloc` finds `len` granules.
    pub(super) fn place_by<T>(
        &self,
        len: u32,
        alloc: impl Fn(&mut Space) -> Option<Run>,
        note: impl FnOnce(&mut Books, Run) -> T,
    ) -> Result<T, Error> {
        let mut books = self.books();
        let mut found = alloc(&mut books.space);
        let mut rescued = false;
        while found.is_none() {
            // Not full before what lies on shelves, what others hold aside, and what could not be sealed is tried.
            drop(books);
            books = self.gather();
            found = alloc(&mut books.space);
            if found.is_some() {
                break;
            }
            if books.aside > 0 {
                drop(books);
                drop(self.aside.lock());
                books = self.reclaimed();
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
    pub(super) fn rescue<'a>(&'a self, mut books: MutexGuard<'a, Books>) -> MutexGuard<'a, Books> {
        if books.stranded.is_empty() {
            return books;
        }
        let stranded = std::mem::take(&mut books.stranded);
        let granules: usize = stranded.iter().map(|run| run.len() as usize).sum();
        books.aside += granules;
        drop(books);
        let aside = self.aside.lock();
        // SAFETY: stranded pages are open, belong to nobody else and hold no live code.
        let seal = |run: &Run| unsafe { self.memory.seal(bytes_of(*run)) }.is_ok();
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
        if !self.memory.is_own() {
            // A child leaves its copy of the books alone: it may not even be able to take the lock.
            return;
        }
        if self.observers.is_empty() {
            self.finish(entry);
        } else {
            // Also if an observer panics, the rest is done.
            let _finish = Finish { core: self, entry };
            self.announce_retired(&self.info(entry));
        }
    }

    /// The second half of a retirement, after the observer.
    fn finish(&self, entry: Entry) {
        if !self.memory.is_own() {
            // The observer forked.
            return;
        }
        let run = entry.run();
        self.lookup.remove(entry);
        // Right after the read-modify-write in there, as it has to be.
        let unguarded = !self.guards.any();
        if unguarded && !self.poison && !self.observers.is_empty() {
            self.announce_freed([self.info(entry)]);
        }
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
        books.pending.push_back(Pending { epoch, entry });
        // With poison it is overwritten now, if it need not wait. Without, each drop that waits pays for more than itself: so
        // what waits stays in proportion, however few publications ask the books for space.
        drop(self.reclaim(books, if self.poison { RECLAIMED } else { PAID_BY_DROP }));
    }

    pub(crate) fn info(&self, entry: Entry) -> BlockInfo {
        BlockInfo {
            start: self.memory.address(entry.start as usize * GRANULE),
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
