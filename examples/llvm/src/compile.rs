//! From a module to functions that can be called.

use gaia_jit::CodeArena;
use inkwell::OptimizationLevel;
use inkwell::execution_engine::{ExecutionEngine, FunctionLookupError};
use inkwell::module::Module;
use inkwell::targets::CodeModel;
use inkwell::values::FunctionValue;

use crate::{ArenaMemoryManager, Failure, Sections};

/// Static code of the small model has addresses as signed 32 bits, on x86-64.
const SMALL_MODEL: usize = 1 << 31;

/// A module's code in an arena. Dropped with all clones of the engine, it frees its memory there.
#[derive(Debug)]
pub struct Compiled<'ctx> {
    engine: ExecutionEngine<'ctx>,
    sections: Sections,
}

impl<'ctx> Compiled<'ctx> {
    /// The address of a function, which is valid as long as the engine.
    ///
    /// # Errors
    /// As for [`ExecutionEngine::get_function_address`].
    pub fn address(&self, function: &str) -> Result<usize, FunctionLookupError> {
        self.engine.get_function_address(function)
    }

    pub fn engine(&self) -> &ExecutionEngine<'ctx> {
        &self.engine
    }

    pub fn sections(&self) -> &Sections {
        &self.sections
    }
}

/// Compiles a module, links it in the arena and makes its code executable.
///
/// `outside` are the addresses of functions that the module declares and does not define. The
/// module belongs to the engine from then on.
///
/// [`CodeModel::JITDefault`] (the large one on 64 bits) works in every arena.
/// [`CodeModel::Small`] has shorter code. On AArch64 it works in every arena as well; on x86-64 the
/// arena has to lie below 2 GiB, because LLVM takes code of MCJIT for static there: build it with
/// `near(std::ptr::null())`.
///
/// # Errors
/// After an error nothing of the module is left in the arena, once the module is dropped.
///
/// - [`Failure::Memory`] if the arena is full, or not in `Flip`.
/// - [`Failure::Protection`] if the system refuses to change protections.
/// - [`Failure::Engine`] if LLVM makes no engine.
/// - [`Failure::NoFunction`] if the module defines none.
/// - [`Failure::OutOfReach`] if the arena does not lie where the code model needs it.
pub fn compile<'ctx>(
    arena: &CodeArena,
    module: &Module<'ctx>,
    model: CodeModel,
    outside: &[(&str, usize)],
) -> Result<Compiled<'ctx>, Failure> {
    let first = module.get_functions().find(|function| function.count_basic_blocks() > 0);
    let first = first.ok_or(Failure::NoFunction)?;
    let manager = ArenaMemoryManager::new(arena)?;
    let sections = manager.sections();
    let small = matches!(model, CodeModel::Small);
    let engine = module
        .create_mcjit_execution_engine_with_memory_manager(manager, OptimizationLevel::Default, model, false, false)
        .map_err(|message| Failure::Engine(message.to_string()))?;
    for (name, address) in outside {
        if let Some(function) = module.get_function(name) {
            engine.add_global_mapping(&function, *address);
        }
    }
    generate(&engine, first)?;
    if let Some(failure) = sections.failure() {
        return Err(failure);
    }
    if small && cfg!(target_arch = "x86_64") {
        check_reach(&sections)?;
    }
    Ok(Compiled { engine, sections })
}

/// Has MCJIT compile, link and protect the module, which it puts off until somebody asks for an
/// address. No code runs.
fn generate(engine: &ExecutionEngine<'_>, function: FunctionValue<'_>) -> Result<(), Failure> {
    let name = function.get_name().to_string_lossy();
    engine.get_function_address(&name).map_err(|error| Failure::Engine(error.to_string()))?;
    Ok(())
}

fn check_reach(sections: &Sections) -> Result<(), Failure> {
    match sections.list().iter().find(|section| section.end() > SMALL_MODEL) {
        Some(far) => Err(Failure::OutOfReach { section: far.name.clone(), end: far.end(), limit: SMALL_MODEL }),
        None => Ok(()),
    }
}
