//! Freed space kept at hand, so that threads that publish and drop small functions do not queue on the arena's lock.
//!
//! A shelf holds a few runs of each small size. A thread puts the space of a dropped block on its own shelf and takes
//! space of just the size it needs from there; only when there is none, or no room for more, does it go to the books,
//! with several runs at a time. New space is cut from a stretch of the shelf's own, so that functions which a thread
//! publishes one after another lie one after another, and threads do not write to the same cache lines. For the books, space on a shelf is taken. Whoever needs the whole truth (figures, a
//! trim, a request that found nothing) first takes everything off all shelves, so nothing is ever refused, or fails to
//! coalesce, because it lies on one.
//!
//! A shelf's lock is taken before the lock of the books, and given back after it: runs are never between the two. The
//! whole truth takes all shelves first and the books then; one shelf after another would miss what passes it by.
#![forbid(unsafe_code)]

use super::tally::Tally;
use crate::space::Run;
use crate::sync::checked::{Mutex, MutexGuard};
use crate::sync::thread_number;

/// More threads than this share shelves.
pub(super) const SHELVES: usize = if cfg!(loom) { 2 } else { 16 };
/// Sizes in granules that are shelved, up to 1 KiB.
const SIZES: usize = 65;
/// Runs of one size on one shelf: 268 KiB a shelf at the most.
const DEPTH: usize = 8;

pub(super) struct Shelves {
    shelves: Vec<Shelf>,
}

/// Alone on its cache lines, and the ones fetched along with them.
#[repr(align(128))]
struct Shelf(Mutex<Content>);

struct Content {
    starts: [[u32; DEPTH]; SIZES],
    counts: [u8; SIZES],
    /// A stretch to cut new space from.
    stretch: Run,
    /// What was published from, and dropped to, this shelf since it was last cleared.
    tally: Tally,
}

impl Content {
    fn pop(&mut self, len: u32) -> Option<Run> {
        let (starts, count) = (self.starts.get(len as usize)?, self.counts.get_mut(len as usize)?);
        let last = count.checked_sub(1)?;
        let start = *starts.get(usize::from(last))?;
        *count = last;
        Some(Run::new(start, len))
    }

    fn push(&mut self, run: Run) -> bool {
        let len = run.len() as usize;
        let (Some(starts), Some(count)) = (self.starts.get_mut(len), self.counts.get_mut(len)) else { return false };
        let Some(start) = starts.get_mut(usize::from(*count)) else { return false };
        *start = run.start;
        *count += 1;
        true
    }
}

impl Shelves {
    pub(super) fn new() -> Self {
        let content = || Content {
            starts: [[0; DEPTH]; SIZES],
            counts: [0; SIZES],
            stretch: Run::new(0, 0),
            tally: Tally::default(),
        };
        Self { shelves: (0..SHELVES).map(|_| Shelf(Mutex::new(content()))).collect() }
    }

    fn mine(&self) -> &Mutex<Content> {
        let Shelf(content) = &self.shelves[thread_number() % SHELVES];
        content
    }

    /// Space of just `len` granules, for `bytes` of code: off the shelf, or cut from the stretch. When that is used up,
    /// `more` may give another, or the space itself; what is left of the last one goes to it.
    pub(super) fn take(&self, len: u32, bytes: u32, more: impl FnOnce(Run) -> Option<Run>) -> Option<Run> {
        if len as usize >= SIZES {
            return None;
        }
        let mut content = self.mine().lock();
        let run = match content.pop(len) {
            Some(run) => run,
            None => {
                if content.stretch.len() < len {
                    let rest = std::mem::replace(&mut content.stretch, Run::new(0, 0));
                    content.stretch = more(rest)?;
                }
                content.stretch.split_off(len)
            }
        };
        content.tally.publish(run, bytes);
        Some(run)
    }

    /// Puts the space of `bytes` of dropped code on the shelf. What there is no room for, and all else of its size, goes
    /// to `spill`. Space that is too large for a shelf comes back.
    pub(super) fn put(
        &self,
        run: Run,
        bytes: u32,
        spill: impl FnOnce(&mut dyn Iterator<Item = Run>),
    ) -> Result<(), Run> {
        if run.len() as usize >= SIZES {
            return Err(run);
        }
        let mut content = self.mine().lock();
        content.tally.retire(run, bytes);
        if !content.push(run) {
            let mut rest = std::iter::from_fn(|| content.pop(run.len()));
            spill(&mut std::iter::once(run).chain(&mut rest));
        }
        Ok(())
    }

    /// Takes all shelves, so that nothing comes or goes.
    pub(super) fn hold(&self) -> Held<'_> {
        Held(self.shelves.iter().map(|Shelf(content)| content.lock()).collect())
    }

    /// As [`Shelves::hold`], unless another thread has one of them.
    pub(super) fn try_hold(&self) -> Option<Held<'_>> {
        self.shelves.iter().map(|Shelf(content)| content.try_lock()).collect::<Option<_>>().map(Held)
    }
}

/// All shelves, held.
pub(super) struct Held<'a>(Vec<MutexGuard<'a, Content>>);

impl Held<'_> {
    /// Hands over everything that is on them, and their tallies.
    pub(super) fn clear(&mut self, mut hand_over: impl FnMut(&mut dyn Iterator<Item = Run>, Tally)) {
        for content in &mut self.0 {
            let tally = std::mem::take(&mut content.tally);
            if tally == Tally::default() {
                // Nothing came or went: all that was flushed is counted, even if the rest adds up to nothing.
                continue;
            }
            let stretch = std::mem::replace(&mut content.stretch, Run::new(0, 0));
            let stretch = (stretch.len() > 0).then_some(stretch);
            let mut sizes = 1..SIZES as u32;
            let mut size = 0;
            let mut all = std::iter::from_fn(|| {
                loop {
                    match content.pop(size) {
                        Some(run) => return Some(run),
                        None => size = sizes.next()?,
                    }
                }
            });
            hand_over(&mut stretch.into_iter().chain(&mut all), tally);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn no_more(_: Run) -> Option<Run> {
        panic!("asked for more than it needs")
    }

    fn no_spill(_: &mut dyn Iterator<Item = Run>) {
        panic!("there is room")
    }

    /// All that is handed over, and the sum of the tallies.
    fn cleared(shelves: &Shelves) -> (Vec<Run>, Tally) {
        let (mut all, mut sum) = (Vec::new(), Tally::default());
        shelves.hold().clear(|runs, tally| {
            all.extend(runs);
            sum.merge(tally);
        });
        all.sort_unstable();
        (all, sum)
    }

    #[test]
    fn a_stretch_is_cut_to_its_end() {
        let shelves = Shelves::new();
        let first = shelves.take(60, 950, |rest| {
            assert_eq!(rest.len(), 0);
            Some(Run::new(100, 64))
        });
        assert_eq!((first, shelves.take(4, 50, no_more)), (Some(Run::new(100, 60)), Some(Run::new(160, 4))));
        let (runs, tally) = cleared(&shelves);
        assert_eq!((runs.len(), tally.blocks(), tally.bytes(), tally.granules()), (0, 2, 1_000, 64));
        assert_eq!(cleared(&shelves), (Vec::new(), Tally::default()), "once");
    }

    #[test]
    fn what_is_left_of_a_stretch_goes_back() {
        let shelves = Shelves::new();
        assert!(shelves.take(10, 160, |_| Some(Run::new(0, 12))).is_some());
        let next = shelves.take(3, 48, |rest| {
            assert_eq!(rest, Run::new(10, 2));
            Some(Run::new(50, 8))
        });
        assert_eq!(next, Some(Run::new(50, 3)));
        assert_eq!(cleared(&shelves).0, [Run::new(53, 5)]);
        assert_eq!(shelves.take(3, 48, |_| None), None);
        assert_eq!(cleared(&shelves).0, []);
    }

    #[test]
    fn freed_space_serves_the_next_of_its_size() {
        let shelves = Shelves::new();
        for start in [0, 7] {
            assert_eq!(shelves.put(Run::new(start, 5), 70, no_spill), Ok(()));
        }
        assert_eq!(shelves.take(5, 80, no_more), Some(Run::new(7, 5)));
        assert_eq!(shelves.take(4, 64, |_| None), None, "not of another size");
        assert_eq!(cleared(&shelves).0, [Run::new(0, 5)]);
    }

    #[test]
    fn a_full_shelf_is_emptied_at_once() {
        let shelves = Shelves::new();
        for n in 0..DEPTH as u32 {
            assert_eq!(shelves.put(Run::new(n, 1), 16, no_spill), Ok(()));
        }
        let mut spilled = 0;
        assert_eq!(shelves.put(Run::new(99, 1), 16, |runs| spilled = runs.count()), Ok(()));
        assert_eq!((spilled, cleared(&shelves).0.len()), (DEPTH + 1, 0));
    }

    #[test]
    fn large_space_is_not_shelved() {
        let shelves = Shelves::new();
        let (largest, larger) = (Run::new(0, SIZES as u32 - 1), Run::new(0, SIZES as u32));
        assert_eq!((shelves.put(largest, 16, no_spill), shelves.put(larger, 16, no_spill)), (Ok(()), Err(larger)));
        assert_eq!(
            (shelves.take(larger.len(), 16, no_more), shelves.take(largest.len(), 16, no_more)),
            (None, Some(largest))
        );
    }

    #[test]
    fn held_shelves_cannot_be_held_again() {
        let shelves = Shelves::new();
        let held = shelves.try_hold();
        assert!(held.is_some() && shelves.try_hold().is_none());
        drop(held);
        assert!(shelves.try_hold().is_some());
    }

    #[test]
    fn any_number_of_threads_finds_a_shelf() {
        let shelves = Shelves::new();
        for _ in 0..SHELVES * SHELVES + 1 {
            let put = || shelves.put(Run::new(0, 1), 16, |runs| runs.for_each(drop));
            std::thread::scope(|scope| assert_eq!(scope.spawn(put).join().ok(), Some(Ok(()))));
        }
        assert!(!cleared(&shelves).0.is_empty());
    }
}
