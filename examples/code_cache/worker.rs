//! The work of a thread: it takes requests, runs their programs, and compares the results.

use std::sync::atomic::{AtomicBool, Ordering};

use fastrand::Rng;

use crate::cache::Cache;
use crate::common::failure::Failure;
use crate::counters::Counters;
use crate::language::machine::Machine;
use crate::native::Entry;
use crate::native::compiler::Compiler;
use crate::options::Options;
use crate::tiers::Tiers;
use crate::workload::{Case, Unit};

/// The number of programs that one request runs.
const REQUEST: usize = 8;

/// The number of requests after which the hot programs move on by one, so that the cache never
/// settles.
const REQUESTS_PER_STEP: u64 = 16;

pub(crate) struct Worker<'a> {
    cache: &'a Cache<'a>,
    tiers: &'a Tiers<'a>,
    units: &'a [Unit],
    counters: &'a Counters,
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
        tiers: &'a Tiers<'a>,
        units: &'a [Unit],
        counters: &'a Counters,
    ) -> Result<Self, Failure> {
        Ok(Self {
            cache,
            tiers,
            units,
            counters,
            recompile_percent: options.recompile_percent,
            compiler: Compiler::for_host().map_err(Failure::Input)?,
            machine: Machine::new(),
            rng: Rng::with_seed(options.seed.wrapping_add(1 + number as u64)),
            requests: 0,
        })
    }

    pub(crate) fn work(mut self, stop: &AtomicBool) -> Result<(), Failure> {
        while !stop.load(Ordering::Relaxed) {
            for unit in self.request() {
                self.serve(unit)?;
            }
        }
        Ok(())
    }

    /// Returns the programs to run. Some are run much more often than others.
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

    /// Runs all cases of a program, in the cache or not.
    fn serve(&mut self, unit: usize) -> Result<(), Failure> {
        if unit < self.tiers.count() {
            return self.units[unit].cases.iter().try_for_each(|case| self.run_tiered(unit, case));
        }
        let cache = self.cache;
        let guard = cache.pin();
        if let Some(entry) = cache.find(&guard, unit) {
            self.counters.found.add(1);
            self.run(unit, entry);
            return Ok(());
        }
        drop(guard);
        let again = self.rng.u8(..100) < self.recompile_percent;
        let held = cache.load(unit, || if again { self.recompile(unit) } else { Ok(()) })?;
        // SAFETY: the entry is the trampoline, which was compiled with this signature. It is called
        // while the entry is held.
        let entry = unsafe { held.as_fn() };
        self.run(unit, entry);
        Ok(())
    }

    /// Compiles a program again, as a runtime does that keeps nothing of evicted programs. The code
    /// has to be the same.
    fn recompile(&mut self, unit: usize) -> Result<(), Failure> {
        let Unit { program, object, .. } = &self.units[unit];
        if self.compiler.compile(program).map_err(Failure::Run)? != *object {
            self.counters.mismatch(|| format!("{}: compiled to other code than before", program.name.text));
        }
        self.counters.recompiled.add(1);
        Ok(())
    }

    /// Runs all cases of a program that the caller keeps alive meanwhile.
    fn run(&mut self, unit: usize, entry: Entry) {
        for case in &self.units[unit].cases {
            self.machine.reset(self.units[unit].program.steps);
            // SAFETY: the code was compiled for this signature. No other thread has the machine,
            // and `arguments` has as many words as any entry reads. The caller keeps the code
            // alive, and its stack is bounded (`MAX_DEPTH`).
            let given = unsafe { entry(&mut self.machine, case.arguments.as_ptr()) };
            self.check(unit, case, given);
        }
    }

    fn run_tiered(&mut self, unit: usize, case: &Case) -> Result<(), Failure> {
        let given = self.tiers.run(unit, &mut self.machine, case)?;
        self.check(unit, case, given);
        Ok(())
    }

    fn check(&self, unit: usize, case: &Case, given: i64) {
        self.counters.calls.add(1);
        if given != case.expected {
            self.counters.mismatch(|| {
                let (name, expected) = (&self.units[unit].program.name.text, case.expected);
                format!("{name}{:?} gives {given} as machine code, {expected} in the interpreter", case.arguments)
            });
        }
    }
}
