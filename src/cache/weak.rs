//! A reference to a cache that does not keep it alive.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Weak;

use super::CodeCache;
use super::shared::Shared;
use crate::sync::Arc;

/// A reference to a cache that does not keep the cache alive. A hook or a value that the cache
/// keeps uses it to refer to its cache.
///
/// ```
/// # use gaia_jit::{CodeArena, cache::CodeCache};
/// # let arena = CodeArena::builder().capacity(1 << 20).build()?;
/// let cache: CodeCache<u8> = CodeCache::builder(arena).build();
/// let weak = cache.downgrade();
/// assert!(weak.upgrade().is_some());
/// drop(cache);
/// assert!(weak.upgrade().is_none());
/// # Ok::<(), gaia_jit::Error>(())
/// ```
pub struct WeakCache<K, V = ()> {
    shared: Weak<Shared<K, V>>,
}

impl<K, V> WeakCache<K, V> {
    /// Returns the cache, while a handle of it exists or a compilation runs.
    pub fn upgrade(&self) -> Option<CodeCache<K, V>> {
        Some(CodeCache { shared: self.shared.upgrade()? })
    }
}

impl<K, V> CodeCache<K, V> {
    /// Returns a reference that does not keep the cache alive.
    pub fn downgrade(&self) -> WeakCache<K, V> {
        WeakCache { shared: Arc::downgrade(&self.shared) }
    }
}

impl<K, V> Clone for WeakCache<K, V> {
    fn clone(&self) -> Self {
        Self { shared: Weak::clone(&self.shared) }
    }
}

impl<K, V> fmt::Debug for WeakCache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakCache").field("has_handles", &(self.shared.strong_count() > 0)).finish()
    }
}
