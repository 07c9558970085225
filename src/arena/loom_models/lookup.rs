//! Lookups against blocks that come and go: what is found was live, and is one block, not parts of
//! two. A signal handler that interrupted the writer is one of the orders.
//!
//! A model has a lookup of a few bins without an arena. Writers hold a lock in the place of a
//! heap's, as the arena's writers do. Readers take nothing.
//!
//! ```text
//! writer: enter, take out, shorten      reader: find(granule) --> None, or one whole record
//! ```
//!
//! A find that returns `None` is wrong if the block was live from before the find began until after
//! it ended, and a record is wrong if no block ever had this start, length and tag together.

use super::super::lookup::{Entry, Lookup};
use super::{Arc, check, spawn};
use crate::sync::checked::Mutex;
use crate::units::GRANULE;

/// Length and tag of the block at a granule, for comparing.
fn find(lookup: &Lookup, granule: u32) -> Option<(u32, u64)> {
    lookup.find(granule as usize * GRANULE).map(|entry| (entry.len, entry.tag))
}

fn lookup(granules: u32) -> Arc<Lookup> {
    Arc::new(Lookup::new(granules).unwrap())
}

fn enter(lookup: &Lookup, start: u32, len: u32, tag: u64) {
    lookup.enter(&[Entry::new(start, len, tag)]).unwrap();
}

fn remove(lookup: &Lookup, start: u32) {
    lookup.take_out(lookup.at(start).unwrap().run());
}

/// Runs `writer` on another thread, and returns what `reader` found meanwhile.
fn beside<T>(
    lookup: &Arc<Lookup>,
    writer: impl FnOnce(&Lookup) + Send + 'static,
    reader: impl FnOnce(&Lookup) -> T,
) -> T {
    let thread = {
        let lookup = Arc::clone(lookup);
        spawn(move || writer(&lookup))
    };
    let found = reader(lookup);
    thread.join().unwrap();
    found
}

/// One thread replaces a block by another at the same place, in the same slot; one looks it up, and
/// a neighbour that stays. Three preemptions.
#[test]
fn a_record_is_never_seen_in_parts() {
    check(3, || {
        let lookup = lookup(128);
        enter(&lookup, 0, 16, 1);
        enter(&lookup, 8, 48, 9);
        let write = |lookup: &Lookup| {
            remove(lookup, 0);
            enter(lookup, 0, 32, 2);
        };
        let (found, neighbour) = beside(&lookup, write, |lookup| (find(lookup, 0), find(lookup, 10)));
        assert!(matches!(found, None | Some((16, 1)) | Some((32, 2))), "{found:?}");
        assert_eq!(neighbour, Some((48, 9)), "a block that stays is always found");
        assert_eq!(find(&lookup, 1), Some((32, 2)));
    });
}

/// The same where one of them has no tag, and what stands in its place is never read. Three
/// preemptions.
#[test]
fn a_tag_belongs_to_its_block() {
    check(3, || {
        let lookup = lookup(128);
        enter(&lookup, 0, 16, 1);
        let write = |lookup: &Lookup| {
            remove(lookup, 0);
            enter(lookup, 0, 16, 0);
            remove(lookup, 0);
            enter(lookup, 0, 16, 3);
        };
        let found = beside(&lookup, write, |lookup| find(lookup, 0));
        assert!(matches!(found, None | Some((16, 0 | 1 | 3))), "{found:?}");
        assert_eq!(find(&lookup, 0), Some((16, 3)));
    });
}

/// Twice, and the second time with the first one's start and length: only the generation tells them
/// apart. Three preemptions.
#[test]
fn a_record_that_looks_the_same_is_not_taken_for_it() {
    check(3, || {
        let lookup = lookup(128);
        enter(&lookup, 0, 16, 1);
        let write = |lookup: &Lookup| {
            remove(lookup, 0);
            enter(lookup, 0, 32, 2);
            remove(lookup, 0);
            enter(lookup, 0, 16, 3);
        };
        let found = beside(&lookup, write, |lookup| find(lookup, 0));
        assert!(matches!(found, None | Some((16, 1)) | Some((32, 2)) | Some((16, 3))), "{found:?}");
    });
}

/// A slot that was freed and taken for another place in the bin. Three preemptions.
#[test]
fn a_record_that_moved_is_not_found_at_its_old_place() {
    check(3, || {
        let lookup = lookup(128);
        enter(&lookup, 0, 64, 1);
        let write = |lookup: &Lookup| {
            remove(lookup, 0);
            enter(lookup, 3, 16, 2);
        };
        let (old, new) = beside(&lookup, write, |lookup| (find(lookup, 0), find(lookup, 3)));
        assert!(matches!(old, None | Some((64, 1))), "{old:?}");
        assert!(matches!(new, None | Some((64, 1)) | Some((16, 2))), "{new:?}");
        assert_eq!((find(&lookup, 0), find(&lookup, 3)), (None, Some((16, 2))));
    });
}

/// A block that was gone before is not found in the slot of another that comes to the same place.
/// Three preemptions.
#[test]
fn what_was_retired_is_not_found_again() {
    check(3, || {
        let lookup = lookup(128);
        enter(&lookup, 0, 16, 1);
        remove(&lookup, 0);
        let found = beside(&lookup, |lookup| enter(lookup, 0, 32, 2), |lookup| find(lookup, 0));
        assert!(matches!(found, None | Some((32, 2))), "{found:?}");
    });
}

/// A thread enters a block in a bin whose first line is full, so that a further line is made;
/// another looks. Two preemptions.
#[test]
fn a_full_line_leads_to_the_next() {
    check(2, || {
        let lookup = lookup(128);
        (0..7).for_each(|slot| enter(&lookup, 2 * slot, 16, u64::from(slot)));
        let write = |lookup: &Lookup| enter(lookup, 30, 16, 30);
        let (new, old) = beside(&lookup, write, |lookup| (find(lookup, 30), find(lookup, 10)));
        assert!(matches!(new, None | Some((16, 30))), "{new:?}");
        assert_eq!(old, Some((16, 5)));
        assert_eq!(find(&lookup, 30), Some((16, 30)));
        // What is taken out of either line is gone.
        remove(&lookup, 30);
        remove(&lookup, 10);
        assert_eq!((find(&lookup, 30), find(&lookup, 10), find(&lookup, 12)), (None, None, Some((16, 6))));
    });
}

/// Two heaps make their first further lines at one time. Three preemptions.
#[test]
fn further_lines_belong_to_one_bin_each() {
    check(3, || {
        let lookup = lookup(512);
        for bin in [0, 256] {
            (0..7).for_each(|slot| enter(&lookup, bin + 2 * slot, 16, 1));
        }
        beside(&lookup, |lookup| enter(lookup, 30, 16, 2), |lookup| enter(lookup, 256 + 30, 16, 3));
        assert_eq!((find(&lookup, 30), find(&lookup, 256 + 30)), (Some((16, 2)), Some((16, 3))));
    });
}

/// A block whose tail lies in the next bin, where others come and go. Three preemptions.
#[test]
fn a_block_is_found_from_the_bins_behind_it() {
    check(3, || {
        let lookup = lookup(256);
        enter(&lookup, 100, 60 * 16, 1);
        let write = |lookup: &Lookup| {
            enter(lookup, 200, 16, 2);
            remove(lookup, 200);
        };
        let (tail, other) = beside(&lookup, write, |lookup| (find(lookup, 150), find(lookup, 200)));
        assert_eq!(tail, Some((960, 1)));
        assert!(matches!(other, None | Some((16, 2))), "{other:?}");
        assert_eq!(find(&lookup, 200), None);
    });
}

/// A block that reaches over whole spans, and one behind it that comes and goes with another that
/// reaches in. Two preemptions.
#[test]
fn a_block_is_found_from_the_spans_that_it_reaches_into() {
    check(2, || {
        let lookup = lookup(1024);
        enter(&lookup, 100, 500 * 16, 1);
        enter(&lookup, 600, 200 * 16, 2);
        let write = |lookup: &Lookup| {
            remove(lookup, 600);
            enter(lookup, 700, 100 * 16, 3);
        };
        let found = beside(&lookup, write, |lookup| [300, 599, 650, 790].map(|at| find(lookup, at)));
        assert_eq!(found[..2], [Some((8000, 1)); 2]);
        assert!(matches!(found[2], None | Some((3200, 2))), "{found:?}");
        assert!(matches!(found[3], None | Some((3200, 2)) | Some((1600, 3))), "{found:?}");
        assert_eq!([300, 599, 650, 790].map(|at| find(&lookup, at).map_or(0, |found| found.1)), [1, 1, 0, 3]);
    });
}

/// A bin is emptied under one lock and filled again; looked at from behind. Three preemptions.
#[test]
fn writers_come_one_after_another() {
    check(3, || {
        let lookup = lookup(256);
        let lock = Arc::new(Mutex::new(()));
        let writer = {
            let (lookup, lock) = (Arc::clone(&lookup), Arc::clone(&lock));
            spawn(move || {
                let _lock = lock.lock();
                enter(&lookup, 0, 16, 1);
                remove(&lookup, 0);
            })
        };
        {
            let _lock = lock.lock();
            enter(&lookup, 5, 200 * 16, 2);
        }
        assert_eq!(find(&lookup, 150), Some((3200, 2)));
        writer.join().unwrap();
        assert_eq!((find(&lookup, 0), find(&lookup, 5)), (None, Some((3200, 2))));
    });
}

/// An owner retires its block without the lock while whoever holds it writes to the same line; the
/// slot of another is used again. Three preemptions.
#[test]
fn an_owner_retires_without_the_lock() {
    check(3, || {
        let lookup = lookup(128);
        let lock = Arc::new(Mutex::new(()));
        enter(&lookup, 0, 16, 1);
        enter(&lookup, 5, 16, 2);
        let owner = {
            let (lookup, lock) = (Arc::clone(&lookup), Arc::clone(&lock));
            spawn(move || {
                let retired = lookup.retire(0);
                assert_eq!(find(&lookup, 0), None);
                let _lock = lock.lock();
                lookup.remove(Entry::new(0, 16, 1).run(), retired);
            })
        };
        {
            let retired = lookup.retire(5);
            let _lock = lock.lock();
            lookup.remove(Entry::new(5, 16, 2).run(), retired);
            lookup.enter_one(Entry::new(5, 32, 3)).unwrap();
        }
        assert_eq!(find(&lookup, 5), Some((32, 3)));
        let found = find(&lookup, 0);
        assert!(matches!(found, None | Some((16, 1))), "{found:?}");
        owner.join().unwrap();
        assert_eq!((find(&lookup, 0), find(&lookup, 5)), (None, Some((32, 3))));
    });
}

/// A block becomes shorter, twice, by its owner, and stays live: it is found all the time, with one
/// of its lengths and its tag. Where it reached into the next span, it is found there before or not
/// at all. Three preemptions.
#[test]
fn a_block_that_becomes_shorter_is_always_found() {
    use crate::space::granules::SPAN;
    check(3, || {
        let lookup = lookup(2 * SPAN);
        let (start, long) = (SPAN - 2, 4 * GRANULE as u32);
        enter(&lookup, start, long, 7);
        let write = move |lookup: &Lookup| {
            // The part in the next span goes, and its space is used again.
            lookup.set_len(start, 20);
            enter(lookup, SPAN, 16, 8);
            lookup.set_len(start, 10);
        };
        let (here, next) = beside(&lookup, write, |lookup| (find(lookup, start), find(lookup, SPAN)));
        assert!(matches!(here, Some((64 | 20 | 10, 7))), "{here:?}");
        assert!(matches!(next, None | Some((64, 7)) | Some((16, 8))), "{next:?}");
        assert_eq!((find(&lookup, start), find(&lookup, SPAN)), (Some((10, 7)), Some((16, 8))));
    });
}
