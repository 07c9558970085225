//! Room for a batch in a full arena, from whoever keeps code that can go.
#![forbid(unsafe_code)]

use super::Batch;
use crate::Error;
use crate::sync::Arc;

/// Keeps code that can be dropped.
pub(crate) trait MakeRoom: Send + Sync {
    /// Drops code until at least `asked` bytes came free, or as much waits for guards. `waiting` bytes do already, in the arena.
    ///
    /// # Errors
    /// If nothing came free: the bytes that wait for guards and that the arena does not know of.
    fn make_room(&self, asked: usize, waiting: usize) -> Result<(), usize>;
}

impl Batch {
    /// Lets `room` make room when the arena is full.
    #[cfg_attr(any(not(feature = "cache"), loom), allow(dead_code, reason = "for the cache"))]
    pub(crate) fn set_on_full(&mut self, room: Arc<dyn MakeRoom>) {
        self.on_full = Some(room);
    }

    /// Makes room, if that is what was missing and somebody can. Each time that it succeeds something came free.
    #[cold]
    pub(super) fn make_room(&self, error: Error) -> Result<(), Error> {
        let (&Error::ArenaFull { asked, free, largest_hole, waiting }, Some(room)) = (&error, &self.on_full) else {
            return Err(error);
        };
        let made = room.make_room(asked, waiting);
        // Whoever hears of what was dropped may have forked.
        self.core.memory.check_own("publish")?;
        made.map_err(|more| Error::ArenaFull { asked, free, largest_hole, waiting: waiting + more })
    }
}
