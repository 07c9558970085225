//! Events: calls of an arena's observers.
//!
//! [`observer`] is the trait. [`observers`] is the list of one arena. [`announce`] makes the calls,
//! with functions as they are [`described`]. [`kept`] keeps the notes for observers that are added
//! late, and [`attach`] adds them.
//!
//! ```text
//! publish --> notes are kept --> published(...)      no lock is held
//! drop    --> notes are removed --> retired(...)     no heap is locked
//!         --> no guard is left --> freed(...)        `system` may be held: the observer must not use the arena
//! ```

pub(super) mod announce;
pub(super) mod attach;
pub(super) mod described;
pub(super) mod kept;
pub(super) mod observer;
pub(super) mod observers;
