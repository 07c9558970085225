//! Room for a batch in a full arena, made by an owner of code that can be evicted.
#![forbid(unsafe_code)]

use super::Batch;
use crate::Error;
use crate::sync::Arc;

/// The kind of space that a batch lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Code,
    Data,
}

/// An owner of code that can be dropped, and of data with it.
pub(crate) trait MakeRoom: Send + Sync {
    /// Drops code until at least `asked` bytes of `room` are free or wait for guards. In the arena
    /// `waiting` bytes already wait for guards.
    ///
    /// # Errors
    /// - The number of further bytes that wait for guards, which the arena does not count, if
    ///   nothing was freed.
    fn make_room(&self, room: Room, asked: usize, waiting: usize) -> Result<(), usize>;
}

impl Batch {
    /// Sets the owner that is asked for room when the arena is full.
    #[cfg_attr(any(not(feature = "cache"), loom), allow(dead_code, reason = "for the cache"))]
    pub(crate) fn set_on_full(&mut self, room: Arc<dyn MakeRoom>) {
        self.on_full = Some(room);
    }

    /// Makes room, if `error` is a lack of space and the batch has an owner to ask. `Ok` means that
    /// some space was freed.
    #[cold]
    pub(super) fn make_room(&self, mut error: Error) -> Result<(), Error> {
        let (room, asked, waiting) = match error {
            Error::ArenaFull { asked, waiting, .. } => (Room::Code, asked, waiting),
            Error::DataFull { asked, waiting, .. } => (Room::Data, asked, waiting),
            _ => return Err(error),
        };
        let Some(keeper) = &self.on_full else { return Err(error) };
        let made = keeper.make_room(room, asked, waiting);
        // A callback that was called about dropped code may have forked.
        self.core.memory.check_own("publish")?;
        made.map_err(|more| {
            if let Error::ArenaFull { waiting, .. } | Error::DataFull { waiting, .. } = &mut error {
                *waiting += more;
            }
            error
        })
    }
}
