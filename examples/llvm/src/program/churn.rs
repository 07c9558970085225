//! Modules that come and go.

use gaia_jit::CodeArena;
use inkwell::context::Context;

use crate::process::{Process, size};
use crate::{Outcome, sample};

/// What may be added between the first tenth of the modules and the last: less than a page for
/// each.
const GROWTH: usize = 2 << 20;

pub(crate) fn run(modules: usize) -> Outcome {
    let arena = CodeArena::builder().capacity(32 << 20).build()?;
    let early = (modules / 10).max(1);
    let mut measured = None;
    for number in 1..=modules {
        // A context for each: it keeps types and constants for ever.
        let context = Context::create();
        drop(sample(&arena, &context)?);
        if number == early || number == modules {
            let (process, stats) = (Process::now()?, arena.stats());
            let arena_bytes = stats.resident_bytes + stats.data_resident_bytes;
            println!(
                "after {number:6} modules: {} resident, of it {} of the arena; {} mappings; {} blocks live",
                size(process.resident),
                size(arena_bytes),
                process.mappings,
                stats.live_blocks
            );
            let before: (Process, usize) = *measured.get_or_insert((process, arena_bytes));
            if arena_bytes > before.1 || process.resident > before.0.resident + GROWTH || stats.live_blocks > 0 {
                return Err("memory is not flat".into());
            }
        }
    }
    Ok(())
}
