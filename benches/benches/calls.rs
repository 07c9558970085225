//! Random calls over 64 MiB of code, huge pages on and off.

mod common;

use criterion::{Criterion, criterion_group, criterion_main};
use gaia_jit::WxMode;
use gaia_jit_benches::peers::gaia;
use gaia_jit_benches::rows::Called;

fn calls(criterion: &mut Criterion) {
    let mut group = common::group(criterion, "all functions in 64 MiB, at random");
    for mode in [WxMode::Flip, WxMode::DualMap] {
        for huge in [false, true] {
            let mut called = None;
            common::bench(&mut group, &gaia::name(mode, huge), |rounds| {
                let called = match &mut called {
                    Some(called) => called,
                    empty => empty.insert(Called::new(gaia::Arena::new(mode, huge, 130_000)?, 64 << 20)?),
                };
                Ok((0..rounds).map(|_| called.call_all()).sum::<f64>() / rounds as f64)
            });
        }
    }
}

criterion_group!(benches, calls);
criterion_main!(benches);
