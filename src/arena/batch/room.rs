//! Room for a batch in a full arena, made by an owner of code that can be evicted.
#![forbid(unsafe_code)]

use std::thread;
use std::time::Duration;

use super::Batch;
use crate::Error;
use crate::sync::Arc;

/// How often one call gives way to other threads, so that they can end their guards. Most guards
/// are short. A guard of the calling thread itself does not end meanwhile, so this must not be
/// long.
pub(super) const TURNS: u32 = 100;
/// How many of these turns are naps, which come last. A thread that has a guard may be waiting for
/// another processor.
const NAPS: u32 = 30;
const NAP: Duration = Duration::from_micros(20);

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

    /// Makes room, if `error` is a lack of space and the batch has an owner to ask. If all that was
    /// dropped waits for guards, it waits for them, for as many turns as are left. `Ok` means that
    /// some space was freed, or that those guards have ended.
    #[cold]
    pub(super) fn make_room(&self, mut error: Error, turns: &mut u32) -> Result<(), Error> {
        let (room, asked, waiting) = match error {
            Error::ArenaFull { asked, waiting, .. } => (Room::Code, asked, waiting),
            Error::DataFull { asked, waiting, .. } => (Room::Data, asked, waiting),
            _ => return Err(error),
        };
        let Some(keeper) = &self.on_full else { return Err(error) };
        let made = keeper.make_room(room, asked, waiting);
        // A callback that was called about dropped code may have forked.
        self.core.memory.check_own("publish")?;
        made.or_else(|more| {
            if waiting + more > 0 && self.guards_end(turns) {
                return Ok(());
            }
            if let Error::ArenaFull { waiting, .. } | Error::DataFull { waiting, .. } = &mut error {
                *waiting += more;
            }
            Err(error)
        })
    }

    /// Gives way to other threads until the guards that there are have ended. Returns false if they
    /// have not when no turns are left.
    fn guards_end(&self, turns: &mut u32) -> bool {
        let guards = &self.core.guards;
        let last = guards.any().then(|| guards.next_epoch());
        while *turns > 0 {
            *turns -= 1;
            if last.is_none_or(|last| guards.oldest().is_none_or(|oldest| oldest > last)) {
                return true;
            }
            if *turns >= NAPS {
                thread::yield_now();
            } else {
                thread::sleep(NAP);
            }
            guards.catch_up();
        }
        false
    }
}
