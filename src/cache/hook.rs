//! Tells the user of entries that went.
#![forbid(unsafe_code)]

use std::mem;
use std::thread::{self, ThreadId};

use parking_lot::Mutex;

use super::entry::Entry;
use super::shared::Reason;
use crate::CodeArena;
use crate::sync::Arc;

/// An entry that went, and why.
pub(super) type Told<K, V> = (Arc<Entry<K, V>>, Reason);

type Call<K, V> = Box<dyn Fn(&Entry<K, V>, Reason) + Send + Sync>;

/// What hears of entries that went.
pub(super) struct Hook<K, V> {
    call: Call<K, V>,
    /// Threads on which it runs. Nothing is locked inside of this lock.
    running: Mutex<Vec<Running<K, V>>>,
}

struct Running<K, V> {
    thread: ThreadId,
    /// What the hook itself made go: it hears of that next, and not from inside, which could go as
    /// deep as there are entries.
    more: Vec<Told<K, V>>,
}

/// Ends a run, also by a panic.
struct End<'a, K, V> {
    hook: &'a Hook<K, V>,
    arena: &'a CodeArena,
    thread: ThreadId,
}

impl<K, V> Hook<K, V> {
    pub(super) fn new(call: impl Fn(&Entry<K, V>, Reason) + Send + Sync + 'static) -> Self {
        Self { call: Box::new(call), running: Mutex::default() }
    }

    /// Whether this thread is inside of the hook.
    pub(super) fn runs_here(&self) -> bool {
        let thread = thread::current().id();
        self.running.lock().iter().any(|running| running.thread == thread)
    }

    /// Tells of entries and drops them. Nothing is locked.
    pub(super) fn tell(&self, mut told: Vec<Told<K, V>>, arena: &CodeArena) {
        if told.is_empty() {
            return;
        }
        let thread = thread::current().id();
        {
            let mut running = self.running.lock();
            if let Some(outer) = running.iter_mut().find(|running| running.thread == thread) {
                outer.more.append(&mut told);
                return;
            }
            running.push(Running { thread, more: Vec::new() });
        }
        let end = End { hook: self, arena, thread };
        while !told.is_empty() {
            for (entry, reason) in told.drain(..) {
                (self.call)(&entry, reason);
            }
            if arena.is_inherited() {
                return;
            }
            told = end.take_more();
        }
    }
}

impl<K, V> End<'_, K, V> {
    fn take_more(&self) -> Vec<Told<K, V>> {
        let mut running = self.hook.running.lock();
        let mine = running.iter_mut().find(|running| running.thread == self.thread);
        mine.map(|running| mem::take(&mut running.more)).unwrap_or_default()
    }
}

impl<K, V> Drop for End<'_, K, V> {
    fn drop(&mut self) {
        // In a child that the hook forked, the lock may be held for ever.
        if self.arena.is_inherited() {
            return;
        }
        let mut running = self.hook.running.lock();
        let mine = running.iter().position(|running| running.thread == self.thread).map(|at| running.swap_remove(at));
        drop(running);
        drop(mine);
    }
}
