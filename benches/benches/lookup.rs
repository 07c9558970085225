//! `lookup` of random addresses inside random live blocks.

mod common;

use std::time::Duration;

use anyhow::Result;
use criterion::{Criterion, criterion_group, criterion_main};
use gaia_jit::{CodeArena, WxMode};
use gaia_jit_benches::measure::time;
use gaia_jit_benches::peers::churner::Churner;
use gaia_jit_benches::peers::gaia;
use gaia_jit_benches::rows::addresses_inside;

type Filled = (Churner<gaia::Arena>, CodeArena, Vec<*const u8>);

fn filled(live: usize) -> Result<Filled> {
    let mut churner = Churner::new(gaia::Arena::new(WxMode::DualMap, false, live)?, live, 8)?;
    churner.age(live, Duration::from_secs(2))?;
    let arena = churner.store.0.clone();
    let wanted = addresses_inside(&churner, 1 << 16);
    Ok((churner, arena, wanted))
}

fn lookup(criterion: &mut Criterion) {
    let mut group = common::group(criterion, "lookup");
    for live in [10_000, 400_000] {
        let mut made = None;
        common::bench(&mut group, &format!("among {live}"), |count| {
            let (_, arena, wanted) = match &mut made {
                Some(made) => made,
                empty => empty.insert(filled(live)?),
            };
            Ok(time(count, |i| arena.lookup(wanted[i % wanted.len()])))
        });
    }
}

criterion_group!(benches, lookup);
criterion_main!(benches);
