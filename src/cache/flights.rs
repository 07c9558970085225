//! One compilation for each key, however many threads ask.
#![forbid(unsafe_code)]

use std::borrow::Borrow;
use std::sync::OnceLock;
use std::thread::{self, ThreadId};

use parking_lot::Condvar;

use super::entry::Entry;
use super::flight::{Flight, Landing, Wait};
use super::shared::{Gone, Shared, State};
use crate::Error;
use crate::sync::{Arc, Ordering};

/// What a thread gets that found no entry.
pub(super) enum Way<'a, K, V> {
    /// Somebody else has compiled it.
    There(Arc<Entry<K, V>>),
    /// It is to compile it.
    Compile(Compiling<'a, K, V>),
}

/// This thread compiles. Dropped, it has failed.
pub(super) struct Compiling<'a, K, V> {
    shared: &'a Shared<K, V>,
    number: u64,
    landing: Arc<Landing<K, V>>,
}

impl<K, V> State<K, V> {
    /// Whether `thread` waits for a compilation of `me`, directly or by way of others.
    fn waits_for(&self, mut thread: ThreadId, me: ThreadId) -> bool {
        // A thread waits for one compilation at a time, and nobody began to wait who would have closed a circle.
        while thread != me {
            match self.waits.iter().find(|wait| wait.waiting == thread) {
                Some(wait) => thread = wait.for_thread,
                None => return false,
            }
        }
        true
    }

    /// Nobody is given from now on what is being compiled for a key; for none, for any.
    pub(super) fn make_stale<Q: Eq + ?Sized>(&mut self, of: Option<(u64, &Q)>)
    where
        K: Borrow<Q>,
    {
        for flight in &mut self.flights {
            flight.is_stale |= of.is_none_or(|(hash, key)| flight.hash == hash && flight.key.borrow() == key);
        }
    }

    pub(super) fn make_all_stale(&mut self) {
        self.flights.iter_mut().for_each(|flight| flight.is_stale = true);
    }
}

impl<K, V> Shared<K, V> {
    /// Waits for the compilation of a key, or begins it.
    pub(super) fn take_off<Q>(&self, hash: u64, key: &Q) -> Result<Way<'_, K, V>, Error>
    where
        K: Borrow<Q>,
        Q: Eq + ToOwned<Owned = K> + ?Sized,
    {
        // What users wrote, before anything is locked.
        let owned = key.to_owned();
        let landing = Arc::new(Landing { landed: Condvar::new(), entry: OnceLock::new() });
        let me = thread::current().id();
        let mut waited = false;
        let mut state = self.state.lock();
        loop {
            let there = self.table.with(hash, key, Arc::clone);
            if let Some(entry) = there {
                drop(state);
                entry.mark_used();
                return Ok(Way::There(entry));
            }
            let under_way = state.flights.iter().find(|flight| flight.hash == hash && flight.key.borrow() == key);
            let Some(flight) = under_way else { break };
            if state.waits_for(flight.thread, me) {
                return Err(Error::Recursion);
            }
            let wait = Wait { waiting: me, flight: flight.number, for_thread: flight.thread };
            let other = Arc::clone(&flight.landing);
            state.waits.push(wait);
            if !waited {
                self.figures.waited.fetch_add(1, Ordering::Relaxed);
                waited = true;
            }
            while other.entry.get().is_none() {
                other.landed.wait(&mut state);
            }
            if let Some(Some(entry)) = other.entry.get() {
                drop(state);
                return Ok(Way::There(Arc::clone(entry)));
            }
        }
        let number = state.taken_off;
        state.taken_off += 1;
        let (thread, landing_too) = (me, Arc::clone(&landing));
        state.flights.push(Flight { number, hash, key: owned, thread, is_stale: false, landing: landing_too });
        drop(state);
        Ok(Way::Compile(Compiling { shared: self, number, landing }))
    }
}

impl<K, V> Compiling<'_, K, V> {
    /// The compilation has ended well.
    pub(super) fn land(self, entry: &Arc<Entry<K, V>>) {
        self.end(Some(entry));
    }

    fn end(&self, entry: Option<&Arc<Entry<K, V>>>) {
        let mut gone = Gone::default();
        let mut state = self.shared.state.lock();
        let Some(at) = state.flights.iter().position(|flight| flight.number == self.number) else { return };
        let flight = state.flights.swap_remove(at);
        state.waits.retain(|wait| wait.flight != self.number);
        match entry {
            Some(entry) if !flight.is_stale => {
                self.shared.ripe(&mut state, &mut gone);
                // Nothing is there for the key, or the flight would be stale.
                self.shared.admit(&mut state, entry, &mut gone);
            }
            Some(entry) => entry.go_out(),
            None => {}
        }
        let _ = self.landing.entry.set(entry.filter(|_| !flight.is_stale).map(Arc::clone));
        self.landing.landed.notify_all();
        drop(state);
        drop(flight);
        self.shared.tell(gone);
    }
}

impl<K, V> Drop for Compiling<'_, K, V> {
    fn drop(&mut self) {
        // In a child that the compilation forked nobody else is there.
        if self.landing.entry.get().is_none() && !self.shared.arena.is_inherited() {
            self.end(None);
        }
    }
}
