//! Guards against drops: the runtime's table, the guard's slot and the epoch.
//!
//! A model has a table with one function, as a runtime has it, and the guards of an arena, without
//! the arena. One thread takes a guard and runs the function, another removes it, retires it and
//! uses its space again. The function is a cell of loom's: a model fails if it is read and written
//! without an order between the two.
//!
//! The counters are few here (three ages), so that models also reach the case that none is zero.

use loom::cell::UnsafeCell;
use std::sync::atomic::Ordering;

use super::super::guards::Guards;
use super::{Arc, check, spawn};
use crate::sync::checked::{AtomicU64, AtomicUsize};

/// A runtime with one function: its table says which is there, and loom watches the code's memory
/// for races.
struct Runtime {
    guards: Guards,
    table: AtomicUsize,
    code: UnsafeCell<usize>,
    /// Of the lookup: what is written to before the guards are looked at.
    head: AtomicU64,
}

// SAFETY: that the cell is not written while it is read is what loom checks.
unsafe impl Sync for Runtime {}

impl Runtime {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            guards: Guards::new(),
            table: AtomicUsize::new(1),
            code: UnsafeCell::new(1),
            head: AtomicU64::new(1),
        })
    }

    /// Runs what the table says, under a guard.
    fn run(&self) {
        let guard = self.guards.pin();
        let function = self.table.load(Ordering::Acquire);
        if function != 0 {
            // SAFETY: read only; that nobody writes meanwhile is what loom checks.
            self.code.with(|code| assert_eq!(unsafe { *code }, function, "ran another function"));
        }
        drop(guard);
    }

    /// Takes the function out of the table and drops it: the epoch it waits for, if it has to.
    fn retire(&self) -> Option<u64> {
        self.table.store(0, Ordering::Release);
        self.head.fetch_and(0, Ordering::Release);
        self.guards.any().then(|| self.guards.next_epoch())
    }

    fn is_due(&self, epoch: Option<u64>) -> bool {
        epoch.is_none_or(|epoch| self.guards.oldest().is_none_or(|oldest| epoch < oldest))
    }

    /// Another function in the same place.
    fn reuse(&self, function: usize) {
        // SAFETY: as in `run`.
        self.code.with_mut(|code| unsafe { *code = function });
        self.table.store(function, Ordering::Release);
    }
}

/// Two threads run, one drops and publishes over it. Two preemptions.
#[test]
fn code_is_not_reused_under_a_guard() {
    check(2, || {
        let runtime = Runtime::new();
        let runners = [0; 2].map(|_| {
            let runtime = Arc::clone(&runtime);
            spawn(move || runtime.run())
        });
        let epoch = runtime.retire();
        if runtime.is_due(epoch) {
            runtime.reuse(2);
        }
        runners.into_iter().for_each(|runner| runner.join().unwrap());
        assert!(runtime.is_due(epoch), "nobody is left to wait for");
    });
}

/// One thread runs twice, so that its slot is taken again, while another drops, publishes over it,
/// and drops again. Three preemptions.
#[test]
fn a_slot_that_is_taken_again_guards_again() {
    check(3, || {
        let runtime = Runtime::new();
        let runner = {
            let runtime = Arc::clone(&runtime);
            spawn(move || (0..2).for_each(|_| runtime.run()))
        };
        for function in [2, 3] {
            let epoch = runtime.retire();
            if runtime.is_due(epoch) {
                runtime.reuse(function);
            }
        }
        runner.join().unwrap();
    });
}

/// A guard that was there all along makes the drop wait, so that the epoch counts: a guard taken
/// meanwhile holds the drop back just if it may have seen the function. Three preemptions.
#[test]
fn an_epoch_tells_older_guards_from_younger_ones() {
    check(3, || {
        let runtime = Runtime::new();
        let older = runtime.guards.pin();
        let runner = {
            let runtime = Arc::clone(&runtime);
            spawn(move || runtime.run())
        };
        let epoch = runtime.retire();
        assert!(epoch.is_some() && !runtime.is_due(epoch));
        drop(older);
        let younger = runtime.guards.pin();
        if runtime.is_due(epoch) {
            runtime.reuse(2);
        }
        runner.join().unwrap();
        assert!(runtime.is_due(epoch), "the younger guard does not hold it back");
        drop(younger);
    });
}

/// Guards of every age that is told apart (three, in models) are held, so that the runner's guard
/// counts with the last of them; one age ends meanwhile and its counter is the youngest again. Two
/// preemptions.
#[test]
fn guards_count_when_no_counter_is_left() {
    check(2, || {
        let runtime = Runtime::new();
        let mut held: Vec<_> = (0..3)
            .map(|_| {
                let guard = runtime.guards.pin();
                runtime.guards.next_epoch();
                guard
            })
            .collect();
        let runner = {
            let runtime = Arc::clone(&runtime);
            spawn(move || runtime.run())
        };
        let epoch = runtime.retire();
        assert!(epoch.is_some() && !runtime.is_due(epoch));
        drop(held.remove(0));
        runtime.guards.advance();
        held.clear();
        if runtime.is_due(epoch) {
            runtime.reuse(2);
        }
        runner.join().unwrap();
        assert!(runtime.is_due(epoch), "nobody is left to wait for");
    });
}

/// What a drop found unguarded is used again at once. Three preemptions.
#[test]
fn what_nobody_guards_is_used_again_at_once() {
    check(3, || {
        let runtime = Runtime::new();
        let runner = {
            let runtime = Arc::clone(&runtime);
            spawn(move || runtime.run())
        };
        if runtime.retire().is_none() {
            runtime.reuse(2);
        }
        runner.join().unwrap();
    });
}

/// The counter that a guard is about to add to is passed by, and is the youngest again before it
/// does. Three preemptions.
#[test]
fn a_counter_that_is_the_youngest_again_guards_again() {
    check(3, || {
        let runtime = Runtime::new();
        let runner = {
            let runtime = Arc::clone(&runtime);
            spawn(move || runtime.run())
        };
        let advance = || (0..3).for_each(|_| runtime.guards.advance());
        advance();
        let epoch = runtime.retire();
        advance();
        if runtime.is_due(epoch) {
            runtime.reuse(2);
        }
        runner.join().unwrap();
    });
}

/// One thread lets counters be the youngest again while another reclaims: what was done under a
/// guard that has ended comes before what is done to the code next. Three preemptions.
#[test]
fn the_end_of_a_guard_is_seen_by_its_counters_next_epoch() {
    check(3, || {
        let runtime = Runtime::new();
        let runner = {
            let runtime = Arc::clone(&runtime);
            spawn(move || runtime.run())
        };
        let advancer = {
            let runtime = Arc::clone(&runtime);
            spawn(move || (0..2).for_each(|_| runtime.guards.advance()))
        };
        let epoch = runtime.retire();
        if runtime.is_due(epoch) {
            runtime.reuse(2);
        }
        runner.join().unwrap();
        advancer.join().unwrap();
    });
}

/// Two threads drop at one time, each in another heap; what one of them drops is run. Three
/// preemptions.
#[test]
fn drops_in_two_heaps_agree_on_epochs() {
    check(3, || {
        let runtime = Runtime::new();
        let runner = {
            let runtime = Arc::clone(&runtime);
            spawn(move || runtime.run())
        };
        let other = {
            let runtime = Arc::clone(&runtime);
            spawn(move || (0..2).for_each(|_| assert!(runtime.guards.next_epoch() > 0)))
        };
        let epoch = runtime.retire();
        if runtime.is_due(epoch) {
            runtime.reuse(2);
        }
        runner.join().unwrap();
        other.join().unwrap();
        assert!(runtime.is_due(epoch), "nobody is left to wait for");
    });
}
