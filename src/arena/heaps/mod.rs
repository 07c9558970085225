//! The heaps of an arena, and the pool of free spans that belong to none of them.
//!
//! ```text
//! thread 1 --lock--> heap 1: span 0, span 1, span 4      lock, holes, pending blocks, counts
//! thread 2 --lock--> heap 2: span 2                      lock, holes, pending blocks, counts
//!                    pool:   span 3, span 5, ...         lock, wholly free spans
//! ```
//!
//! A heap owns whole spans and allocates granules in them under its own lock. A thread uses the
//! heap that it used last. If that heap is locked again and again, the thread changes to another,
//! or makes one. Now and then it tries an earlier one. So there are about as many heaps in use as
//! threads that meet. A dropped block is freed into the heap that owns its span, whichever thread
//! drops it.
//!
//! # Locks, in the order in which they are taken
//!
//! 1. `system`, by a thread that has granules in flight (see the core).
//! 2. Heaps, by number. A thread that holds one may only *try* to lock others, unless it locks all
//!    of them in order from the first ([`Heaps::all`]).
//! 3. The pool, and the epochs of guards. Nothing else is locked under either.
//!
//! Heaps and the pool are locked for bookkeeping only. Bytes are copied, flushed and protected, and
//! the system and observers are called, without these locks. (The exceptions are pages without
//! memory: with poison, `arena/life/pages.rs`, and in `FileWrite`, `arena/life/prefault.rs`.)
//!
//! # Who writes what
//!
//! | what | under which lock |
//! |---|---|
//! | bits and states of a span, its lines in the lookup | its owner's; of a free span the pool's |
//! | the owner of a span | that of the old owner and that of the new one |
//! | holes, pending blocks, counts of a heap | its own |
//! | the free spans | the pool's |
//! | the state of a live block in the lookup | none: the block's owner writes it once, to retire the block |
#![forbid(unsafe_code)]

mod counts;
pub(super) mod last;
mod state;

use std::ops::{Deref, DerefMut, Range};

pub(super) use counts::Counts;
pub(crate) use state::{Pending, State};

use crate::Error;
use crate::space::Run;
use crate::space::granules::{FREE, Granules, SPAN, span_of};
use crate::space::heap::Tables;
use crate::space::pool::Pool;
use crate::sync::Ordering;
use crate::sync::checked::{AtomicU64, AtomicUsize, Mutex, MutexGuard, OnceLock};

/// The largest number of heaps in an arena.
const MOST: usize = 64;
/// The smallest number of spans for each heap.
const SPANS: u32 = if cfg!(loom) { 2 } else { 8 };
/// The number of attempts to take a lock before this thread sleeps.
const SPINS: usize = if cfg!(loom) { 1 } else { 200 };

pub(crate) struct Heaps {
    pub(crate) tables: Tables,
    pool: Mutex<Pool>,
    /// The free pages of the pool that hold memory. Written under the pool's lock.
    free_resident: AtomicU64,
    first: Heap,
    /// The other heaps, as far as they were made.
    further: Box<[OnceLock<Box<Heap>>]>,
    /// The number of heaps. It changes under the pool's lock.
    made: AtomicUsize,
    /// The number of spans that changed owner with something in them. It changes under both heaps'
    /// locks.
    given: AtomicU64,
}

/// A heap. It has its cache lines for itself, and those that are fetched with them.
#[repr(align(128))]
struct Heap(Mutex<State>);

impl Heap {
    fn new(index: usize) -> Result<Self, Error> {
        Ok(Self(Mutex::new(State::new(index)?)))
    }

    /// Locks the heap. It is usually locked for some hundred nanoseconds, so repeated attempts cost
    /// less than to sleep and to be woken.
    #[inline]
    fn lock(&self) -> Locked<'_> {
        match self.0.try_lock() {
            Some(locked) => locked,
            None => self.wait(),
        }
    }

    #[cold]
    fn wait(&self) -> Locked<'_> {
        self.try_for_a_while().unwrap_or_else(|| self.0.lock())
    }

    fn try_for_a_while(&self) -> Option<Locked<'_>> {
        (0..SPINS).find_map(|_| {
            std::hint::spin_loop();
            self.0.try_lock()
        })
    }
}

pub(crate) type Locked<'a> = MutexGuard<'a, State>;

/// The pool, locked.
pub(super) struct LockedPool<'a> {
    heaps: &'a Heaps,
    pool: MutexGuard<'a, Pool>,
}

impl Deref for LockedPool<'_> {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        &self.pool
    }
}

impl DerefMut for LockedPool<'_> {
    fn deref_mut(&mut self) -> &mut Pool {
        &mut self.pool
    }
}

impl Drop for LockedPool<'_> {
    fn drop(&mut self) {
        self.heaps.free_resident.store(u64::from(self.pool.resident_pages()), Ordering::Relaxed);
    }
}

/// All heaps and the pool, locked.
pub(super) struct All<'a> {
    pub(super) heaps: Vec<Locked<'a>>,
    pub(super) pool: LockedPool<'a>,
}

impl Heaps {
    /// Returns the heaps of granules that are all free, in pages of `page` granules.
    pub(crate) fn new(granules: Range<u32>, page: u32) -> Result<Self, Error> {
        let spans = granules.end.div_ceil(SPAN) - span_of(granules.start);
        let tables = Tables::new(granules, page)?;
        let pool = Pool::new(&tables.granules)?;
        let most = ((spans / SPANS) as usize).clamp(1, MOST);
        Ok(Self {
            tables,
            pool: Mutex::new(pool),
            free_resident: AtomicU64::new(0),
            first: Heap::new(0)?,
            further: (1..most).map(|_| OnceLock::new()).collect(),
            made: AtomicUsize::new(1),
            given: AtomicU64::new(0),
        })
    }

    #[inline]
    pub(super) fn granules(&self) -> &Granules {
        &self.tables.granules
    }

    /// Returns the number of free pages that hold memory and belong to no heap.
    #[inline]
    pub(super) fn free_resident(&self) -> u64 {
        self.free_resident.load(Ordering::Relaxed)
    }

    /// Makes one more heap, if there may be more. Returns its number.
    fn make(&self) -> Result<Option<usize>, Error> {
        let pool = self.pool.lock();
        let made = self.made.load(Ordering::Relaxed);
        let Some(place) = self.further.get(made - 1) else { return Ok(None) };
        let _ = place.set(Box::new(Heap::new(made)?));
        self.made.store(made + 1, Ordering::Release);
        drop(pool);
        Ok(Some(made))
    }

    /// Returns a heap that was made.
    #[inline]
    fn heap(&self, index: usize) -> &Heap {
        let further = index.checked_sub(1).and_then(|further| self.further.get(further)?.get());
        debug_assert!(index == 0 || further.is_some(), "no such heap");
        further.map_or(&self.first, |heap| heap)
    }

    #[inline]
    fn try_lock(&self, index: usize) -> Option<Locked<'_>> {
        self.heap(index).0.try_lock()
    }

    /// Locks a heap that was made.
    #[inline]
    pub(super) fn lock(&self, index: usize) -> Locked<'_> {
        self.heap(index).lock()
    }

    /// Locks a heap for this thread, to publish: the one that it used last, or another if that one
    /// is locked often.
    #[inline]
    pub(super) fn any(&self) -> Locked<'_> {
        let made = self.made.load(Ordering::Acquire);
        let (last, time_for_an_earlier) = last::use_heap();
        // Usually without a division.
        let last = if last < made { last } else { last % made };
        if time_for_an_earlier {
            if let Some(locked) = self.earlier(last) {
                return locked;
            }
        }
        let heap = self.heap(last);
        match heap.0.try_lock() {
            Some(locked) => locked,
            None => self.crowded(heap, last, made),
        }
    }

    /// Changes to an earlier heap, if one is unlocked. So few heaps are in use after fewer threads
    /// meet.
    #[cold]
    fn earlier(&self, last: usize) -> Option<Locked<'_>> {
        let locked = (0..last).find_map(|index| self.try_lock(index))?;
        last::set(locked.index);
        Some(locked)
    }

    /// Waits for a locked heap, or changes to another one if it is locked again and again. A thread
    /// does not leave a heap that is locked now and then, because each heap has its own free
    /// memory.
    #[cold]
    fn crowded<'a>(&'a self, heap: &'a Heap, last: usize, made: usize) -> Locked<'a> {
        if !last::miss() {
            return heap.lock();
        }
        for index in (last + 1..made).chain(0..last) {
            if let Some(locked) = self.try_lock(index) {
                last::set(index);
                return locked;
            }
        }
        match self.make() {
            Ok(Some(index)) => {
                last::set(index);
                self.lock(index)
            }
            // There are as many as there may be, or no memory for more.
            _ => heap.lock(),
        }
    }

    /// Makes this thread use a heap, for tests.
    #[cfg(all(any(test, fuzzing), not(loom)))]
    pub(super) fn go_to(&self, index: usize) {
        while self.made.load(Ordering::Acquire) <= index && matches!(self.make(), Ok(Some(_))) {}
        last::set(index % self.made.load(Ordering::Acquire));
    }

    /// Locks the heaps other than `index` one after another, as far as no other thread has locked
    /// them.
    pub(super) fn others(&self, index: usize) -> impl Iterator<Item = Locked<'_>> {
        let made = self.made.load(Ordering::Acquire);
        (index + 1..made).chain(0..index).filter_map(|index| self.try_lock(index))
    }

    /// Locks heaps as [`Heaps::others`] does, but tries each lock for a while.
    pub(super) fn others_spinning(&self, index: usize) -> impl Iterator<Item = Locked<'_>> {
        let made = self.made.load(Ordering::Acquire);
        (index + 1..made).chain(0..index).filter_map(|index| self.heap(index).try_for_a_while())
    }

    /// Gives a span of one heap with its blocks to another.
    pub(super) fn give_span(&self, from: &mut State, span: u32, to: &mut State) {
        from.space.give_span(&self.tables, span, &mut to.space);
        from.hand_over(to, |start| span_of(start) == span);
        self.given.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of spans that changed owner with something in them. It is exact while all
    /// heaps are locked.
    pub(in crate::arena) fn given(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
    }

    /// Locks the heap that owns a granule. A heap does own it, because something is taken there.
    #[inline]
    pub(super) fn of(&self, granule: u32) -> Locked<'_> {
        loop {
            let owner = self.owner(granule);
            let locked = self.lock(owner);
            // The owner may have changed before the lock was taken.
            if self.owner(granule) == owner {
                return locked;
            }
        }
    }

    #[inline]
    fn owner(&self, granule: u32) -> usize {
        let owner = self.granules().owner_at(granule).unwrap_or(FREE);
        debug_assert!(owner != FREE, "nothing is taken in a free span");
        usize::from(owner.saturating_sub(1))
    }

    pub(super) fn pool(&self) -> LockedPool<'_> {
        LockedPool { heaps: self, pool: self.pool.lock() }
    }

    /// Puts wholly free spans into the pool. They belonged to a heap that is locked.
    #[cold]
    pub(super) fn put(&self, spans: Range<u32>) {
        self.pool().put(self.granules(), spans);
    }

    /// Locks all heaps and the pool.
    pub(super) fn all(&self) -> All<'_> {
        let mut heaps = Vec::new();
        loop {
            for index in heaps.len()..self.made.load(Ordering::Acquire) {
                heaps.push(self.lock(index));
            }
            // A heap that is made from here on cannot have spans before the pool is unlocked.
            let pool = self.pool();
            if self.made.load(Ordering::Acquire) == heaps.len() {
                return All { heaps, pool };
            }
        }
    }

    /// Locks as [`Heaps::all`] does, where locks may be held for ever: in a child that was forked
    /// while another thread held one.
    pub(super) fn try_all(&self) -> Option<All<'_>> {
        let made = self.made.load(Ordering::Acquire);
        let heaps = (0..made).map(|index| self.try_lock(index)).collect::<Option<_>>()?;
        let pool = self.pool.try_lock()?;
        Some(All { heaps, pool: LockedPool { heaps: self, pool } })
    }

    /// Locks the existing heaps one after another.
    pub(super) fn each(&self) -> impl Iterator<Item = Locked<'_>> {
        (0..self.made.load(Ordering::Acquire)).map(|index| self.lock(index))
    }
}

impl<'a> All<'a> {
    /// Unlocks all but one heap.
    pub(super) fn into_heap(mut self, index: usize) -> Locked<'a> {
        self.heaps.swap_remove(index)
    }

    /// Marks that no handle is left. Returns the number of blocks that are left.
    pub(super) fn close(&mut self) -> u64 {
        self.heaps.iter_mut().for_each(|heap| heap.closed = true);
        self.heaps.iter().map(|heap| heap.holders).sum::<i64>().max(0).unsigned_abs()
    }

    /// Returns the number of free granules.
    pub(super) fn free_granules(&self) -> u32 {
        self.pool.granules() + self.heaps.iter().map(|heap| heap.space.free_granules()).sum::<u32>()
    }

    /// Marks pages as resident, whatever their owner.
    pub(super) fn touch(&mut self, tables: &Tables, run: Run) {
        let granules = &tables.granules;
        let mut at = run.start;
        while at < run.end {
            let within = granules.span(crate::space::granules::span_of(at));
            let part = Run { start: at, end: run.end.min(within.end) };
            match granules.owner_at(at).unwrap_or(FREE) {
                FREE => self.pool.touch(granules, part),
                owner => self.heaps[usize::from(owner) - 1].space.touch(tables, part),
            }
            at = part.end;
        }
    }
}
