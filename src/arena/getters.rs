//! What an arena says of itself without a lock: its mode and its place.
#![forbid(unsafe_code)]

use super::CodeArena;
use crate::{Error, WxMode};

impl CodeArena {
    /// Returns the mode of the arena: how it keeps W^X.
    pub fn mode(&self) -> WxMode {
        self.core().memory.mode()
    }

    /// Returns the modes that the system refused before it allowed [`CodeArena::mode`], each with
    /// the reason.
    ///
    /// The list is empty unless the arena was built with
    /// [`ArenaBuilder::modes`](crate::ArenaBuilder::modes).
    ///
    /// ```
    /// # use gaia_jit::{CodeArena, WxMode};
    /// let arena = CodeArena::builder().capacity(1 << 20).modes(&[WxMode::PerThread, WxMode::Flip]).build()?;
    /// for (mode, why) in arena.refused() {
    ///     println!("not {mode:?}: {why}");
    /// }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn refused(&self) -> &[(WxMode, Error)] {
        &self.core().refused
    }

    /// Returns the address of the first byte that can be code.
    pub fn base(&self) -> *const u8 {
        self.core().memory.address(self.core().memory.first())
    }

    /// Returns the bytes of address space for code.
    pub fn capacity(&self) -> usize {
        self.core().memory.capacity()
    }

    /// Returns whether `address` lies in the arena's address space for code or for data, whether or
    /// not it is in use.
    pub fn contains(&self, address: *const u8) -> bool {
        self.core().memory.contains(address)
    }

    /// Returns whether a direct branch reaches from every byte of the arena to `address` and back,
    /// without a [stub](crate::Batch::reserve_with_stubs).
    ///
    /// ```
    /// # use gaia_jit::CodeArena;
    /// let arena = CodeArena::builder().capacity(1 << 20).build()?;
    /// let end = arena.base().wrapping_add(arena.capacity());
    /// assert!(arena.reaches(arena.base()) && arena.reaches(end));
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn reaches(&self, address: *const u8) -> bool {
        self.core().reaches(address)
    }

    /// Returns whether this process is a forked child that inherited the arena. Its code can then
    /// be run, looked up and dropped here. Every call that changes the arena returns
    /// [`Error::Forked`].
    ///
    /// ```
    /// let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// assert!(!arena.is_inherited()); // true in a child that this process forks
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn is_inherited(&self) -> bool {
        !self.core().memory.is_own()
    }
}
