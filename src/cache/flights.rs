//! One compilation for each key, however many threads ask.
#![forbid(unsafe_code)]

use std::borrow::Borrow;
use std::sync::OnceLock;
use std::thread;

use parking_lot::Condvar;

use super::entry::Entry;
use super::flight::{Flight, Landing};
use super::shared::{Gone, Shared, State};
use super::waits;
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
            let is_it = |flight: &&mut Flight<K, V>| flight.hash == hash && flight.key.borrow() == key;
            let Some(flight) = state.flights.iter_mut().find(is_it) else { break };
            let other = Arc::clone(&flight.landing);
            waits::begin(me, address_of(&other), flight.thread)?;
            flight.is_awaited = true;
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
        state.flights.push(Flight {
            number,
            hash,
            key: owned,
            thread,
            is_stale: false,
            is_awaited: false,
            landing: landing_too,
        });
        drop(state);
        Ok(Way::Compile(Compiling { shared: self, number, landing }))
    }
}

/// What tells a landing from all others that there are.
fn address_of<K, V>(landing: &Arc<Landing<K, V>>) -> usize {
    Arc::as_ptr(landing).addr()
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
        if flight.is_awaited {
            waits::end(address_of(&self.landing));
        }
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
