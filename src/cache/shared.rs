//! The state of a cache: how entries enter and leave it.
//!
//! ```text
//!           admit                 remove
//! compiled -------> in the cache --------> removed ---- locks released, hook called ----> dropped
//!                                    |
//!                 if there are guards '--> waits for guards --- collect_ready, release --> dropped
//! ```
//!
//! An entry that waits for guards is held by one more count. The hook is called at once for it
//! too.
//!
//! # Locks
//!
//! Every change is made under one lock ([`Shared::state`]). One is enough, because a compilation
//! takes much longer than a change. Hits do not take it; they read a shard of the table. The order
//! is: the state, a shard of the table, the process's list of waits.
//!
//! The only code of users that runs under these locks is the `Eq` of keys, which a table needs.
//! Entries that leave are collected. The hook is called with them, and they are dropped, after the
//! locks are released, because dropping code calls observers.
//!
//! # Why an entry lives as long as a guard
//!
//! A thread that took a guard finds the entry under the lock of its shard. A thread that removes
//! the entry locks the shard for writing, and reads the guards after that. There are two cases:
//!
//! - The finder had the lock first. Then the remover sees its guard, and keeps one `Arc` of the
//!   entry until all guards have ended that existed.
//! - The remover had the lock first. Then the finder finds nothing.
//!
//! The arena has the same proof, for its own memory. The blocks in the entry are dropped with it,
//! when usually no guard is left that they would have to wait for.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::mem;

use parking_lot::Mutex;

use super::clock::Clock;
use super::compilation::Compilation;
use super::entry::Entry;
use super::figures::{Figures, Stats};
use super::hook::{Hook, Removed};
use super::table::Table;
use crate::arena::{MakeRoom, Room};
use crate::sync::{Arc, Ordering};
use crate::{CodeArena, Error};

/// The reason why an entry left the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The budget was needed for another entry.
    Budget,
    /// The arena was full.
    Full,
    /// [`CodeCache::insert`](super::CodeCache::insert) put another one in its place.
    Replaced,
    /// The entry was invalidated, or all entries were.
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
    /// The same entries as in the table.
    order: Clock<Arc<Entry<K, V>>>,
    /// The bytes of their code.
    bytes: usize,
    /// Entries that left and wait for guards, each with the epoch of the guards that it waits for,
    /// in the order of epochs.
    waiting: VecDeque<(u64, Arc<Entry<K, V>>)>,
    pub(super) compilations: Vec<Compilation<K, V>>,
    /// The number of compilations that were begun.
    pub(super) begun: u64,
}

impl<K, V> Default for State<K, V> {
    fn default() -> Self {
        Self { order: Clock::default(), bytes: 0, waiting: VecDeque::new(), compilations: Vec::new(), begun: 0 }
    }
}

/// Entries that left. The hook is called with them, and they are dropped, after all locks are
/// released.
#[must_use]
pub(super) struct Gone<K, V> {
    removed: Vec<Removed<K, V>>,
    /// Entries that waited for guards. The hook was called with them before.
    ready: Vec<Arc<Entry<K, V>>>,
}

impl<K, V> Default for Gone<K, V> {
    fn default() -> Self {
        Self { removed: Vec::new(), ready: Vec::new() }
    }
}

/// The count of an `Arc` that only the cache holds: by its table, and by the order.
const OWN: usize = 2;

fn is_held<K, V>(entry: &Arc<Entry<K, V>>) -> bool {
    Arc::strong_count(entry) > OWN
}

impl<K, V> State<K, V> {
    /// Returns the next entry to evict: one that frees `room`, was not used, and is not held.
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

    /// Returns how many bytes of `room` wait for guards in entries that left.
    fn waiting_bytes(&self, room: Room) -> usize {
        self.waiting.iter().map(|(_, entry)| entry.size(room)).sum()
    }
}

impl<K, V> Shared<K, V> {
    pub(super) fn check_own(&self, what: &'static str) -> Result<(), Error> {
        if self.arena.is_inherited() { Err(Error::Forked { what }) } else { Ok(()) }
    }

    /// Removes an entry from the cache. Returns false if it was removed before.
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
        // Locking the table is the read-modify-write between the removal and the reading of the
        // guards.
        if let Some(epoch) = self.arena.epoch_to_wait_for() {
            state.waiting.push_back((epoch, Arc::clone(&entry)));
        }
        drop(state.order.remove(entry.place.load(Ordering::Relaxed)));
        state.bytes -= entry.len();
        entry.leave();
        if matches!(reason, Reason::Budget | Reason::Full) {
            self.figures.evictions.fetch_add(1, Ordering::Relaxed);
        }
        self.note(state);
        gone.removed.push((entry, reason));
        true
    }

    /// Adds an entry, unless it is too large. Its key must not be in the cache. Other entries are
    /// evicted first if the budget requires it.
    pub(super) fn admit(&self, state: &mut State<K, V>, entry: &Arc<Entry<K, V>>, gone: &mut Gone<K, V>) {
        let is_too_much = |bytes: usize| bytes + entry.len() > self.budget;
        if is_too_much(0) || is_too_much(state.bytes) && !self.may_evict() {
            entry.leave();
            return;
        }
        while is_too_much(state.bytes) {
            // If all entries are held, held ones leave too. Their holders keep them alive.
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

    /// Moves the entries that wait for no guard any more to `gone`.
    pub(super) fn collect_ready(&self, state: &mut State<K, V>, gone: &mut Gone<K, V>) {
        if state.waiting.is_empty() {
            return;
        }
        // The guards are read after the state was locked, so after each of these entries was
        // removed.
        let oldest = self.arena.oldest_guard();
        while state.waiting.front().is_some_and(|(epoch, _)| oldest.is_none_or(|oldest| *epoch < oldest)) {
            gone.ready.extend(state.waiting.pop_front().map(|(_, entry)| entry));
        }
    }

    /// Calls the hook with the entries that left, and drops them. The caller holds no lock.
    pub(super) fn release(&self, gone: Gone<K, V>) {
        let Gone { removed, ready } = gone;
        if let Some(hook) = &self.hook {
            hook.call(removed, &self.arena);
        }
        drop(ready);
    }

    /// Returns whether a call on this thread may evict entries. Inside of the hook it may not,
    /// because that would not end: the hook is called for each evicted entry, and may compile
    /// again.
    fn may_evict(&self) -> bool {
        !self.hook.as_ref().is_some_and(Hook::runs_here)
    }

    pub(super) fn stats(&self) -> Stats {
        let (hits, misses) = self.table.counts();
        if !self.arena.is_inherited() {
            let mut gone = Gone::default();
            self.collect_ready(&mut self.state.lock(), &mut gone);
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
        self.collect_ready(&mut state, &mut gone);
        // Entries that somebody holds free nothing.
        let alone = gone.ready.iter().filter(|entry| Arc::strong_count(entry) == 1);
        let mut freed: usize = alone.map(|entry| entry.size(room)).sum();
        let mut kept = state.waiting_bytes(room);
        let may_evict = self.may_evict();
        while may_evict && freed < asked && waiting + kept < asked {
            let Some(victim) = state.victim(room) else { break };
            let before = state.waiting.len();
            self.remove(&mut state, &victim, Reason::Full, &mut gone);
            *(if state.waiting.len() > before { &mut kept } else { &mut freed }) += victim.size(room);
        }
        drop(state);
        self.release(gone);
        if freed > 0 { Ok(()) } else { Err(kept) }
    }
}

impl<K, V> Drop for Shared<K, V> {
    fn drop(&mut self) {
        if self.arena.is_inherited() {
            // A thread of the parent may have been in the middle of a change.
            self.table.leak();
            mem::forget(mem::take(self.state.get_mut()));
        }
    }
}
