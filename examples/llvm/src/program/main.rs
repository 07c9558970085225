//! Modules of LLVM in an arena: what they do, what they cost, and what they are spared.
//!
//! ```text
//! gaia_jit_llvm                    compiles and checks the sample, and shows where it lies
//! gaia_jit_llvm --modules 10000    so many modules come and go; memory has to stay flat
//! gaia_jit_llvm --compare 1000     so many modules at a time, here and with LLVM's own manager
//! gaia_jit_llvm --far              both managers, where address space is full of other things
//! ```

mod churn;
mod compare;
mod far;
mod llvm;
mod process;

use std::error::Error;
use std::process::ExitCode;

use gaia_jit::CodeArena;
use gaia_jit_llvm::sample::{self, Functions};
use gaia_jit_llvm::{Compiled, compile};
use inkwell::context::Context;
use inkwell::targets::CodeModel;
use lexopt::prelude::{Long, ValueExt};

type Outcome = Result<(), Box<dyn Error>>;

const USAGE: &str = "usage: gaia_jit_llvm [--modules N | --compare N | --far]";

/// Who gives LLVM its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    Arena,
    Llvm,
}

impl Manager {
    const ALL: [Self; 2] = [Self::Arena, Self::Llvm];

    fn name(self) -> &'static str {
        match self {
            Self::Arena => "arena",
            Self::Llvm => "llvm",
        }
    }

    fn of(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|manager| manager.name() == name);
        found.ok_or_else(|| format!("no manager {name}: there are arena and llvm"))
    }
}

enum Task {
    Show,
    Churn(usize),
    Compare(usize),
    Far,
    /// In a process of its own.
    Alive(Manager, usize),
    OneFar(Manager),
}

fn task() -> Result<Task, Box<dyn Error>> {
    let mut options = lexopt::Parser::from_env();
    let mut task = Task::Show;
    while let Some(option) = options.next()? {
        task = match option {
            Long("modules") => Task::Churn(options.value()?.parse()?),
            Long("compare") => Task::Compare(options.value()?.parse()?),
            Long("far") => Task::Far,
            Long("alive") => Task::Alive(manager(&mut options)?, options.value()?.parse()?),
            Long("one-far") => Task::OneFar(manager(&mut options)?),
            other => return Err(other.unexpected().into()),
        };
    }
    Ok(task)
}

fn manager(options: &mut lexopt::Parser) -> Result<Manager, Box<dyn Error>> {
    Ok(Manager::of(&options.value()?.string()?)?)
}

fn main() -> ExitCode {
    let task = match task() {
        Ok(task) => task,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let outcome = match task {
        Task::Show => show(),
        Task::Churn(modules) => churn::run(modules),
        Task::Compare(modules) => compare::run(modules),
        Task::Far => far::run(),
        Task::Alive(manager, modules) => compare::alive(manager, modules),
        Task::OneFar(manager) => far::one(manager),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The sample, compiled and checked.
fn sample<'ctx>(arena: &CodeArena, context: &'ctx Context) -> Result<Compiled<'ctx>, Box<dyn Error>> {
    let compiled = compile(arena, &sample::module(context)?, CodeModel::JITDefault, &sample::outside())?;
    // SAFETY: compiled from the sample.
    unsafe { Functions::of(compiled.engine())? }.check()?;
    Ok(compiled)
}

fn show() -> Outcome {
    let arena = CodeArena::new()?;
    let context = Context::create();
    let modules = [sample(&arena, &context)?, sample(&arena, &context)?];
    for (number, compiled) in modules.iter().enumerate() {
        println!("module {number}, {} KiB from end to end:", compiled.sections().spread() / 1024);
        for section in compiled.sections().list().iter() {
            let kind = format!("{:?}", section.kind);
            println!("  {kind:9} {:#14x} {:5} bytes  {}", section.address, section.len, section.name);
        }
    }
    println!("every function of both returned what it should\n{:#}", arena.stats());
    drop(modules);
    let stats = arena.stats();
    if (stats.live_blocks, stats.data_bytes) != (0, 0) {
        return Err(format!("both modules are gone, and something is left:\n{stats:#}").into());
    }
    println!("dropped: {stats}");
    Ok(())
}
