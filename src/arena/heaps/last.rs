//! Which heap this thread used last, of whatever arena that was, and how often it found it locked.
#![forbid(unsafe_code)]

/// How often a thread uses a heap before it tries an earlier one. (At 256, two threads that meet all the time lost a tenth.)
const USES: u32 = 4096;
/// So many times a thread has to find a heap locked, each within so many publications (of all threads) that found it unlocked, to
/// leave it.
pub(in crate::arena) const MISSES: u32 = 16;
const WITHIN: u32 = 8;

#[derive(Clone, Copy)]
pub(super) struct Last {
    heap: u32,
    uses: u32,
    /// How many publications had found the heap unlocked when this thread found it locked the last time.
    stamp: u32,
    misses: u32,
}

impl Last {
    const FIRST: Self = Self::at(0);

    const fn at(heap: u32) -> Self {
        Self { heap, uses: 1, stamp: 0, misses: 0 }
    }
}

#[cfg(not(loom))]
thread_local! {
    #[allow(clippy::missing_const_for_thread_local, reason = "it is const; on OpenBSD clippy looks into the macro")]
    static LAST: std::cell::Cell<Last> = const { std::cell::Cell::new(Last::FIRST) };
}

/// Changes what is known of this thread, and returns something; `None` where the thread is ending and has nothing of its own.
#[cfg(not(loom))]
#[inline]
fn with<T>(change: impl FnOnce(&mut Last) -> T) -> Option<T> {
    LAST.try_with(|cell| {
        let mut last = cell.get();
        let result = change(&mut last);
        cell.set(last);
        result
    })
    .ok()
}

/// All threads of a model start at the same place, where they meet.
#[cfg(loom)]
fn with<T>(change: impl FnOnce(&mut Last) -> T) -> Option<T> {
    Some(change(&mut Last { misses: MISSES, ..Last::FIRST }))
}

/// Returns the number of the heap that this thread used last.
#[inline]
pub(in crate::arena) fn heap() -> usize {
    with(|last| last.heap as usize).unwrap_or(0)
}

/// Sends this thread to a heap.
pub(in crate::arena) fn set(heap: usize) {
    with(|last| *last = Last::at(heap as u32));
}

/// Counts a use. Returns whether it is time to try an earlier heap.
#[inline]
pub(super) fn count_use() -> bool {
    let is_time = with(|last| {
        last.uses = last.uses.wrapping_add(1);
        last.uses % USES == 0
    });
    is_time == Some(true)
}

/// Notes that the heap was locked, after so many publications that found it unlocked. Returns whether that happens all the time.
pub(in crate::arena) fn count_miss(publications: u32) -> bool {
    let crowded = with(|last| {
        let again = publications.wrapping_sub(last.stamp) <= WITHIN;
        last.misses = if again { last.misses + 1 } else { 1 };
        last.stamp = publications;
        last.misses >= MISSES
    });
    crowded == Some(true)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_heap_is_left_when_it_is_locked_again_and_again() {
        set(3);
        assert_eq!((heap(), count_miss(1_000), count_miss(1_100), count_miss(1_109)), (3, false, false, false));
        assert!((1..MISSES - 1).all(|n| !count_miss(1_109 + n * WITHIN)));
        assert!(count_miss(1_109 + (MISSES - 1) * WITHIN) && count_miss(1_109 + MISSES * WITHIN));
        set(1);
        assert_eq!((heap(), count_miss(1_316)), (1, false));
        assert_eq!((0..2 * USES).filter(|_| count_use()).count(), 2);
        set(0);
    }
}
