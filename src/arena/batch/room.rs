//! Room for a batch in a full arena, made by an owner of code that can be evicted.
#![forbid(unsafe_code)]

use std::thread;
use std::time::{Duration, Instant};

use super::Batch;
use crate::Error;
use crate::sync::Arc;

/// How long one call waits for guards. Most guards are short, but a thread that has one may be
/// waiting for a processor. A guard of the calling thread itself does not end meanwhile, so this
/// must not be long.
const PATIENCE: Duration = Duration::from_millis(10);
/// How often a call gives way to other threads before it naps.
const YIELDS: u32 = 64;
const NAP: Duration = Duration::from_micros(20);

/// What one call has waited for guards.
#[derive(Default)]
pub(super) struct Waited {
    since: Option<Instant>,
    turns: u32,
    /// How often guards ended, and there was still no room.
    rounds: u32,
}

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
    /// dropped waits for guards, it waits for them a little. `Ok` means that some space was freed,
    /// or that those guards have ended.
    #[cold]
    pub(super) fn make_room(&self, mut error: Error, waited: &mut Waited) -> Result<(), Error> {
        let (room, asked, waiting) = match error {
            Error::ArenaFull { asked, waiting, .. } => (Room::Code, asked, waiting),
            Error::DataFull { asked, waiting, .. } => (Room::Data, asked, waiting),
            _ => return Err(error),
        };
        let Some(keeper) = &self.on_full else { return Err(error) };
        // An entry may wait twice: as a whole, and then its code. If that was not enough, the free
        // space is in pieces. So from then on twice as much is dropped each time.
        let most = asked.saturating_mul(1 << waited.rounds.saturating_sub(2).min(16));
        let made = keeper.make_room(room, most, waiting);
        // A callback that was called about dropped code may have forked.
        self.core.memory.check_own("publish")?;
        made.or_else(|more| {
            if waiting + more > 0 && self.guards_end(waited) {
                return Ok(());
            }
            if let Error::ArenaFull { waiting, .. } | Error::DataFull { waiting, .. } = &mut error {
                *waiting += more;
            }
            Err(error)
        })
    }

    /// Gives way to other threads until the guards have ended that were taken before the last drop.
    /// Returns false if they have not when the time is over.
    fn guards_end(&self, waited: &mut Waited) -> bool {
        let since = *waited.since.get_or_insert_with(Instant::now);
        let guards = &self.core.guards;
        // Each drop that has to wait begins an epoch.
        let epoch = guards.epoch();
        loop {
            let is_late = since.elapsed() >= PATIENCE;
            // A thread that was off its processor for all of the time still looks at the guards.
            if guards.oldest().is_none_or(|oldest| oldest >= epoch) && (!is_late || waited.rounds < 2) {
                waited.rounds += 1;
                return true;
            }
            if is_late {
                return false;
            }
            waited.turns += 1;
            if waited.turns < YIELDS {
                thread::yield_now();
            } else {
                thread::sleep(NAP);
            }
            guards.catch_up();
        }
    }
}
