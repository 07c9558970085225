//! A weak reference to an arena.
#![forbid(unsafe_code)]

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Weak;

use super::CodeArena;
use super::handle::Handle;
use crate::sync::Arc;

/// A reference to an arena that does not keep it alive. It is for things that the arena itself
/// keeps, such as an observer that uses its arena.
///
/// (An observer with a [`CodeArena`] would keep the arena that keeps the observer, so neither would
/// ever be freed.)
///
/// ```
/// # use gaia_jit::CodeArena;
/// let arena = CodeArena::builder().capacity(1 << 20).build()?;
/// let weak = arena.downgrade();
/// assert_eq!(weak.upgrade().map(|arena| arena.base()), Some(arena.base()));
/// drop(arena);
/// assert!(weak.upgrade().is_none());
/// # Ok::<(), gaia_jit::Error>(())
/// ```
#[derive(Clone)]
pub struct WeakArena {
    handle: Weak<Handle>,
}

// As for `CodeArena`.
impl UnwindSafe for WeakArena {}
impl RefUnwindSafe for WeakArena {}

impl WeakArena {
    /// Returns the arena, as long as it has a handle: a [`CodeArena`], an open batch, or data.
    /// Blocks alone keep the memory, but not the arena.
    pub fn upgrade(&self) -> Option<CodeArena> {
        Some(CodeArena { handle: self.handle.upgrade()? })
    }
}

impl CodeArena {
    /// Returns a reference that does not keep the arena alive.
    pub fn downgrade(&self) -> WeakArena {
        WeakArena { handle: Arc::downgrade(&self.handle) }
    }
}

impl fmt::Debug for WeakArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakArena").field("has_handles", &(self.handle.strong_count() > 0)).finish()
    }
}
