//! What many modules cost at a time, here and with LLVM's own manager.

use std::error::Error;

use gaia_jit::CodeArena;
use gaia_jit_llvm::compile;
use gaia_jit_llvm::sample::{self, Functions};
use inkwell::context::Context;
use inkwell::execution_engine::ExecutionEngine;
use inkwell::llvm_sys::target_machine::LLVMCodeModel;
use inkwell::targets::CodeModel;

use crate::process::{self, Process, size};
use crate::{Manager, Outcome, llvm};

/// Runs each manager in a process of its own, so that neither has the other's memory.
pub(crate) fn run(modules: usize) -> Outcome {
    println!("{modules} modules alive at a time, each of five functions, a variable and a table");
    println!("| manager | resident | of it code | of it constants | mappings | time for each module |");
    println!("|---|---|---|---|---|---|");
    for manager in Manager::ALL {
        let status = process::itself()?.args(["--alive", manager.name(), &modules.to_string()]).status()?;
        if !status.success() {
            return Err(format!("{} with {modules} modules: {status}", manager.name()).into());
        }
    }
    Ok(())
}

/// Compiles so many modules, keeps them, and prints what they added to the process.
pub(crate) fn alive(manager: Manager, modules: usize) -> Outcome {
    let context = Context::create();
    let arena = CodeArena::new()?;
    let make = || one(manager, &arena, &context);
    // What LLVM makes once.
    drop(make()?);
    let (before, start) = (Process::now()?, std::time::Instant::now());
    let alive = (0..modules).map(|_| make()).collect::<Result<Vec<_>, _>>()?;
    let (after, time) = (Process::now()?, start.elapsed());
    for engine in &alive {
        // SAFETY: compiled from the sample.
        unsafe { Functions::of(engine)? }.check()?;
    }
    let more = |of: fn(&Process) -> usize| of(&after).saturating_sub(of(&before));
    println!(
        "| {} | {} | {} | {} | {} | {:.2} ms |",
        manager.name(),
        size(more(|process| process.resident)),
        size(more(|process| process.code)),
        size(more(|process| process.constants)),
        more(|process| process.mappings),
        time.as_secs_f64() * 1e3 / modules as f64
    );
    Ok(())
}

fn one<'ctx>(
    manager: Manager,
    arena: &CodeArena,
    context: &'ctx Context,
) -> Result<ExecutionEngine<'ctx>, Box<dyn Error>> {
    let module = sample::module(context)?;
    let outside = sample::outside();
    if manager == Manager::Arena {
        return Ok(compile(arena, &module, CodeModel::JITDefault, &outside)?.engine().clone());
    }
    let function = module.get_function(outside[0].0).ok_or("the sample calls nothing")?;
    let engine = llvm::engine(module, LLVMCodeModel::LLVMCodeModelJITDefault)?;
    engine.add_global_mapping(&function, outside[0].1);
    // The first question for an address compiles the module.
    engine.get_function_address("sum")?;
    Ok(engine)
}
