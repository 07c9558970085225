//! Calls the user's hook with entries that left the cache.
//!
//! The hook may itself remove entries. These are kept in a list, and the hook is called for them
//! after it returned. A call from inside could nest as deep as there are entries.
#![forbid(unsafe_code)]

use std::mem;
use std::thread::{self, ThreadId};

use parking_lot::Mutex;

use super::entry::Entry;
use super::shared::Reason;
use crate::CodeArena;
use crate::sync::Arc;

/// An entry that left the cache, and the reason.
pub(super) type Removed<K, V> = (Arc<Entry<K, V>>, Reason);

type Function<K, V> = Box<dyn Fn(&Entry<K, V>, Reason) + Send + Sync>;

/// The user's hook, with the threads that run it.
pub(super) struct Hook<K, V> {
    function: Function<K, V>,
    /// The threads that run the hook. Nothing is locked after this lock.
    running: Mutex<Vec<Running<K, V>>>,
}

struct Running<K, V> {
    thread: ThreadId,
    /// The entries that the hook removed itself.
    more: Vec<Removed<K, V>>,
}

/// Ends a run of the hook when it is dropped, also after a panic.
struct End<'a, K, V> {
    hook: &'a Hook<K, V>,
    arena: &'a CodeArena,
    thread: ThreadId,
}

impl<K, V> Hook<K, V> {
    pub(super) fn new(call: impl Fn(&Entry<K, V>, Reason) + Send + Sync + 'static) -> Self {
        Self { function: Box::new(call), running: Mutex::default() }
    }

    /// Returns whether this thread runs the hook now.
    pub(super) fn runs_here(&self) -> bool {
        let thread = thread::current().id();
        self.running.lock().iter().any(|running| running.thread == thread)
    }

    /// Calls the hook with each entry, then drops the entries. The caller holds no lock.
    pub(super) fn call(&self, mut removed: Vec<Removed<K, V>>, arena: &CodeArena) {
        if removed.is_empty() {
            return;
        }
        let thread = thread::current().id();
        {
            let mut running = self.running.lock();
            if let Some(outer) = running.iter_mut().find(|running| running.thread == thread) {
                outer.more.append(&mut removed);
                return;
            }
            running.push(Running { thread, more: Vec::new() });
        }
        let end = End { hook: self, arena, thread };
        while !removed.is_empty() {
            for (entry, reason) in removed.drain(..) {
                (self.function)(&entry, reason);
            }
            if arena.is_inherited() {
                return;
            }
            removed = end.take_more();
        }
    }
}

impl<K, V> End<'_, K, V> {
    fn take_more(&self) -> Vec<Removed<K, V>> {
        let mut running = self.hook.running.lock();
        let mine = running.iter_mut().find(|running| running.thread == self.thread);
        mine.map(|running| mem::take(&mut running.more)).unwrap_or_default()
    }
}

impl<K, V> Drop for End<'_, K, V> {
    fn drop(&mut self) {
        // In a child that the hook forked, the lock may stay locked for ever.
        if self.arena.is_inherited() {
            return;
        }
        let mut running = self.hook.running.lock();
        let mine = running.iter().position(|running| running.thread == self.thread).map(|at| running.swap_remove(at));
        drop(running);
        drop(mine);
    }
}
