//! One engine, running for some time on all threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::common::failure::Failure;
use crate::common::threads::on_threads;
use crate::counts::Counts;
use crate::engine::Engine;
use crate::options::Options;
use crate::workload::{Item, Order, STACK_BYTES};

/// The result of an engine.
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    pub(crate) counts: Counts,
    /// The time from the start until the last thread ended.
    pub(crate) time: Duration,
}

/// The common input of all phases.
pub(crate) struct Run<'a> {
    pub(crate) options: &'a Options,
    pub(crate) items: &'a [Item],
    pub(crate) bar: &'a ProgressBar,
    pub(crate) phase_time: Duration,
}

impl Run<'_> {
    /// Runs the same sequence of queries as the other phases, until time is up.
    pub(crate) fn phase<E: Engine>(
        &self,
        name: &'static str,
        engine: impl Fn() -> Result<E, Failure> + Sync,
    ) -> Result<Outcome, Failure> {
        self.bar.set_message(name);
        let stop = AtomicBool::new(false);
        let start = Instant::now();
        let work = |number| {
            let counts = engine().and_then(|engine| self.work(number, engine, &stop));
            // A thread that fails stops the others.
            counts.inspect_err(|_| stop.store(true, Ordering::Relaxed))
        };
        let counts = thread::scope(|scope| {
            scope.spawn(|| self.watch(&stop));
            on_threads(self.options.threads, STACK_BYTES, work)
        })?;
        Ok(Outcome { name, counts: counts.into_iter().sum(), time: start.elapsed() })
    }

    fn work(&self, number: usize, mut engine: impl Engine, stop: &AtomicBool) -> Result<Counts, Failure> {
        let mut order = Order::new(self.options, number, self.items.len());
        let mut counts = Counts::default();
        while !stop.load(Ordering::Relaxed) {
            let Item { text, expected } = &self.items[order.next()];
            let given = engine.run(text, &mut counts)?;
            counts.check(text, given, *expected);
        }
        Ok(counts)
    }

    /// Moves the progress bar until time is up or the threads have stopped.
    fn watch(&self, stop: &AtomicBool) {
        let before = self.bar.position();
        let start = Instant::now();
        while start.elapsed() < self.phase_time && !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(50).min(self.phase_time.saturating_sub(start.elapsed())));
            self.bar.set_position(before + start.elapsed().min(self.phase_time).as_millis() as u64);
        }
        stop.store(true, Ordering::Relaxed);
    }
}
