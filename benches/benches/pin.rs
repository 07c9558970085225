//! `pin` and the drop of the guard.

mod common;

use criterion::{Criterion, criterion_group, criterion_main};
use gaia_jit::CodeArena;
use gaia_jit_benches::measure::time;
use gaia_jit_benches::peers::epoch;

fn pin(criterion: &mut Criterion) {
    let mut group = common::group(criterion, "pin and drop");
    let arena = CodeArena::new().map_err(|e| e.to_string());
    common::bench(&mut group, "gaia-jit", |count| {
        let arena = arena.as_ref().map_err(|e| anyhow::anyhow!("{e}"))?;
        Ok(time(count, |_| drop(arena.pin())))
    });
    common::bench(&mut group, epoch::NAME, |count| Ok(time(count, |_| epoch::pin())));
}

criterion_group!(benches, pin);
criterion_main!(benches);
