//! Mappings that the system would not take back yet.
//!
//! At the kernel's limit of mappings `munmap` can fail: taking a piece out of a mapping that was merged with its
//! neighbours would make one more. The memory is given back all the same, and the address range waits here; each later
//! release tries again, so nothing is ever forgotten.

use super::{Os, Span, generation};
use crate::sync::{AtomicUsize, Mutex, Ordering};

static PARKED: Mutex<Vec<Parked>> = Mutex::new(Vec::new());
/// Lets the usual case, nothing parked, pass without the lock.
static COUNT: AtomicUsize = AtomicUsize::new(0);

struct Parked {
    span: Span,
    os: &'static dyn Os,
    /// The process that mapped it: in a forked child the addresses may be something else's.
    owner: u64,
}

/// Releases `span`, now or as soon as the system allows it.
///
/// # Safety
/// - As for [`Os::release`].
pub(crate) unsafe fn release_or_park(os: &'static dyn Os, span: Span) {
    // SAFETY: passed on to the caller.
    if unsafe { os.release(span) }.is_ok() {
        if COUNT.load(Ordering::Relaxed) > 0 {
            retry();
        }
        return;
    }
    // If even that is refused, the memory stays with its address range, to be released with it.
    // SAFETY: passed on to the caller; a mapping that is being released is needed by nobody.
    let _ = unsafe { os.decommit(span) };
    PARKED.lock().push(Parked { span, os, owner: generation() });
    COUNT.fetch_add(1, Ordering::Relaxed);
}

fn retry() {
    let mine = generation();
    PARKED.lock().retain(|parked| {
        // SAFETY: a parked span is a whole mapping that its owner gave up; it is removed here once released.
        let gone = parked.owner == mine && unsafe { parked.os.release(parked.span) }.is_ok();
        if gone {
            COUNT.fetch_sub(1, Ordering::Relaxed);
        }
        !gone
    });
}

/// Bytes of address space that wait to be released.
#[cfg(test)]
pub(crate) fn parked_bytes() -> usize {
    PARKED.lock().iter().map(|parked| parked.span.len).sum()
}
