//! Which thread waits for which, over all caches of the process.
//!
//! A thread that compiles for one cache may ask another cache, so circles go through several.
#![forbid(unsafe_code)]

use std::thread::ThreadId;

use crate::Error;
use crate::sys::process_lock::ProcessLock;

/// Locked inside of the lock of a cache's state; nothing is locked inside of it.
///
/// A forked child may inherit waits of threads that it does not have. Nobody in the child waits for
/// those threads, as it has no cache that they compile for.
static WAITS: ProcessLock<Vec<Wait>> = ProcessLock::new(Vec::new());

/// A thread that waits for a compilation. Gone when that has ended, before the thread has noticed.
struct Wait {
    waiting: ThreadId,
    /// The address of what it waits at.
    landing: usize,
    for_thread: ThreadId,
}

/// Notes that `waiting` waits at `landing` for `for_thread`.
///
/// # Errors
/// - `Recursion` if `for_thread` waits for `waiting` already, directly or by way of others.
pub(super) fn begin(waiting: ThreadId, landing: usize, for_thread: ThreadId) -> Result<(), Error> {
    // Where a child inherited the lock held, it is without that check.
    let Some(mut waits) = WAITS.lock() else { return Ok(()) };
    // A thread waits for one compilation at a time, and nobody began to wait who would have closed
    // a circle.
    let mut thread = for_thread;
    while thread != waiting {
        match waits.iter().find(|wait| wait.waiting == thread) {
            Some(wait) => thread = wait.for_thread,
            None => {
                waits.push(Wait { waiting, landing, for_thread });
                return Ok(());
            }
        }
    }
    Err(Error::Recursion)
}

/// Nobody waits at `landing` any more.
pub(super) fn end(landing: usize) {
    if let Some(mut waits) = WAITS.lock() {
        waits.retain(|wait| wait.landing != landing);
    }
}
