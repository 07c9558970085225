//! Guards: which threads may be running code that was dropped.
//!
//! # Algorithm
//!
//! Guards are counted by *age*. There are [`AGES`] counters, and one of them is the youngest: every
//! new guard adds one to it, and subtracts one from that same counter when it is dropped. Each
//! counter carries the epoch in which it became the youngest. A block dropped while guards exist is
//! marked with the epoch of now; then another counter that stands at zero becomes the youngest,
//! with the next epoch. The block's space is free once every counter of its epoch or an earlier one
//! stands at zero.
//!
//! ```text
//! counter   0     1     2     3    ...        a block marked with epoch 5 waits for counters 0 and 2
//! guards    2     0     1     4
//! epoch     3     4     5     6 (youngest)
//! ```
//!
//! A pin is one addition, however many guards there are or ever were. It allocates nothing and
//! touches no thread-local variable, so it may be called in a signal handler. The counters are kept
//! several times over ([`SHARDS`]), because threads that add to one cache line wait for each other;
//! a thread is sent to a shard by the address of its stack.
//!
//! # When no counter stands at zero
//!
//! Then guards of [`AGES`] different ages are held, and the youngest counter stays the youngest:
//! guards that are taken now count as old as the guards before them. A block that is dropped now
//! waits for all of the other ages in any case, because they are older than its drop. Once one of
//! them has ended, the next call that drops or places code under the lock, or counts, makes its
//! counter the youngest. So a guard younger than the drop can delay a block only if it was taken
//! before that call.
//!
//! # Why it is right
//!
//! A thread takes a guard, then reads the runtime's table of functions; another takes the function
//! out of that table, then drops it and looks at the counters. Both have a sequentially consistent
//! fence in between, so either the looker sees the guard, or the guarded thread sees the table
//! without the function (the store-buffering pattern; crossbeam-epoch and hazard pointers rest on
//! the same).
//!
//! A drop that sees a guard is marked, under a lock, with the epoch of now. No counter carries a
//! later epoch then. Every change of a counter's epoch that comes after takes that lock too, so it
//! comes behind the drop's fence: it cannot see a counter at zero to which a guard has added that
//! the drop has to wait for. So that guard's counter keeps an epoch that is no later than the
//! drop's as long as the guard is there. It does not matter which counter the guard added to, nor
//! whether that counter was still the youngest by then: a guard that looks older than it is only
//! delays.
//!
//! Only the end of a guard has no fence. Its subtraction releases, and whoever looks acquires, also
//! if others have added or subtracted since, because these are read-modify-writes ("release
//! sequence" in the C++ standard).
//!
//! Whoever reclaims reads the epochs without the lock. It may read an earlier epoch of a counter
//! than there is now, which only delays, or a later one, if the guards that it saw are gone and
//! others have come; those are younger.

use crate::sync::Ordering;
use crate::sync::checked::{AtomicU64, Mutex, fence};

/// Guards of so many ages are told apart.
const AGES: usize = if cfg!(loom) { 3 } else { 16 };
/// Copies of the counters: a power of two.
const SHARDS: usize = if cfg!(loom) { 2 } else { 16 };
/// Where the number of the youngest counter begins, in the word that holds it with its epoch.
const AGE_BITS: u32 = 4;

/// The counters of some threads, alone on their cache lines and those fetched along with them.
#[repr(align(128))]
struct Shard([AtomicU64; AGES]);

pub(crate) struct Guards {
    /// The epoch, and in its lowest bits the number of the youngest counter. Written under
    /// `changing`.
    youngest: AtomicU64,
    /// The epoch in which each counter became the youngest. Written under `changing`.
    epochs: [AtomicU64; AGES],
    changing: Mutex<()>,
    /// Not zero if there was no counter for younger guards when a block was dropped last. Written
    /// under `changing`.
    owed: AtomicU64,
    /// A bit for each shard that was ever added to.
    used: AtomicU64,
    shards: [Shard; SHARDS],
}

/// Keeps the space of code dropped from now on from being used again; see
/// [`CodeArena::pin`](crate::CodeArena::pin).
#[must_use = "code is protected only while the guard lives"]
pub struct Guard<'a> {
    counter: &'a AtomicU64,
}

impl std::fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guard")
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // Whoever sees the counter at zero may overwrite the code, after all that was done under
        // the guard.
        self.counter.fetch_sub(1, Ordering::Release);
    }
}

/// A sequentially consistent fence, after an atomic read-modify-write that can stand for it. On x86
/// that is a locked instruction, and so a full barrier already (Intel SDM volume 3, "Memory
/// Ordering"); a fence beside it would only cost.
pub(super) fn fence_after_rmw() {
    if cfg!(any(loom_x86, all(any(target_arch = "x86", target_arch = "x86_64"), not(any(miri, loom))))) {
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
}

/// The shard of this thread, by the megabyte that its stack lies in.
fn shard() -> usize {
    if cfg!(loom) {
        // All threads of a model meet.
        return 0;
    }
    let marker = 0u8;
    let megabyte = (&raw const marker).addr() as u64 >> 20;
    (megabyte.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as usize % SHARDS
}

impl Guards {
    pub(crate) fn new() -> Self {
        Self {
            youngest: AtomicU64::new(1 << AGE_BITS),
            epochs: std::array::from_fn(|age| AtomicU64::new(u64::from(age == 0))),
            changing: Mutex::new(()),
            owed: AtomicU64::new(0),
            used: AtomicU64::new(0),
            shards: std::array::from_fn(|_| Shard(std::array::from_fn(|_| AtomicU64::new(0)))),
        }
    }

    pub(crate) fn pin(&self) -> Guard<'_> {
        let shard = shard();
        // Before the fence, so that whoever must see the guard looks at its shard.
        if self.used.load(Ordering::Relaxed) >> shard & 1 == 0 {
            self.used.fetch_or(1 << shard, Ordering::Relaxed);
        }
        let age = self.youngest.load(Ordering::Relaxed) as usize & ((1 << AGE_BITS) - 1);
        let counter = &self.shards[shard].0[age];
        counter.fetch_add(1, Ordering::Relaxed);
        fence_after_rmw();
        Guard { counter }
    }

    /// Whether a guard is one of these.
    #[cfg_attr(any(not(feature = "cache"), loom), allow(dead_code, reason = "for the cache"))]
    pub(crate) fn holds(&self, guard: &Guard<'_>) -> bool {
        let shards = self.shards.as_ptr_range();
        (shards.start.addr()..shards.end.addr()).contains(&std::ptr::from_ref(guard.counter).addr())
    }

    /// The counters of one age.
    fn counters(&self, age: usize) -> impl Iterator<Item = &AtomicU64> {
        self.used_shards().map(move |Shard(counters)| &counters[age])
    }

    fn used_shards(&self) -> impl Iterator<Item = &Shard> {
        let used = self.used.load(Ordering::Relaxed);
        self.shards.iter().enumerate().filter(move |(shard, _)| used >> shard & 1 == 1).map(|(_, shard)| shard)
    }

    fn is_held(&self, age: usize) -> bool {
        self.counters(age).any(|counter| counter.load(Ordering::Acquire) != 0)
    }

    /// Whether there is a guard. Between this and what makes the block unfindable there is an
    /// atomic read-modify-write on this thread (the lock of a heap).
    pub(crate) fn any(&self) -> bool {
        fence_after_rmw();
        if self.used.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.used_shards().flat_map(|Shard(counters)| counters).any(|counter| counter.load(Ordering::Acquire) != 0)
    }

    /// Returns the epoch of the oldest guard; `None` without guards. It needs no fence of its own:
    /// every block that waits in a heap was marked behind the fence of [`Guards::any`], and the
    /// heap's lock passes that on.
    pub(crate) fn oldest(&self) -> Option<u64> {
        let held = (0..AGES).filter(|&age| self.is_held(age));
        // Acquire: where the guard that was seen has ended meanwhile, and its counter has a later
        // epoch by now, what was done under it comes before what is done to the code next.
        held.map(|age| self.epochs[age].load(Ordering::Acquire)).min()
    }

    /// Returns the epoch of a drop that has to wait for the guards of now: those that
    /// [`Guards::any`] saw before, on this thread.
    pub(crate) fn next_epoch(&self) -> u64 {
        let changing = self.changing.lock();
        let epoch = self.epoch();
        self.change();
        drop(changing);
        epoch
    }

    /// Returns the epoch of guards that are taken now.
    pub(crate) fn epoch(&self) -> u64 {
        self.youngest.load(Ordering::Relaxed) >> AGE_BITS
    }

    /// Lets a counter that stands at zero be the youngest if there was none when a block was
    /// dropped, and there is one now.
    #[inline]
    pub(crate) fn catch_up(&self) {
        if self.owed.load(Ordering::Relaxed) != 0 {
            self.advance();
        }
    }

    /// Lets a counter that stands at zero be the youngest from now on, if there is one.
    #[cold]
    pub(crate) fn advance(&self) {
        let _changing = self.changing.lock();
        self.change();
    }

    fn change(&self) {
        let youngest = self.youngest.load(Ordering::Relaxed);
        let now = youngest as usize & ((1 << AGE_BITS) - 1);
        let next = (1..AGES).map(|next| (now + next) % AGES).find(|&age| !self.is_held(age));
        self.owed.store(u64::from(next.is_none()), Ordering::Relaxed);
        if let Some(age) = next {
            let epoch = (youngest >> AGE_BITS) + 1;
            // Release: the ends of its guards were acquired by `is_held`.
            self.epochs[age].store(epoch, Ordering::Release);
            self.youngest.store(epoch << AGE_BITS | age as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_guard_counts() {
        let guards = Guards::new();
        assert_eq!((guards.oldest(), guards.any()), (None, false));
        let first = guards.pin();
        assert!(guards.any());
        assert_eq!((guards.oldest(), guards.next_epoch(), format!("{first:?}")), (Some(1), 1, "Guard".into()));
        let second = guards.pin();
        assert_eq!((guards.oldest(), guards.next_epoch()), (Some(1), 2));
        drop(first);
        assert_eq!(guards.oldest(), Some(2));
        let third = guards.pin();
        drop(second);
        assert_eq!(guards.oldest(), Some(3));
        drop(third);
        assert_eq!((guards.oldest(), guards.any()), (None, false));
    }

    /// As many ages as there are counters are told apart; one more counts with the youngest of
    /// them.
    #[test]
    fn guards_are_told_apart_by_age() {
        let guards = Guards::new();
        let mut held: Vec<_> = (1..=AGES as u64)
            .map(|epoch| {
                let guard = guards.pin();
                assert_eq!(guards.next_epoch(), epoch);
                guard
            })
            .collect();
        let last = AGES as u64;
        assert_eq!((guards.epoch(), guards.oldest()), (last, Some(1)), "there is no counter left to advance to");
        let younger = guards.pin();
        assert_eq!(guards.next_epoch(), last);
        // One age ends: what comes now is younger again.
        drop(held.remove(6));
        guards.advance();
        let youngest = guards.pin();
        assert_eq!(guards.epoch(), last + 1);
        held.clear();
        assert_eq!(guards.oldest(), Some(last), "the one that was counted with the last age");
        drop(younger);
        assert_eq!(guards.oldest(), Some(last + 1));
        drop(youngest);
        assert_eq!(guards.oldest(), None);
    }

    /// Guards taken on other threads, and dropped on others again, are counted wherever their
    /// stacks lie.
    #[test]
    fn guards_count_on_any_thread() {
        let guards = Guards::new();
        for _ in 0..3 * SHARDS {
            std::thread::scope(|scope| {
                let guard = scope.spawn(|| guards.pin()).join().unwrap();
                assert!(guards.any());
                scope.spawn(move || drop(guard));
            });
            assert_eq!((guards.any(), guards.oldest()), (false, None));
        }
    }
}
