//! Room for a batch in a full arena, from whoever keeps code that can go.
#![forbid(unsafe_code)]

use super::Batch;
use crate::Error;
use crate::sync::Arc;

/// What there is no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Code,
    Data,
}

/// Keeps code that can be dropped, and data with it.
pub(crate) trait MakeRoom: Send + Sync {
    /// Drops what it keeps until at least `asked` bytes of `room` came free, or as much waits for
    /// guards. `waiting` bytes do already, in the arena.
    ///
    /// # Errors
    /// If nothing came free: the bytes that wait for guards and that the arena does not know of.
    fn make_room(&self, room: Room, asked: usize, waiting: usize) -> Result<(), usize>;
}

impl Batch {
    /// Lets `room` make room when the arena is full.
    #[cfg_attr(any(not(feature = "cache"), loom), allow(dead_code, reason = "for the cache"))]
    pub(crate) fn set_on_full(&mut self, room: Arc<dyn MakeRoom>) {
        self.on_full = Some(room);
    }

    /// Makes room, if that is what was missing and somebody can. Each time that it succeeds
    /// something came free.
    #[cold]
    pub(super) fn make_room(&self, mut error: Error) -> Result<(), Error> {
        let (room, asked, waiting) = match error {
            Error::ArenaFull { asked, waiting, .. } => (Room::Code, asked, waiting),
            Error::DataFull { asked, waiting, .. } => (Room::Data, asked, waiting),
            _ => return Err(error),
        };
        let Some(keeper) = &self.on_full else { return Err(error) };
        let made = keeper.make_room(room, asked, waiting);
        // Whoever hears of what was dropped may have forked.
        self.core.memory.check_own("publish")?;
        made.map_err(|more| {
            if let Error::ArenaFull { waiting, .. } | Error::DataFull { waiting, .. } = &mut error {
                *waiting += more;
            }
            error
        })
    }
}
