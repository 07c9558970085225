//! Churn: drop a random block, publish another.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Store;
use crate::code;
use crate::measure::per;
use crate::trace::{Churn, sizes};

/// A store with its live blocks, and the trace that replaces them.
pub struct Churner<S: Store> {
    pub store: S,
    live: Vec<Option<S::Block>>,
    trace: Churn,
    source: Vec<u8>,
}

impl<S: Store> Churner<S> {
    /// Publishes `live` functions to begin with.
    pub fn new(mut store: S, live: usize, seed: u64) -> Result<Self> {
        let source = code::source();
        let blocks = store.fill(&sizes(live, seed), &source)?;
        let live: Vec<_> = blocks.into_iter().map(Some).collect();
        Ok(Self { trace: Churn::new(live.len(), seed ^ 1), store, live, source })
    }

    /// Nanoseconds for each of `steps` replacements.
    pub fn run(&mut self, steps: usize) -> Result<f64> {
        let trace = self.trace.steps(steps);
        let start = Instant::now();
        for step in &trace {
            let slot = &mut self.live[step.victim as usize];
            if let Some(block) = slot.take() {
                self.store.retire(block)?;
            }
            *slot = Some(self.store.publish(&self.source[..usize::from(step.size)])?);
        }
        Ok(per(start.elapsed(), steps))
    }

    /// Churns until `steps` were made or time is up; the steps made.
    pub fn age(&mut self, steps: usize, patience: Duration) -> Result<usize> {
        let deadline = Instant::now() + patience;
        let mut made = 0;
        while made < steps && Instant::now() < deadline {
            let now = (steps - made).min(500);
            self.run(now)?;
            made += now;
        }
        Ok(made)
    }

    /// Steps that take about `budget`, at least 200 and at most `most`.
    pub fn steps_within(&mut self, budget: Duration, most: usize) -> Result<usize> {
        let each = self.run(200)?;
        Ok(((budget.as_nanos() as f64 / each) as usize).clamp(200, most))
    }

    /// The lowest and highest addresses of live blocks.
    pub fn span(&self) -> Result<std::ops::Range<usize>> {
        let addresses = || self.live.iter().flatten().map(|block| self.store.address(block).addr());
        let least = addresses().min().context("no live blocks")?;
        Ok(least..addresses().max().context("no live blocks")? + 1)
    }

    /// The addresses of the live blocks.
    pub fn addresses(&self) -> Vec<*const u8> {
        self.live.iter().flatten().map(|block| self.store.address(block)).collect()
    }
}
