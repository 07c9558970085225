//! One thread and two, publish and drop in one arena.

mod common;

use anyhow::Result;
use criterion::{Criterion, criterion_group, criterion_main};
use gaia_jit::WxMode;
use gaia_jit_benches::peers::churner::Churner;
use gaia_jit_benches::peers::{Store, gaia, malloc};
use gaia_jit_benches::rows::together;

fn run<S: Store + Clone>(store: Result<S>, threads: u64) -> impl FnMut(usize) -> Result<f64>
where
    Churner<S>: Send,
{
    let churners = |store: S| (0..threads).map(|seed| Churner::new(store.clone(), 1_000, seed)).collect();
    let mut churners = store.and_then(churners).map_err(|e| format!("{e:#}"));
    move |steps| {
        let churners: &mut Vec<Churner<S>> = churners.as_mut().map_err(|e| anyhow::anyhow!("{e}"))?;
        together(churners, steps)
    }
}

fn threads(criterion: &mut Criterion) {
    for threads in [1, 2] {
        let mut group = common::group(criterion, &format!("publish and drop, {threads} threads"));
        for mode in [WxMode::DualMap, WxMode::Flip] {
            common::bench(&mut group, &gaia::name(mode, false), run(gaia::Arena::new(mode, false, 10_000), threads));
        }
        common::bench(&mut group, malloc::GLIBC, run(Ok(malloc::Glibc), threads));
        common::bench(&mut group, malloc::MIMALLOC, run(Ok(malloc::Mimalloc), threads));
    }
}

criterion_group!(benches, threads);
criterion_main!(benches);
