//! What threads do without a lock, or between two of them, in every order that matters: loom runs
//! each model once for every interleaving (up to a number of preemptions that each model names) and
//! every value that an atomic may show. Run by `.ci/loom`. Models end by themselves: no thread of a
//! model waits for another.
//!
//! In `guards` and `lookup` nothing is ordered more than it has to be: with any one fence left out,
//! or any one access that is not relaxed made so, some model fails. (Two are not needed, and stay:
//! the number of a further line is stored with release and loaded with acquire.) Keep it that way,
//! or nobody can tell an order that is needed from one that is not.
//!
//! With `GAIA_MODEL_X86` set read-modify-writes are full barriers and no fence stands behind them,
//! as on x86.

mod arena;
mod guards;
mod lookup;

use std::sync::atomic::{AtomicU64, Ordering};

pub(super) use loom::sync::Arc;

/// Runs `model` in every order with up to `preemptions` switches away from a thread that could have
/// gone on; says how many orders that were.
pub(super) fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    let runs = std::sync::Arc::new(AtomicU64::new(0));
    let counted = std::sync::Arc::clone(&runs);
    let model = std::sync::Arc::new(model);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let model = std::sync::Arc::clone(&model);
        spawn(move || model()).join().unwrap();
    });
    eprintln!("{} orders", runs.load(Ordering::Relaxed));
}

/// A thread of a model, with room for what an arena keeps on the stack while it is built.
pub(super) fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> loom::thread::JoinHandle<T> {
    loom::thread::Builder::new().stack_size(1 << 16).spawn(f).unwrap()
}
