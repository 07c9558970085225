//! The heap that this thread used last, in whatever arena, and how often it found it locked.
#![forbid(unsafe_code)]

/// The number of uses of a heap after which a thread tries an earlier one. (At 256, two threads
/// that met all the time lost a tenth.)
const USES: u32 = 4096;
/// The rate at which a thread leaves a heap: it is found locked at more than one of this number of
/// uses for a while.
const RATE: u32 = 8;
/// The smallest number of such uses in a row after which the thread leaves.
const MISSES: u32 = 8;

#[derive(Clone, Copy)]
pub(super) struct Last {
    heap: u32,
    uses: u32,
    /// The use at which the heap was last found locked.
    missed_at: u32,
    /// The number of uses without a miss that would make up for the misses so far.
    debt: u32,
}

impl Last {
    const FIRST: Self = Self::at(0);

    const fn at(heap: u32) -> Self {
        Self { heap, uses: 1, missed_at: 1, debt: 0 }
    }
}

#[cfg(not(loom))]
thread_local! {
    #[allow(clippy::missing_const_for_thread_local, reason = "it is const; on OpenBSD clippy looks into the macro")]
    static LAST: std::cell::Cell<Last> = const { std::cell::Cell::new(Last::FIRST) };
}

/// Changes the values of this thread, and returns a result. It returns `None` if the thread is
/// ending and has no thread-local values any more.
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

/// All threads of a model start at the same heap, so that they meet.
#[cfg(loom)]
fn with<T>(change: impl FnOnce(&mut Last) -> T) -> Option<T> {
    Some(change(&mut Last { debt: RATE * MISSES, ..Last::FIRST }))
}

/// Counts a use. Returns the number of the heap that this thread used last, and whether it is time
/// to try an earlier one.
#[inline]
pub(super) fn use_heap() -> (usize, bool) {
    let used = with(|last| {
        last.uses = last.uses.wrapping_add(1);
        (last.heap as usize, last.uses % USES == 0)
    });
    used.unwrap_or((0, false))
}

/// Makes this thread use a heap.
pub(in crate::arena) fn set(heap: usize) {
    with(|last| *last = Last::at(heap as u32));
}

/// Notes that the heap was locked. Returns whether that happens often.
pub(in crate::arena) fn miss() -> bool {
    let crowded = with(|last| {
        let since = last.uses.wrapping_sub(last.missed_at);
        last.missed_at = last.uses;
        last.debt = (last.debt.saturating_sub(since) + RATE).min(2 * RATE * MISSES);
        last.debt > RATE * MISSES
    });
    crowded == Some(true)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Returns the number of misses after which the heap is left, if every `n`-th use is a miss.
    fn left_after(n: u32) -> Option<usize> {
        set(3);
        (1..1_000).find(|_| {
            assert!((0..n).all(|_| use_heap().0 == 3));
            miss()
        })
    }

    #[test]
    fn a_heap_is_left_when_it_is_locked_again_and_again() {
        assert_eq!([1, 4, 7].map(|n| left_after(n).is_some()), [true; 3]);
        assert!(left_after(1) < left_after(4) && left_after(4) < left_after(7));
        assert_eq!([RATE, 20].map(left_after), [None; 2]);
        set(0);
    }

    /// If a thread has no other heap to use, any number of misses is forgotten as soon as misses
    /// are rare.
    #[test]
    fn misses_are_not_held_against_a_heap_for_ever() {
        set(0);
        for _ in 0..10_000 {
            let _ = (use_heap(), miss());
        }
        (0..2 * RATE * MISSES).for_each(|_| assert_eq!(use_heap().0, 0));
        assert!(!miss());
        set(0);
    }

    #[test]
    fn now_and_then_an_earlier_heap_is_tried() {
        set(1);
        assert_eq!((0..2 * USES).filter(|_| use_heap().1).count(), 2);
        set(0);
    }
}
