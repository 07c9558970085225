//! Compilations under way.
#![forbid(unsafe_code)]

use std::sync::OnceLock;
use std::thread::ThreadId;

use parking_lot::Condvar;

use super::entry::Entry;
use crate::sync::Arc;

/// A compilation under way.
pub(super) struct Flight<K, V> {
    pub(super) number: u64,
    pub(super) hash: u64,
    pub(super) key: K,
    pub(super) thread: ThreadId,
    /// Its key was invalidated, or got another entry: what comes of it is not for those who ask
    /// from then on.
    pub(super) is_stale: bool,
    /// Somebody waits for it.
    pub(super) is_awaited: bool,
    pub(super) landing: Arc<Landing<K, V>>,
}

/// Where those wait that want the same. Used with the lock of the state.
pub(super) struct Landing<K, V> {
    pub(super) landed: Condvar,
    /// Set at the end: to nothing if it failed, or is stale.
    pub(super) entry: OnceLock<Option<Arc<Entry<K, V>>>>,
}
