//! Which thread waits for which other thread, over all caches of the process.
//!
//! A thread that compiles for one cache may ask another cache, so a circle of waiting threads can
//! lead through several caches.
#![forbid(unsafe_code)]

use std::thread::ThreadId;

use crate::Error;
use crate::sys::process_lock::ProcessLock;

/// All waits. It is locked after the state of a cache, and nothing is locked after it.
///
/// A forked child may inherit waits of threads that do not exist in it. Nobody in the child waits
/// for these threads, because they compile for no cache of the child.
static WAITS: ProcessLock<Vec<Wait>> = ProcessLock::new(Vec::new());

/// A thread that waits for a compilation. It is removed when the compilation ends, before the
/// thread wakes.
struct Wait {
    waiting: ThreadId,
    /// The address of the outcome that the thread waits for.
    outcome: usize,
    for_thread: ThreadId,
}

/// Notes that `waiting` waits for `outcome`, which `for_thread` computes.
///
/// # Errors
/// - [`Error::Recursion`] if `for_thread` waits for `waiting` already, directly or through others.
pub(super) fn begin(waiting: ThreadId, outcome: usize, for_thread: ThreadId) -> Result<(), Error> {
    // A child that inherited the lock in the locked state does without this check.
    let Some(mut waits) = WAITS.lock() else { return Ok(()) };
    // This ends, because a thread waits for one compilation at a time, and no thread began to wait
    // that would have closed a circle.
    let mut thread = for_thread;
    while thread != waiting {
        match waits.iter().find(|wait| wait.waiting == thread) {
            Some(wait) => thread = wait.for_thread,
            None => {
                waits.push(Wait { waiting, outcome, for_thread });
                return Ok(());
            }
        }
    }
    Err(Error::Recursion)
}

/// Removes all waits for `outcome`.
pub(super) fn end(outcome: usize) {
    if let Some(mut waits) = WAITS.lock() {
        waits.retain(|wait| wait.outcome != outcome);
    }
}
