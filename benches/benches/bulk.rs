//! Bulk: 10,000 functions in batches of 1,024, into memory that was used before and emptied.

mod common;

use std::time::{Duration, Instant};

use anyhow::Result;
use criterion::{Criterion, criterion_group, criterion_main};
use gaia_jit::WxMode;
use gaia_jit_benches::measure::per;
use gaia_jit_benches::peers::{Bulk, OneByOne, asmkit, cranelift, floors, gaia, malloc};
use gaia_jit_benches::{code, trace};

const COUNT: usize = 10_000;

fn load<B: Bulk>(bulk: &mut B, sizes: &[u16], source: &[u8], rounds: usize) -> Result<f64> {
    let mut elapsed = Duration::ZERO;
    for _ in 0..rounds {
        let start = Instant::now();
        bulk.load(sizes, source)?;
        elapsed += start.elapsed();
        bulk.empty()?;
    }
    Ok(per(elapsed, rounds))
}

fn bulk(criterion: &mut Criterion) {
    let (sizes, source) = (trace::sizes(COUNT, 1), code::source());
    let mut group = common::group(criterion, "bulk of 10,000");
    let mut enter = |peer: &str, make: &dyn Fn() -> Result<Box<dyn Bulk>>| {
        let mut made = None;
        common::bench(&mut group, peer, |rounds| {
            let bulk = match &mut made {
                Some(bulk) => bulk,
                empty => empty.insert(Boxed(make()?)),
            };
            load(bulk, &sizes, &source, rounds)
        });
    };
    for (mode, huge) in [(WxMode::Flip, true), (WxMode::Flip, false), (WxMode::DualMap, false)] {
        let make = || Ok(Box::new(gaia::Loader::new(gaia::builder(mode, huge, COUNT).build()?)) as Box<dyn Bulk>);
        enter(&gaia::name(mode, huge), &make);
    }
    enter(floors::COPY_WARM, &|| Ok(Box::new(floors::PopulatedCopy::new(&sizes)?)));
    enter(malloc::GLIBC, &|| Ok(Box::new(OneByOne::new(malloc::Glibc))));
    for name in asmkit::ALL {
        enter(name, &|| Ok(Box::new(OneByOne::new(asmkit::Pool::new(name)))));
    }
    enter(cranelift::SYSTEM, &|| Ok(Box::new(cranelift::system())));
}

struct Boxed(Box<dyn Bulk>);

impl Bulk for Boxed {
    fn load(&mut self, sizes: &[u16], source: &[u8]) -> Result<()> {
        self.0.load(sizes, source)
    }

    fn empty(&mut self) -> Result<()> {
        self.0.empty()
    }
}

criterion_group!(benches, bulk);
criterion_main!(benches);
