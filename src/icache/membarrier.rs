//! Linux `membarrier`: every core that runs a thread of this process passes a context
//! synchronization event.
//!
//! After the caches were cleaned, this is all that another core needs. It has to be asked for,
//! because a thread that gets an address from memory and branches to it need not have passed such
//! an event. A change of page permissions does not cause one: the hardware broadcasts Arm's TLB
//! invalidations and interrupts no core. A call of the publishing thread alone does not cause one
//! either.
//!
//! - `PRIVATE_EXPEDITED_SYNC_CORE` (kernel 4.16) is made for it. The cores are interrupted, and an
//!   exception return is such an event on Arm (the kernel's
//!   `Documentation/features/sched/membarrier-sync-core` and `asm/membarrier.h`). A process has to
//!   register for it once. That happens when the first arena or block is made.
//! - `GLOBAL` (kernel 4.3) promises order of memory only. But it waits for a grace period of the
//!   kernel's RCU, in which every core was seen in the kernel: switching threads, idle, or
//!   interrupted out of a program. So every core has passed an exception return, and stale
//!   instructions are gone. It takes milliseconds. On systems that leave cores without such
//!   interrupts (`nohz_full`) the argument fails, but there the call itself is refused.
//! - If both are refused, no other way is known, and building an arena is an error. Otherwise a
//!   program would run stale code once in a long while.
//!
//! A sandbox may end the process for a call that it does not know (`SIGSYS`, Android before 10).
//! That cannot be found out by a trial, so no arena can be built there.

use std::io;

use crate::Error;
use crate::sync::{AtomicUsize, Ordering};

const QUERY: libc::c_long = 0;
const GLOBAL: libc::c_long = 1;
const SYNC_CORE: libc::c_long = 1 << 5;
const REGISTER_SYNC_CORE: libc::c_long = 1 << 6;

/// A call of `membarrier`. It returns -1 for an error.
type Call = fn(libc::c_long) -> libc::c_long;

fn membarrier(command: libc::c_long) -> libc::c_long {
    // SAFETY: it accesses no memory of the process.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    SyncCore,
    Global,
}

fn find(call: Call) -> Option<Way> {
    let known = call(QUERY);
    if known <= 0 {
        return None;
    }
    if known & SYNC_CORE != 0 && call(REGISTER_SYNC_CORE) == 0 && call(SYNC_CORE) == 0 {
        return Some(Way::SyncCore);
    }
    (known & GLOBAL != 0 && call(GLOBAL) == 0).then_some(Way::Global)
}

/// Makes one barrier. A sandbox that the process entered later may forbid a call that was allowed,
/// so the next way is tried.
fn sync(way: Way, call: Call) -> bool {
    let sync_core = || call(SYNC_CORE) == 0 || (call(REGISTER_SYNC_CORE) == 0 && call(SYNC_CORE) == 0);
    (way == Way::SyncCore && sync_core()) || call(GLOBAL) == 0
}

/// Returns the way of this process, which is looked for once. There is no lock, because a forked
/// child could inherit it in the locked state. Threads that look at the same time find the same
/// way.
fn way() -> Option<Way> {
    const KNOWN: [Option<Way>; 3] = [None, Some(Way::SyncCore), Some(Way::Global)];
    /// One more than the index in `KNOWN`, or 0 if no thread has looked.
    static WAY: AtomicUsize = AtomicUsize::new(0);
    let known = WAY.load(Ordering::Relaxed);
    if known > 0 {
        return KNOWN[known - 1];
    }
    let found = find(membarrier);
    let place = KNOWN.iter().position(|way| *way == found).unwrap_or(0);
    WAY.store(place + 1, Ordering::Relaxed);
    found
}

/// Registers the process, the first time. Returns an error if other cores cannot be synchronised.
pub(super) fn check() -> Result<(), Error> {
    let why = "membarrier is refused: other cores could run stale instructions";
    way().map(drop).ok_or_else(|| Error::unsupported("executable memory", why))
}

pub(super) fn sync_cores() -> Result<(), Error> {
    if way().is_some_and(|way| sync(way, membarrier)) {
        return Ok(());
    }
    Err(Error::system("membarrier", io::Error::last_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_way_there_is() {
        assert_eq!(find(|_| -1), None, "no such call");
        assert_eq!(find(|_| 0), None, "it knows nothing");
        assert_eq!(find(|command| if command == QUERY { SYNC_CORE | GLOBAL } else { 0 }), Some(Way::SyncCore));
        let unregistered: Call = |command| match command {
            QUERY => SYNC_CORE | REGISTER_SYNC_CORE | GLOBAL,
            GLOBAL => 0,
            _ => -1,
        };
        assert_eq!(find(unregistered), Some(Way::Global));
        assert_eq!(find(|command| if command == QUERY { GLOBAL } else { -1 }), None, "nohz_full");
        let old: Call = |command| match command {
            QUERY => GLOBAL,
            GLOBAL => 0,
            _ => -1,
        };
        assert_eq!(find(old), Some(Way::Global));
        assert!(sync(Way::SyncCore, unregistered) && sync(Way::Global, old));
        assert!(!sync(Way::SyncCore, |_| -1) && !sync(Way::Global, |_| -1));
    }

    #[test]
    fn this_system_has_one() {
        assert!(check().is_ok() && sync_cores().is_ok());
    }
}
