//! s390x on Linux: caches are coherent, but another core may run what it fetched ahead until it
//! serialises.
//!
//! z/Architecture Principles of Operation, "Conceptual Sequence" and "Instruction Fetching": later
//! fetches of the same core see a stored instruction. Another core drops copies that it prefetched
//! when it serialises. An ordinary load of an address does not serialise. The kernel lists s390
//! among the architectures on which the exception return does
//! (`Documentation/features/sched/membarrier-sync-core`).

use super::membarrier;
use crate::Error;

pub(crate) const BARRIERS: bool = true;

pub(super) fn check() -> Result<(), Error> {
    membarrier::check()
}

/// Does nothing.
///
/// # Safety
/// - None.
pub(crate) unsafe fn flush(_start: *const u8, _len: usize) -> Result<(), Error> {
    Ok(())
}

pub(crate) fn sync_cores() -> Result<(), Error> {
    membarrier::sync_cores()
}
