//! What the criterion benchmarks share: the peers measure themselves, criterion asks for more or
//! fewer rounds.

use std::time::Duration;

use anyhow::Result;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};

/// A group with few, long samples.
pub fn group<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    group
}

/// A benchmark of work that returns nanoseconds for each of `count` operations.
pub fn bench(group: &mut BenchmarkGroup<'_, WallTime>, peer: &str, mut work: impl FnMut(usize) -> Result<f64>) {
    group.bench_function(peer, |bencher| {
        bencher.iter_custom(|count| match work(count as usize) {
            Ok(ns) => Duration::from_nanos((ns * count as f64) as u64),
            Err(error) => panic!("{peer}: {error:#}"),
        });
    });
}
