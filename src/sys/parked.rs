//! Mappings that the system refused to unmap.
//!
//! At the kernel's limit of mappings `munmap` can fail. To unmap a part of a mapping that was
//! merged with its neighbours would make one more mapping. The memory is given back all the same.
//! The address range is kept in a list here, and each later release tries one or two of them again,
//! so nothing is lost for good.
//!
//! A thread takes the whole list at once. There is no lock, because a forked child could inherit it
//! in the locked state.

use std::ptr;

use super::{Os, Span, WriteWindow, generation};
use crate::sync::{AtomicPtr, Ordering};

/// The span that was parked last.
static FIRST: AtomicPtr<Parked> = AtomicPtr::new(ptr::null_mut());

struct Parked {
    span: Span,
    os: &'static dyn Os,
    /// The process that mapped it. In a forked child something else may be mapped at the address.
    owner: u64,
    /// The window of the pages. It is dropped after them, because otherwise its key could be given
    /// to others while the pages still have it.
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

/// Releases `span` as [`release_or_park`] does, and then drops the window of its pages.
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
    // If this is refused too, the memory stays with its address range and is released with it.
    // SAFETY: passed on to the caller. Nobody needs a mapping that is being released.
    let _ = unsafe { os.decommit(span) };
    put(Box::new(Parked { span, os, owner: generation(), _window: window, next: None }));
}

/// Tries the span that was parked last, and a second one if that succeeded. So releases catch up,
/// and no release pays for all.
fn retry() {
    let mine = generation();
    let mut list = take();
    for _ in 0..2 {
        let Some(mut first) = list else { return };
        // SAFETY: a parked span is a whole mapping that its owner gave up. It is not in the list
        // any more.
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
    // SAFETY: not null. It came from a box, and after the exchange only this thread has it.
    (!first.is_null()).then(|| unsafe { Box::from_raw(first) })
}

/// Puts a list back, before the spans that others parked meanwhile.
fn put(list: Box<Parked>) {
    let mut list = Box::into_raw(list);
    while let Err(other) = FIRST.compare_exchange(ptr::null_mut(), list, Ordering::AcqRel, Ordering::Acquire) {
        if other.is_null() {
            continue;
        }
        let Some(others) = take() else { continue };
        // SAFETY: made from a box above or below, and nobody else has it yet.
        let mut mine = unsafe { Box::from_raw(list) };
        let mut end = &mut mine.next;
        while let Some(next) = end {
            end = &mut next.next;
        }
        *end = Some(others);
        list = Box::into_raw(mine);
    }
}

/// Returns the bytes of address space that wait to be released.
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
