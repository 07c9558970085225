//! Compilations that are running.
#![forbid(unsafe_code)]

use std::sync::OnceLock;
use std::thread::ThreadId;

use parking_lot::Condvar;

use super::entry::Entry;
use crate::sync::Arc;

/// A compilation that is running.
pub(super) struct Compilation<K, V> {
    pub(super) number: u64,
    pub(super) hash: u64,
    pub(super) key: K,
    pub(super) thread: ThreadId,
    /// Whether its key was invalidated or got another entry meanwhile. Callers that ask from then
    /// on do not get its result.
    pub(super) is_stale: bool,
    /// Whether a thread waits for it.
    pub(super) is_awaited: bool,
    pub(super) outcome: Arc<Outcome<K, V>>,
}

/// The result of a compilation, with the threads that wait for it. Used with the lock of the state.
pub(super) struct Outcome<K, V> {
    pub(super) ended: Condvar,
    /// Set when the compilation ends: to `None` if it failed or is stale.
    pub(super) entry: OnceLock<Option<Arc<Entry<K, V>>>>,
}
