//! Churn: drop a random block, publish another, among 10,000 and 400,000.

mod common;

use std::time::Duration;

use anyhow::Result;
use criterion::{Criterion, criterion_group, criterion_main};
use gaia_jit::WxMode;
use gaia_jit_benches::peers::churner::Churner;
use gaia_jit_benches::peers::{Store, asmkit, gaia, malloc};

/// Filled and aged when criterion first asks for it, which it does not if the benchmark is filtered
/// out.
fn churn<S: Store>(live: usize, make: impl Fn() -> Result<S>) -> impl FnMut(usize) -> Result<f64> {
    let mut churner: Option<Churner<S>> = None;
    move |steps| {
        let churner = match &mut churner {
            Some(churner) => churner,
            empty => {
                let mut new = Churner::new(make()?, live, 3)?;
                new.age(3 * live, Duration::from_secs(3))?;
                empty.insert(new)
            }
        };
        churner.run(steps)
    }
}

fn churns(criterion: &mut Criterion) {
    for live in [10_000, 400_000] {
        let mut group = common::group(criterion, &format!("churn among {live}"));
        for mode in [WxMode::DualMap, WxMode::Flip] {
            common::bench(&mut group, &gaia::name(mode, false), churn(live, || gaia::Arena::new(mode, false, live)));
        }
        common::bench(&mut group, malloc::GLIBC, churn(live, || Ok(malloc::Glibc)));
        common::bench(&mut group, malloc::MIMALLOC, churn(live, || Ok(malloc::Mimalloc)));
        common::bench(&mut group, asmkit::DUAL, churn(live, || Ok(asmkit::Pool::new(asmkit::DUAL))));
    }
}

criterion_group!(benches, churns);
criterion_main!(benches);
