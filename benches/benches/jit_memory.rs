//! `JitMemory`: a whole life, and a write in blocks of two sizes.

mod common;

use std::time::{Duration, Instant};

use anyhow::Result;
use criterion::{Criterion, criterion_group, criterion_main};
use gaia_jit_benches::code;
use gaia_jit_benches::measure::{per, try_time};
use gaia_jit_benches::peers::single::Single;
use gaia_jit_benches::peers::{Store, floors, gaia01};

fn life<B: Single>(count: usize, code: &[u8]) -> Result<f64> {
    try_time(count, |_| {
        let mut block = B::new(4096)?;
        block.write(code)?;
        block.make_executable()?;
        Ok(())
    })
}

/// Writes to the second half of a page, of a block that was full before it.
fn write<B: Single>(count: usize, capacity: usize, code: &[u8]) -> Result<f64> {
    let (filler, mut elapsed, mut left) = (code::returns(capacity - 2048), Duration::ZERO, count);
    while left > 0 {
        let mut block = B::new(capacity)?;
        block.write(&filler)?;
        block.make_executable()?;
        for _ in 0..left.min(2048 / code.len()) {
            let start = Instant::now();
            block.write(code)?;
            block.make_executable()?;
            elapsed += start.elapsed();
            left -= 1;
        }
    }
    Ok(per(elapsed, count))
}

fn jit_memory(criterion: &mut Criterion) {
    let code = code::returns(64);
    let mut group = common::group(criterion, "JitMemory: new, write, make_executable, drop");
    common::bench(&mut group, "gaia-jit", |count| life::<gaia_jit::JitMemory>(count, &code));
    common::bench(&mut group, gaia01::NAME, |count| life::<gaia_jit_01::JitMemory>(count, &code));
    common::bench(&mut group, floors::SYSCALLS, |count| {
        try_time(count, |_| {
            let block = floors::Syscalls.publish(&code)?;
            floors::Syscalls.retire(block)
        })
    });
    group.finish();
    for (name, capacity) in [("4 KiB", 4096), ("4 MiB", 4 << 20)] {
        let mut group = common::group(criterion, &format!("JitMemory: write and make_executable in {name}"));
        common::bench(&mut group, "gaia-jit", |count| write::<gaia_jit::JitMemory>(count, capacity, &code));
        common::bench(&mut group, gaia01::NAME, |count| write::<gaia_jit_01::JitMemory>(count, capacity, &code));
    }
}

criterion_group!(benches, jit_memory);
criterion_main!(benches);
