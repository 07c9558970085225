//! One compilation for each key, even if many threads ask for it at the same time.
//!
//! ```text
//! thread A  miss -> find_or_begin: Compile --- compiles, without a lock --- finish -> entry
//! thread B          miss -> find_or_begin ... waits for A's outcome ................. entry
//! ```
//!
//! The thread that finds neither an entry nor a running compilation of its key begins one. Other
//! threads wait for its [`Outcome`]. If it fails, or if its key was invalidated meanwhile, the next
//! waiting thread compiles. A thread that would wait for itself, directly or through other
//! compilations, gets an error instead ([`waits`]).
//!
//! All of this is under the lock of the cache's state; the lock of [`waits`] is taken after it.
#![forbid(unsafe_code)]

use std::borrow::Borrow;
use std::sync::OnceLock;
use std::thread;

use parking_lot::Condvar;

use super::compilation::{Compilation, Outcome};
use super::entry::Entry;
use super::shared::{Gone, Shared, State};
use super::waits;
use crate::Error;
use crate::sync::{Arc, Ordering};

/// The next step of a thread that found no entry.
pub(super) enum Way<'a, K, V> {
    /// Another thread has compiled the entry.
    Found(Arc<Entry<K, V>>),
    /// This thread has to compile the entry.
    Compile(Compiling<'a, K, V>),
}

/// A compilation by this thread. If it is dropped before [`finish`](Self::finish), it has failed.
pub(super) struct Compiling<'a, K, V> {
    shared: &'a Shared<K, V>,
    number: u64,
    outcome: Arc<Outcome<K, V>>,
}

impl<K, V> State<K, V> {
    /// Marks the running compilation of a key as stale: callers that ask from now on do not get its
    /// result. Without a key, marks all running compilations.
    pub(super) fn make_stale<Q: Eq + ?Sized>(&mut self, of: Option<(u64, &Q)>)
    where
        K: Borrow<Q>,
    {
        for compilation in &mut self.compilations {
            compilation.is_stale |=
                of.is_none_or(|(hash, key)| compilation.hash == hash && compilation.key.borrow() == key);
        }
    }

    pub(super) fn make_all_stale(&mut self) {
        self.compilations.iter_mut().for_each(|compilation| compilation.is_stale = true);
    }
}

impl<K, V> Shared<K, V> {
    /// Waits for the running compilation of a key, or begins one.
    ///
    /// # Errors
    /// - [`Error::Recursion`] if the compilation waits for this thread.
    pub(super) fn find_or_begin<Q>(&self, hash: u64, key: &Q) -> Result<Way<'_, K, V>, Error>
    where
        K: Borrow<Q>,
        Q: Eq + ToOwned<Owned = K> + ?Sized,
    {
        // The key's `to_owned` is the user's code, so it is called before anything is locked.
        let owned = key.to_owned();
        let outcome = Arc::new(Outcome { ended: Condvar::new(), entry: OnceLock::new() });
        let me = thread::current().id();
        let mut waited = false;
        let mut state = self.state.lock();
        loop {
            let there = self.table.with(hash, key, Arc::clone);
            if let Some(entry) = there {
                drop(state);
                entry.mark_used();
                return Ok(Way::Found(entry));
            }
            let is_it =
                |compilation: &&mut Compilation<K, V>| compilation.hash == hash && compilation.key.borrow() == key;
            let Some(compilation) = state.compilations.iter_mut().find(is_it) else { break };
            let other = Arc::clone(&compilation.outcome);
            waits::begin(me, address_of(&other), compilation.thread)?;
            compilation.is_awaited = true;
            if !waited {
                self.figures.waited.fetch_add(1, Ordering::Relaxed);
                waited = true;
            }
            while other.entry.get().is_none() {
                other.ended.wait(&mut state);
            }
            if let Some(Some(entry)) = other.entry.get() {
                drop(state);
                return Ok(Way::Found(Arc::clone(entry)));
            }
        }
        let number = state.begun;
        state.begun += 1;
        let (thread, outcome_too) = (me, Arc::clone(&outcome));
        state.compilations.push(Compilation {
            number,
            hash,
            key: owned,
            thread,
            is_stale: false,
            is_awaited: false,
            outcome: outcome_too,
        });
        drop(state);
        Ok(Way::Compile(Compiling { shared: self, number, outcome }))
    }
}

/// Returns a number that no other live outcome has.
fn address_of<K, V>(outcome: &Arc<Outcome<K, V>>) -> usize {
    Arc::as_ptr(outcome).addr()
}

impl<K, V> Compiling<'_, K, V> {
    /// Ends the compilation with its entry.
    pub(super) fn finish(self, entry: &Arc<Entry<K, V>>) {
        self.end(Some(entry));
    }

    fn end(&self, entry: Option<&Arc<Entry<K, V>>>) {
        let mut gone = Gone::default();
        let mut state = self.shared.state.lock();
        let Some(at) = state.compilations.iter().position(|compilation| compilation.number == self.number) else {
            return;
        };
        let compilation = state.compilations.swap_remove(at);
        if compilation.is_awaited {
            waits::end(address_of(&self.outcome));
        }
        match entry {
            Some(entry) if !compilation.is_stale => {
                self.shared.collect_ready(&mut state, &mut gone);
                // The key has no entry, because otherwise the compilation would be stale.
                self.shared.admit(&mut state, entry, &mut gone);
            }
            Some(entry) => entry.leave(),
            None => {}
        }
        let _ = self.outcome.entry.set(entry.filter(|_| !compilation.is_stale).map(Arc::clone));
        self.outcome.ended.notify_all();
        drop(state);
        drop(compilation);
        self.shared.release(gone);
    }
}

impl<K, V> Drop for Compiling<'_, K, V> {
    fn drop(&mut self) {
        // A child that the compilation forked has no other thread that could wait.
        if self.outcome.entry.get().is_none() && !self.shared.arena.is_inherited() {
            self.end(None);
        }
    }
}
