//! Guards: they say which threads may be running code that was dropped.
//!
//! # Algorithm
//!
//! Guards are counted by *age*. There are [`AGES`] counters. One of them is the youngest: a new
//! guard adds one to it, and subtracts one from the same counter when it is dropped. Each counter
//! has the epoch in which it became the youngest. A block that is dropped while guards exist is
//! marked with the present epoch. Then another counter that is zero becomes the youngest, with the
//! next epoch. The space of the block is free when every counter of its epoch or an earlier one is
//! zero.
//!
//! ```text
//! counter   0     1     2     3    ...        a block marked with epoch 5 waits for counters 0 and 2
//! guards    2     0     1     4
//! epoch     3     4     5     6 (youngest)
//! ```
//!
//! A pin is one addition, whatever the number of guards. It allocates nothing and uses no
//! thread-local variable, so a signal handler may call it. There are several copies of the counters
//! ([`SHARDS`]), because threads that add to one cache line wait for each other. The address of a
//! thread's stack decides which copy it uses.
//!
//! `docs/design.md`, "Guards", says why it is right.

use crate::sync::Ordering;
use crate::sync::checked::{AtomicU64, Mutex, fence, rmw_is_a_fence};

/// The number of ages of guards that are distinguished.
const AGES: usize = if cfg!(loom) { 3 } else { 16 };
/// The number of copies of the counters: a power of two.
const SHARDS: usize = if cfg!(loom) { 2 } else { 16 };
/// The bit at which the epoch begins in `youngest`. The number of the youngest counter is below it.
const AGE_BITS: u32 = 4;

/// The counters of some threads. They have their cache lines for themselves, and those that are
/// fetched with them.
#[repr(align(128))]
struct Shard([AtomicU64; AGES]);

pub(crate) struct Guards {
    /// The present epoch, and in the lowest bits the number of the youngest counter. Written under
    /// `changing`.
    youngest: AtomicU64,
    /// The epoch in which each counter became the youngest. Written under `changing`.
    epochs: [AtomicU64; AGES],
    changing: Mutex<()>,
    /// Not zero if the last drop found no counter for younger guards. Written under `changing`.
    owed: AtomicU64,
    /// One bit for each shard that was ever added to.
    used: AtomicU64,
    shards: [Shard; SHARDS],
}

/// A guard: it keeps the space of code that is dropped from now on from being used again. Made by
/// [`CodeArena::pin`](crate::CodeArena::pin). A guard may be dropped on another thread.
///
/// ```
/// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
/// let guard: gaia_jit::Guard<'_> = arena.pin();
/// // ... reads an address and runs the code there ...
/// drop(guard);
/// # Ok::<(), gaia_jit::Error>(())
/// ```
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
        // A thread that sees the counter as zero may overwrite the code. That comes after
        // everything that was done under the guard.
        self.counter.fetch_sub(1, Ordering::Release);
    }
}

/// Executes a sequentially consistent fence, after an atomic read-modify-write. Where that is a
/// full barrier already, a fence beside it would only cost time.
pub(super) fn fence_after_rmw() {
    if rmw_is_a_fence() {
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
}

/// Returns the shard of this thread, by the megabyte in which its stack lies.
fn shard() -> usize {
    if cfg!(loom) {
        // All threads of a model use one shard.
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
        // Set before the fence, so that a thread that must see the guard looks at its shard.
        if self.used.load(Ordering::Relaxed) >> shard & 1 == 0 {
            self.used.fetch_or(1 << shard, Ordering::Relaxed);
        }
        let age = self.youngest.load(Ordering::Relaxed) as usize & ((1 << AGE_BITS) - 1);
        let counter = &self.shards[shard].0[age];
        counter.fetch_add(1, Ordering::Relaxed);
        fence_after_rmw();
        Guard { counter }
    }

    /// Returns whether a guard is one of these.
    #[cfg_attr(any(not(feature = "cache"), loom), allow(dead_code, reason = "for the cache"))]
    pub(crate) fn holds(&self, guard: &Guard<'_>) -> bool {
        let shards = self.shards.as_ptr_range();
        (shards.start.addr()..shards.end.addr()).contains(&std::ptr::from_ref(guard.counter).addr())
    }

    /// Returns the counters of one age.
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

    /// Returns whether there is a guard. This thread made an atomic read-modify-write (the lock of
    /// a heap) after it made the block unfindable and before this call.
    pub(crate) fn any(&self) -> bool {
        fence_after_rmw();
        if self.used.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.used_shards().flat_map(|Shard(counters)| counters).any(|counter| counter.load(Ordering::Acquire) != 0)
    }

    /// Returns the epoch of the oldest guard, or `None` without guards. It needs no fence, because
    /// every block that waits in a heap was marked after the fence of [`Guards::any`], and the
    /// heap's lock passes that order on.
    pub(crate) fn oldest(&self) -> Option<u64> {
        let held = (0..AGES).filter(|&age| self.is_held(age));
        // Acquire, because the guard that was seen may have ended, and its counter may have a later
        // epoch. Then everything that was done under the guard comes before the code is
        // overwritten.
        held.map(|age| self.epochs[age].load(Ordering::Acquire)).min()
    }

    /// Returns the epoch of a drop that has to wait for the present guards, which [`Guards::any`]
    /// saw before on this thread.
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

    /// Makes a counter that is zero the youngest, if the last drop found none and there is one now.
    #[inline]
    pub(crate) fn catch_up(&self) {
        if self.owed.load(Ordering::Relaxed) != 0 {
            self.advance();
        }
    }

    /// Makes a counter that is zero the youngest, if there is one.
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
            // Release, because `is_held` acquired the ends of the guards of this counter.
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

    /// As many ages as there are counters are distinguished; one more counts with the youngest of
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
