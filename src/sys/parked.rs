//! Mappings that the system would not take back yet.
//!
//! At the kernel's limit of mappings `munmap` can fail: taking a piece out of a mapping that was
//! merged with its neighbours would make one more. The memory is given back all the same, and the
//! address range waits here; later releases try again, each a range or two, so nothing is ever
//! forgotten.
//!
//! They are a list that threads take whole, because a forked child could inherit a lock held.

use std::ptr;

use super::{Os, Span, WriteWindow, generation};
use crate::sync::{AtomicPtr, Ordering};

/// The one that was parked last.
static FIRST: AtomicPtr<Parked> = AtomicPtr::new(ptr::null_mut());

struct Parked {
    span: Span,
    os: &'static dyn Os,
    /// The process that mapped it: in a forked child the addresses may be something else's.
    owner: u64,
    /// What the pages are tagged with: given up after them, or it could become someone else's while
    /// they still carry it.
    _window: Option<WriteWindow>,
    next: Option<Box<Parked>>,
}

/// Releases `span`, now or as soon as the system allows it.
///
/// # Safety
/// - As for [`Os::release`].
pub(crate) unsafe fn release_or_park(os: &'static dyn Os, span: Span) {
    // SAFETY: passed on to the caller.
    unsafe { release_before(os, span, None) };
}

/// Releases `span` as [`release_or_park`] does, and then drops the window that it was written
/// through.
///
/// # Safety
/// - As for [`Os::release`].
pub(crate) unsafe fn release_before(os: &'static dyn Os, span: Span, window: Option<WriteWindow>) {
    // SAFETY: passed on to the caller.
    if unsafe { os.release(span) }.is_ok() {
        if !FIRST.load(Ordering::Relaxed).is_null() {
            retry();
        }
        return;
    }
    // If even that is refused, the memory stays with its address range, to be released with it.
    // SAFETY: passed on to the caller; a mapping that is being released is needed by nobody.
    let _ = unsafe { os.decommit(span) };
    put(Box::new(Parked { span, os, owner: generation(), _window: window, next: None }));
}

/// Tries the span that was parked last, and a second if that went: each release makes up for more
/// than one, and no release pays for all.
fn retry() {
    let mine = generation();
    let mut list = take();
    for _ in 0..2 {
        let Some(mut first) = list else { return };
        // SAFETY: a parked span is a whole mapping that its owner gave up; it is on the list no
        // more.
        if first.owner != mine || unsafe { first.os.release(first.span) }.is_err() {
            return put(first);
        }
        list = first.next.take();
    }
    if let Some(rest) = list {
        put(rest);
    }
}

/// Takes the whole list.
fn take() -> Option<Box<Parked>> {
    let first = FIRST.swap(ptr::null_mut(), Ordering::AcqRel);
    // SAFETY: not null, it came from a box, and by the exchange it is this thread's alone.
    (!first.is_null()).then(|| unsafe { Box::from_raw(first) })
}

/// Puts a list back, before what others put there meanwhile.
fn put(list: Box<Parked>) {
    let mut list = Box::into_raw(list);
    while let Err(other) = FIRST.compare_exchange(ptr::null_mut(), list, Ordering::AcqRel, Ordering::Acquire) {
        if other.is_null() {
            continue;
        }
        let Some(others) = take() else { continue };
        // SAFETY: made from a box above or below, and given to nobody yet.
        let mut mine = unsafe { Box::from_raw(list) };
        let mut end = &mut mine.next;
        while let Some(next) = end {
            end = &mut next.next;
        }
        *end = Some(others);
        list = Box::into_raw(mine);
    }
}

/// Bytes of address space that wait to be released.
#[cfg(all(test, not(loom)))]
pub(crate) fn parked_bytes() -> usize {
    let (list, mut bytes) = (take(), 0);
    let mut at = list.as_ref();
    while let Some(parked) = at {
        bytes += parked.span.len;
        at = parked.next.as_ref();
    }
    if let Some(list) = list {
        put(list);
    }
    bytes
}
