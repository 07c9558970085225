//! Lookups against blocks that come and go: what is found was live, and is one block, not parts of two.

use super::super::lookup::{Entry, Lookup};
use super::{Arc, check, spawn};
use crate::space::Run;
use crate::units::GRANULE;

/// Length and tag of the block at a granule, for comparing.
fn find(lookup: &Lookup, granule: u32) -> Option<(u32, u64)> {
    lookup.find(granule as usize * GRANULE).map(|entry| (entry.len, entry.tag))
}

fn lookup(granules: u32) -> Arc<Lookup> {
    Arc::new(Lookup::new(granules).unwrap())
}

fn enter(lookup: &Lookup, start: u32, len: u32, tag: u64) -> Entry {
    lookup.occupy(Run::new(start, len.div_ceil(GRANULE as u32)));
    lookup.enter(start, len, tag).unwrap()
}

/// One thread replaces a block by another at the same place, in the same record; one looks it up, and a neighbour that
/// stays. Three preemptions.
#[test]
fn a_record_is_never_seen_in_parts() {
    check(3, || {
        let lookup = lookup(128);
        let first = enter(&lookup, 0, 16, 1);
        enter(&lookup, 8, 48, 9);
        let writer = {
            let lookup = Arc::clone(&lookup);
            spawn(move || {
                lookup.remove(first);
                lookup.enter(0, 32, 2).unwrap();
            })
        };
        let found = find(&lookup, 0);
        assert!(matches!(found, None | Some((16, 1)) | Some((32, 2))), "{found:?}");
        assert_eq!(find(&lookup, 10), Some((48, 9)), "a block that stays is always found");
        writer.join().unwrap();
        assert_eq!(find(&lookup, 1), Some((32, 2)));
    });
}

/// Twice, and the second time with the first one's start and length: only the generation tells them apart. Three
/// preemptions.
#[test]
fn a_record_that_looks_the_same_is_not_taken_for_it() {
    check(3, || {
        let lookup = lookup(128);
        let first = enter(&lookup, 0, 16, 1);
        let writer = {
            let lookup = Arc::clone(&lookup);
            spawn(move || {
                lookup.remove(first);
                let second = lookup.enter(0, 32, 2).unwrap();
                lookup.remove(second);
                lookup.enter(0, 16, 3).unwrap();
            })
        };
        let found = find(&lookup, 0);
        assert!(matches!(found, None | Some((16, 1)) | Some((32, 2)) | Some((16, 3))), "{found:?}");
        writer.join().unwrap();
    });
}

/// A record that was freed and taken for another place in the bin. Three preemptions.
#[test]
fn a_record_that_moved_is_not_found_at_its_old_place() {
    check(3, || {
        let lookup = lookup(128);
        let first = enter(&lookup, 0, 64, 1);
        let writer = {
            let lookup = Arc::clone(&lookup);
            spawn(move || {
                lookup.remove(first);
                lookup.enter(3, 16, 2).unwrap();
            })
        };
        let found = find(&lookup, 0);
        assert!(matches!(found, None | Some((64, 1))), "{found:?}");
        let found = find(&lookup, 3);
        assert!(matches!(found, None | Some((64, 1)) | Some((16, 2))), "{found:?}");
        writer.join().unwrap();
        assert_eq!((find(&lookup, 0), find(&lookup, 3)), (None, Some((16, 2))));
    });
}

/// A block that was gone before is not found in the record of another that comes to the same place. Three preemptions.
#[test]
fn what_was_retired_is_not_found_again() {
    check(3, || {
        let lookup = lookup(128);
        let first = enter(&lookup, 0, 16, 1);
        lookup.remove(first);
        let writer = {
            let lookup = Arc::clone(&lookup);
            spawn(move || lookup.enter(0, 32, 2).map(drop).unwrap())
        };
        let found = find(&lookup, 0);
        assert!(matches!(found, None | Some((32, 2))), "{found:?}");
        writer.join().unwrap();
    });
}

/// A slot freed by one thread is taken by another, which must not write to the record before the first one has. Three
/// preemptions.
#[test]
fn a_record_has_one_writer_at_a_time() {
    check(3, || {
        let lookup = lookup(128);
        let freeing = {
            let lookup = Arc::clone(&lookup);
            spawn(move || {
                let entry = lookup.enter(0, 16, 1).unwrap();
                lookup.remove(entry);
            })
        };
        lookup.enter(5, 16, 2).unwrap();
        freeing.join().unwrap();
        assert_eq!((find(&lookup, 0), find(&lookup, 5)), (None, Some((16, 2))));
    });
}

/// Two threads enter blocks in a bin whose first group has one slot left, so that a second group, and the table of second
/// groups, is made by one of them; a third looks. Two preemptions.
#[test]
fn a_full_group_leads_to_the_next() {
    check(2, || {
        let lookup = lookup(128);
        for slot in 0..6 {
            enter(&lookup, 2 * slot, 16, u64::from(slot));
        }
        let writers = [20, 30].map(|start| {
            let lookup = Arc::clone(&lookup);
            spawn(move || lookup.enter(start, 16, u64::from(start)).map(drop).unwrap())
        });
        let found = find(&lookup, 30);
        assert!(matches!(found, None | Some((16, 30))), "{found:?}");
        assert_eq!(find(&lookup, 10), Some((16, 5)));
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        assert_eq!((find(&lookup, 20), find(&lookup, 30)), (Some((16, 20)), Some((16, 30))));
    });
}

/// A block whose tail lies in the next bin, where others come and go. Three preemptions.
#[test]
fn a_block_is_found_from_the_bins_behind_it() {
    check(3, || {
        let lookup = lookup(256);
        enter(&lookup, 100, 60 * 16, 1);
        let writer = {
            let lookup = Arc::clone(&lookup);
            spawn(move || {
                let other = enter(&lookup, 200, 16, 2);
                lookup.remove(other);
                lookup.vacate(other.run(), Run { start: 160, end: 256 });
            })
        };
        assert_eq!(find(&lookup, 150), Some((960, 1)));
        let found = find(&lookup, 200);
        assert!(matches!(found, None | Some((16, 2))), "{found:?}");
        writer.join().unwrap();
        assert_eq!(find(&lookup, 200), None);
    });
}
