//! What each thread does: take requests, fetch the programs they name, run them, compare.

use std::sync::atomic::{AtomicBool, Ordering};

use fastrand::Rng;

use crate::cache::Cache;
use crate::failure::Failure;
use crate::language::machine::Machine;
use crate::native::compiler::Compiler;
use crate::options::Options;
use crate::tally::Tally;
use crate::workload::Unit;

/// Programs that one request runs. Those that are missing are published together.
pub(crate) const REQUEST: usize = 8;

/// The hot programs move on by one every so many requests, so that the cache never settles.
const REQUESTS_PER_STEP: u64 = 16;

pub(crate) struct Worker<'a> {
    cache: &'a Cache<'a>,
    units: &'a [Unit],
    tally: &'a Tally,
    recompile_percent: u8,
    compiler: Compiler,
    machine: Machine,
    rng: Rng,
    requests: u64,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(
        number: usize,
        options: &Options,
        cache: &'a Cache<'a>,
        units: &'a [Unit],
        tally: &'a Tally,
    ) -> Result<Self, Failure> {
        Ok(Self {
            cache,
            units,
            tally,
            recompile_percent: options.recompile_percent,
            compiler: Compiler::for_host().map_err(Failure::Input)?,
            machine: Machine::new(),
            rng: Rng::with_seed(options.seed.wrapping_add(1 + number as u64)),
            requests: 0,
        })
    }

    pub(crate) fn work(mut self, stop: &AtomicBool) -> Result<(), Failure> {
        while !stop.load(Ordering::Relaxed) {
            let mut waiting = self.request();
            // Another thread may evict what was just published, hence the loop.
            while !waiting.is_empty() {
                self.fetch(&waiting)?;
                waiting.retain(|unit| !self.run(*unit));
            }
        }
        Ok(())
    }

    /// Programs to run, some of them much more often than others.
    fn request(&mut self) -> Vec<usize> {
        self.requests += 1;
        let step = self.requests / REQUESTS_PER_STEP;
        let count = self.units.len();
        let mut request: Vec<_> = (0..REQUEST)
            .map(|_| {
                let share = self.rng.f64();
                ((share * share * share * count as f64) as usize + step as usize) % count
            })
            .collect();
        request.sort_unstable();
        request.dedup();
        request
    }

    /// Publishes those that are not in the cache.
    fn fetch(&mut self, units: &[usize]) -> Result<(), Failure> {
        let missing: Vec<_> = units.iter().copied().filter(|unit| !self.cache.holds(*unit)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.tally.misses.add(missing.len());
        for &unit in &missing {
            if self.rng.u8(..100) < self.recompile_percent {
                self.recompile(unit)?;
            }
        }
        self.cache.load(&missing)
    }

    /// Compiles a program again, as a runtime would that keeps nothing of what it evicts. The code has to be the same.
    fn recompile(&mut self, unit: usize) -> Result<(), Failure> {
        let Unit { program, object, .. } = &self.units[unit];
        if self.compiler.compile(program).map_err(Failure::Run)? != *object {
            self.tally.mismatch(|| format!("{}: compiled to other code than before", program.name.text));
        }
        self.tally.recompiled.add(1);
        Ok(())
    }

    /// Runs all cases of a program; false if it is not in the cache.
    fn run(&mut self, unit: usize) -> bool {
        let Unit { program, cases, .. } = &self.units[unit];
        let guard = self.cache.pin();
        for case in cases {
            let Some(given) = self.cache.run(&guard, unit, &mut self.machine, case) else { return false };
            self.tally.calls.add(1);
            if given != case.expected {
                self.tally.mismatch(|| {
                    let (name, expected) = (&program.name.text, case.expected);
                    format!("{name}{:?} gives {given} as machine code, {expected} in the interpreter", case.arguments)
                });
            }
        }
        true
    }
}
