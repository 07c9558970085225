//! Mappings that the system would not take back yet.
//!
//! At the kernel's limit of mappings `munmap` can fail: taking a piece out of a mapping that was merged with its
//! neighbours would make one more. The memory is given back all the same, and the address range waits here; later
//! releases try again, each a range or two, so nothing is ever forgotten.

use super::{Os, Span, WriteWindow, generation};
use crate::sync::{AtomicUsize, Mutex, Ordering};

static PARKED: Mutex<Vec<Parked>> = Mutex::new(Vec::new());
/// Lets the usual case, nothing parked, pass without the lock.
static COUNT: AtomicUsize = AtomicUsize::new(0);

struct Parked {
    span: Span,
    os: &'static dyn Os,
    /// The process that mapped it: in a forked child the addresses may be something else's.
    owner: u64,
    /// What the pages are tagged with: given up after them, or it could become someone else's while they still carry it.
    _window: Option<WriteWindow>,
}

/// Releases `span`, now or as soon as the system allows it.
///
/// # Safety
/// - As for [`Os::release`].
pub(crate) unsafe fn release_or_park(os: &'static dyn Os, span: Span) {
    // SAFETY: passed on to the caller.
    unsafe { release_before(os, span, None) };
}

/// Releases `span` as [`release_or_park`] does, and then drops the window that it was written through.
///
/// # Safety
/// - As for [`Os::release`].
pub(crate) unsafe fn release_before(os: &'static dyn Os, span: Span, window: Option<WriteWindow>) {
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
    park(Parked { span, os, owner: generation(), _window: window });
}

/// Tries the span that was parked last, and a second if that went: each release makes up for more than one, and no
/// release pays for all.
fn retry() {
    for _ in 0..2 {
        // Another thread is at it, or (in a child forked meanwhile) will never be done.
        let Some(mut parked) = PARKED.try_lock() else { return };
        let mine = generation();
        if parked.last().is_none_or(|last| last.owner != mine) {
            return;
        }
        let Some(last) = parked.pop() else { return };
        COUNT.fetch_sub(1, Ordering::Relaxed);
        drop(parked);
        // SAFETY: a parked span is a whole mapping that its owner gave up; it is on the list no more.
        if unsafe { last.os.release(last.span) }.is_err() {
            park(last);
            return;
        }
    }
}

fn park(parked: Parked) {
    PARKED.lock().push(parked);
    COUNT.fetch_add(1, Ordering::Relaxed);
}

/// Bytes of address space that wait to be released.
#[cfg(all(test, not(loom)))]
pub(crate) fn parked_bytes() -> usize {
    PARKED.lock().iter().map(|parked| parked.span.len).sum()
}
