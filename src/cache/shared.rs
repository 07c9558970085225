//! Who changes a cache, and what becomes of entries that go.
//!
//! # Locks
//!
//! Whoever changes anything holds one lock ([`Shared::state`]): compilations are so much dearer
//! that they need no more. Hits do not take it: they read one of the tables. In the order in which
//! they may be taken: the state, a table. What users wrote runs under them only as far as tables
//! cannot do without (`Eq` of keys): entries that go are collected, and told of and dropped after
//! the unlocking, because dropping code tells observers.
//!
//! # Why an entry stays where it is under a guard
//!
//! A thread that took a guard finds the entry under the lock of its table. Whoever takes the entry
//! out of the table locks it for writing, and looks for guards after that. Either the finder had
//! the lock first: then its guard is seen, and one `Arc` of the entry is laid aside until all
//! guards are gone that were there. Or the finder came later, and found nothing.
//!
//! That is the arena's proof over again, for memory that is not the arena's. The blocks in the
//! entry are dropped with it, so as a rule nobody is left that they would have to wait for.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::mem;

use parking_lot::Mutex;

use super::clock::Clock;
use super::entry::Entry;
use super::figures::{Figures, Stats};
use super::flight::Flight;
use super::hook::{Hook, Told};
use super::table::Table;
use crate::arena::{MakeRoom, Room};
use crate::sync::{Arc, Ordering};
use crate::{CodeArena, Error};

/// Why an entry is not in the cache any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The budget was needed for another entry.
    Budget,
    /// The arena was full.
    Full,
    /// [`CodeCache::insert`](super::CodeCache::insert) put another one in its place.
    Replaced,
    /// It was invalidated, or all were.
    Invalidated,
}

pub(super) struct Shared<K, V> {
    pub(super) arena: CodeArena,
    pub(super) budget: usize,
    pub(super) hook: Option<Hook<K, V>>,
    pub(super) table: Table<K, V>,
    pub(super) figures: Arc<Figures>,
    pub(super) state: Mutex<State<K, V>>,
}

pub(super) struct State<K, V> {
    /// Exactly the entries of the tables.
    order: Clock<Arc<Entry<K, V>>>,
    /// Of their code.
    bytes: usize,
    /// Entries that went, each with the epoch of the guards that it waits for: those of later
    /// epochs come later.
    laid_aside: VecDeque<(u64, Arc<Entry<K, V>>)>,
    pub(super) flights: Vec<Flight<K, V>>,
    /// How many compilations there were.
    pub(super) taken_off: u64,
}

impl<K, V> Default for State<K, V> {
    fn default() -> Self {
        Self { order: Clock::default(), bytes: 0, laid_aside: VecDeque::new(), flights: Vec::new(), taken_off: 0 }
    }
}

/// Entries that went, to be told of and dropped once nothing is locked.
#[must_use]
pub(super) struct Gone<K, V> {
    told: Vec<Told<K, V>>,
    /// Told of before.
    ripe: Vec<Arc<Entry<K, V>>>,
}

impl<K, V> Default for Gone<K, V> {
    fn default() -> Self {
        Self { told: Vec::new(), ripe: Vec::new() }
    }
}

/// How many hold an entry that nobody but the cache does: its table, and the order.
const OWN: usize = 2;

fn is_held<K, V>(entry: &Arc<Entry<K, V>>) -> bool {
    Arc::strong_count(entry) > OWN
}

impl<K, V> State<K, V> {
    /// The next one to go that has what is wanted and that nobody holds.
    fn victim(&mut self, room: Room) -> Option<Arc<Entry<K, V>>> {
        let is_spared = |entry: &Arc<Entry<K, V>>| {
            if entry.size(room) == 0 {
                return true;
            }
            let used = entry.used.load(Ordering::Relaxed);
            if used {
                entry.used.store(false, Ordering::Relaxed);
            }
            used || is_held(entry)
        };
        self.order.victim(is_spared).map(Arc::clone)
    }

    pub(super) fn entries(&self) -> Vec<Arc<Entry<K, V>>> {
        self.order.iter().map(Arc::clone).collect()
    }

    /// Bytes that wait for guards here.
    fn waiting(&self, room: Room) -> usize {
        self.laid_aside.iter().map(|(_, entry)| entry.size(room)).sum()
    }
}

impl<K, V> Shared<K, V> {
    pub(super) fn check_own(&self, what: &'static str) -> Result<(), Error> {
        if self.arena.is_inherited() { Err(Error::Forked { what }) } else { Ok(()) }
    }

    /// Takes an entry out. False if it was out already.
    pub(super) fn remove(
        &self,
        state: &mut State<K, V>,
        entry: &Arc<Entry<K, V>>,
        reason: Reason,
        gone: &mut Gone<K, V>,
    ) -> bool {
        if entry.is_out.load(Ordering::Relaxed) {
            return false;
        }
        let Some(entry) = self.table.remove(entry) else { return false };
        // Locking the table was the read-modify-write between the removal and the look at the
        // guards.
        if let Some(epoch) = self.arena.epoch_to_wait_for() {
            state.laid_aside.push_back((epoch, Arc::clone(&entry)));
        }
        drop(state.order.remove(entry.place.load(Ordering::Relaxed)));
        state.bytes -= entry.len();
        entry.go_out();
        if matches!(reason, Reason::Budget | Reason::Full) {
            self.figures.evictions.fetch_add(1, Ordering::Relaxed);
        }
        self.note(state);
        gone.told.push((entry, reason));
        true
    }

    /// Puts an entry in whose key is not there, unless it is too large. What has to go for it goes
    /// first.
    pub(super) fn admit(&self, state: &mut State<K, V>, entry: &Arc<Entry<K, V>>, gone: &mut Gone<K, V>) {
        let is_too_much = |bytes: usize| bytes + entry.len() > self.budget;
        if is_too_much(0) || is_too_much(state.bytes) && !self.may_evict() {
            entry.go_out();
            return;
        }
        while is_too_much(state.bytes) {
            // If all are held, those go too: their holders keep them.
            let next = state.victim(Room::Code).or_else(|| state.order.victim(|_| false).map(Arc::clone));
            let Some(victim) = next else { break };
            self.remove(state, &victim, Reason::Budget, gone);
        }
        entry.place.store(state.order.push(Arc::clone(entry)), Ordering::Relaxed);
        state.bytes += entry.len();
        self.table.insert(Arc::clone(entry));
        self.note(state);
    }

    fn note(&self, state: &State<K, V>) {
        self.figures.entries.store(state.order.len() as u64, Ordering::Relaxed);
        self.figures.bytes.store(state.bytes as u64, Ordering::Relaxed);
    }

    /// Collects what need not wait for guards any more.
    pub(super) fn ripe(&self, state: &mut State<K, V>, gone: &mut Gone<K, V>) {
        if state.laid_aside.is_empty() {
            return;
        }
        // Of what waits only a look at the guards counts that comes after the state was locked.
        let oldest = self.arena.oldest_guard();
        while state.laid_aside.front().is_some_and(|(epoch, _)| oldest.is_none_or(|oldest| *epoch < oldest)) {
            gone.ripe.extend(state.laid_aside.pop_front().map(|(_, entry)| entry));
        }
    }

    /// Tells of what went and drops it. Nothing is locked.
    pub(super) fn tell(&self, gone: Gone<K, V>) {
        let Gone { told, ripe } = gone;
        if let Some(hook) = &self.hook {
            hook.tell(told, &self.arena);
        }
        drop(ripe);
    }

    /// Whether what happens on this thread may make entries go that it does not name. Inside of the
    /// hook that would have no end: the hook hears of each, and may compile again.
    fn may_evict(&self) -> bool {
        !self.hook.as_ref().is_some_and(Hook::runs_here)
    }

    pub(super) fn stats(&self) -> Stats {
        let (hits, misses) = self.table.counts();
        if !self.arena.is_inherited() {
            let mut gone = Gone::default();
            self.ripe(&mut self.state.lock(), &mut gone);
            drop(gone);
        }
        let figure = |figure: &crate::sync::AtomicU64| figure.load(Ordering::Relaxed);
        Stats {
            hits,
            misses,
            evictions: figure(&self.figures.evictions),
            entries: figure(&self.figures.entries) as usize,
            bytes: figure(&self.figures.bytes) as usize,
            held: figure(&self.figures.held) as usize,
            waited: figure(&self.figures.waited),
        }
    }
}

impl<K: Send + Sync, V: Send + Sync> MakeRoom for Shared<K, V> {
    fn make_room(&self, room: Room, asked: usize, waiting: usize) -> Result<(), usize> {
        if self.arena.is_inherited() {
            return Err(0);
        }
        let mut gone = Gone::default();
        let mut state = self.state.lock();
        self.ripe(&mut state, &mut gone);
        // Those that somebody still holds free nothing.
        let alone = gone.ripe.iter().filter(|entry| Arc::strong_count(entry) == 1);
        let mut freed: usize = alone.map(|entry| entry.size(room)).sum();
        let mut aside = state.waiting(room);
        let may_evict = self.may_evict();
        while may_evict && freed < asked && waiting + aside < asked {
            let Some(victim) = state.victim(room) else { break };
            let before = state.laid_aside.len();
            self.remove(&mut state, &victim, Reason::Full, &mut gone);
            *(if state.laid_aside.len() > before { &mut aside } else { &mut freed }) += victim.size(room);
        }
        drop(state);
        self.tell(gone);
        if freed > 0 { Ok(()) } else { Err(aside) }
    }
}

impl<K, V> Drop for Shared<K, V> {
    fn drop(&mut self) {
        if self.arena.is_inherited() {
            // A thread of the parent's may have been in the middle of a change.
            self.table.leak();
            mem::forget(mem::take(self.state.get_mut()));
        }
    }
}
