//! One function at a time: publish and drop of a single function of 520 bytes.

mod common;

use anyhow::Result;
use criterion::{Criterion, criterion_group, criterion_main};
use gaia_jit::WxMode;
use gaia_jit_benches::code;
use gaia_jit_benches::measure::try_time;
use gaia_jit_benches::peers::{Store, asmkit, dynasm, floors, gaia, gaia01, kernel_write, malloc};

fn publish<S: Store>(store: Result<S>) -> impl FnMut(usize) -> Result<f64> {
    let (mut store, code) = (store.map_err(|e| format!("{e:#}")), code::returns(520));
    move |count| {
        let store = store.as_mut().map_err(|e| anyhow::anyhow!("{e}"))?;
        try_time(count, |_| {
            let block = store.publish(&code)?;
            store.retire(block)
        })
    }
}

fn one_at_a_time(criterion: &mut Criterion) {
    let mut group = common::group(criterion, "one at a time");
    for mode in [WxMode::Flip, WxMode::DualMap] {
        common::bench(&mut group, &gaia::name(mode, false), publish(gaia::Arena::new(mode, false, 1_000)));
    }
    common::bench(&mut group, gaia01::NAME, publish(Ok(gaia01::PerFunction)));
    common::bench(&mut group, dynasm::NAME, publish(Ok(dynasm::PerFunction)));
    common::bench(&mut group, floors::SYSCALLS, publish(Ok(floors::Syscalls)));
    common::bench(&mut group, kernel_write::NAME, publish(kernel_write::KernelWrites::new(1 << 20)));
    common::bench(&mut group, asmkit::DUAL, publish(Ok(asmkit::Pool::new(asmkit::DUAL))));
    common::bench(&mut group, malloc::GLIBC, publish(Ok(malloc::Glibc)));
}

criterion_group!(benches, one_at_a_time);
criterion_main!(benches);
