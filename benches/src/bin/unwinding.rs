//! What it costs that panics go through published functions: publishing, panicking and dropping
//! with many functions registered, and without.

#[path = "../../../tests/common/frames.rs"]
mod frames;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use anyhow::Result;
use frames::{Compiled, caller, isa};
use gaia_jit::unwind::Unwinder;
use gaia_jit::{Code, CodeArena, CodeBlock};

type Callee = extern "C-unwind" fn();

/// Without the hook's output.
extern "C-unwind" fn fail() {
    resume_unwind(Box::new(()));
}

fn main() -> Result<()> {
    let unwinder = Unwinder::new()?;
    let function = caller(&*isa());
    for count in [1_000, 10_000, 40_000] {
        for batched in [true, false] {
            for attached in [false, true] {
                let builder = CodeArena::builder().capacity(64 << 20);
                let builder = if attached { unwinder.attach(builder) } else { builder };
                measure(&builder.build()?, &function, count, batched, attached)?;
            }
        }
    }
    Ok(())
}

fn measure(arena: &CodeArena, function: &Compiled, count: usize, batched: bool, attached: bool) -> Result<()> {
    let code = || Code::new(&function.code).unwind(function.unwind());
    let start = Instant::now();
    let mut blocks = if batched {
        let mut batch = arena.batch();
        (0..count).try_for_each(|_| batch.push(code()).map(drop))?;
        batch.publish()?
    } else {
        (0..count).map(|_| arena.publish(code())).collect::<Result<Vec<_>, _>>()?
    };
    let published = start.elapsed();
    let first = panic_through(&blocks[0], attached);
    let low = panic_through(&blocks[0], attached);
    let high = panic_through(&blocks[count - 1], attached);
    fastrand::Rng::with_seed(1).shuffle(&mut blocks);
    let start = Instant::now();
    drop(blocks);
    let dropped = start.elapsed();
    println!(
        "{count} functions, {}, {}: publish {published:.1?}; panic: first {first:.1?}, lowest {low:.1?}, highest \
         {high:.1?}; drop all {dropped:.1?}",
        if batched { "one batch" } else { "one by one" },
        if attached { "registered" } else { "not registered" },
    );
    Ok(())
}

/// How long a panic takes, through a function if it can be unwound through.
fn panic_through(block: &CodeBlock, attached: bool) -> Duration {
    let start = Instant::now();
    let _ = catch_unwind(AssertUnwindSafe(|| {
        if attached {
            // SAFETY: the function takes a function and calls it.
            let function = unsafe { block.as_fn::<extern "C-unwind" fn(Callee)>() };
            function(fail);
        } else {
            fail();
        }
    }));
    start.elapsed()
}
