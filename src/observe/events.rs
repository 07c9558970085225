//! The events of an arena, for [`tracing`](https://docs.rs/tracing).
#![forbid(unsafe_code)]

use tracing::{debug, trace};

use crate::{BlockInfo, Observer, Published, Reservation};

/// An observer that sends the events of an arena to [`tracing`](https://docs.rs/tracing), with the
/// target `gaia_jit`.
///
/// | level | events |
/// |---|---|
/// | `DEBUG` | address space, memory, reclamation |
/// | `TRACE` | publications, one event for each batch, and retirements |
///
/// ```
/// use std::sync::Arc;
/// use gaia_jit::{CodeArena, observe::Events};
///
/// let arena = CodeArena::builder().capacity(1 << 20).observer(Arc::new(Events)).build()?;
/// drop(arena.publish(&[0xc3])?); // two events for the subscribers
/// # Ok::<(), gaia_jit::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Events;

const TARGET: &str = "gaia_jit";

impl Observer for Events {
    fn reserved(&self, space: &Reservation) {
        debug!(target: TARGET, start = ?space.start, len = space.len, mode = ?space.mode, "reserved");
    }

    fn published(&self, functions: &[Published<'_>]) {
        let bytes: usize = functions.iter().map(|function| function.block.len).sum();
        let first = functions.first();
        let (name, start) = (first.and_then(|first| first.name), first.map(|first| first.block.start));
        trace!(target: TARGET, functions = functions.len(), bytes, ?start, name, "published");
    }

    fn retired(&self, block: &BlockInfo) {
        trace!(target: TARGET, start = ?block.start, len = block.len, tag = block.tag, "retired");
    }

    fn reclaimed(&self, blocks: u64, bytes: u64) {
        debug!(target: TARGET, blocks, bytes, "reclaimed");
    }

    fn trimmed(&self, bytes: usize) {
        debug!(target: TARGET, bytes, "trimmed");
    }

    fn released(&self, space: &Reservation) {
        debug!(target: TARGET, start = ?space.start, len = space.len, "released");
    }
}
