//! Programs with an address that stays: they begin in the interpreter, and become machine code once
//! they are called often.
//!
//! The address is that of a [`Redirect`]. It leads to a few instructions that call the interpreter,
//! made for the program; later to the program's own code. Callers do not notice: a call that has
//! begun goes on where it is, and the code that is left waits for the guards of its callers.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use gaia_jit::{Code, CodeArena, CodeBlock, Error, Redirect};

use crate::cache::{link, place};
use crate::common::failure::Failure;
use crate::language::ast::Program;
use crate::language::interpreter;
use crate::language::machine::Machine;
use crate::native::{Entry, compiler::Compiler};
use crate::tally::Tally;
use crate::workload::{Case, Unit};

/// No more programs than that have an address that stays; their code is not evicted.
const MOST: usize = 64;

pub(crate) struct Tiers<'a> {
    arena: &'a CodeArena,
    units: &'a [Unit],
    tally: &'a Tally,
    /// Calls in the interpreter before a program is compiled.
    calls: u32,
    /// Of the first programs.
    kernels: Vec<Kernel>,
}

/// Fields are dropped in this order: first nobody comes to the code any more.
struct Kernel {
    entry: Redirect,
    /// In the interpreter, since it was last tried to compile it.
    calls: AtomicU32,
    is_compiled: AtomicBool,
    /// What the entry calls, once it is compiled.
    callees: Mutex<Vec<CodeBlock>>,
}

/// How compiled code calls the interpreter.
///
/// # Safety
/// - The machine is the caller's alone. There are as many arguments as the entry of the program has
///   parameters.
unsafe extern "C" fn interpret(machine: *mut Machine, arguments: *const i64, program: *const Program) -> i64 {
    // SAFETY: it stands in code that was made for this program, which outlives the code.
    let program = unsafe { &*program };
    let count = program.functions[program.entry].parameters.len();
    // SAFETY: passed on to the caller.
    let arguments = unsafe { std::slice::from_raw_parts(arguments, count) };
    // SAFETY: passed on to the caller.
    interpreter::enter(program, unsafe { &mut *machine }, arguments)
}

impl<'a> Tiers<'a> {
    /// Gives those programs an address that come first and come from a file.
    pub(crate) fn new(arena: &'a CodeArena, units: &'a [Unit], tally: &'a Tally, calls: u32) -> Result<Self, Failure> {
        let mut compiler = Compiler::for_host().map_err(Failure::Input)?;
        let mut batch = arena.batch();
        for unit in units.iter().take_while(|unit| unit.is_from_file).take(MOST) {
            let host = interpret as *const () as usize;
            let piece = compiler.compile_call(host, &unit.program).map_err(Failure::Run)?;
            batch.push(Code::new(&piece.bytes).align(piece.align).name(&piece.name))?;
        }
        let kernel = |stub| {
            let entry = arena.redirect(stub)?;
            Ok(Kernel {
                entry,
                calls: AtomicU32::new(0),
                is_compiled: AtomicBool::new(false),
                callees: Mutex::default(),
            })
        };
        let kernels = batch.publish()?.into_iter().map(kernel).collect::<Result<_, Failure>>()?;
        Ok(Self { arena, units, tally, calls, kernels })
    }

    pub(crate) fn count(&self) -> usize {
        self.kernels.len()
    }

    /// Runs one of the first programs.
    pub(crate) fn run(&self, unit: usize, machine: &mut Machine, case: &Case) -> Result<i64, Failure> {
        let kernel = &self.kernels[unit];
        let guard = self.arena.pin();
        // SAFETY: every target is compiled with this signature, and what is behind the address is
        // called under a guard. The program and the functions that it calls are dropped after the
        // address.
        let entry = unsafe { kernel.entry.as_fn::<Entry>() };
        machine.reset(self.units[unit].program.steps);
        let is_compiled = kernel.is_compiled.load(Ordering::Relaxed);
        let start = Instant::now();
        // SAFETY: as for programs in the cache.
        let given = unsafe { entry(machine, case.arguments.as_ptr()) };
        self.tally.tiers[usize::from(is_compiled)].add(start.elapsed());
        drop(guard);
        if !is_compiled && kernel.calls.fetch_add(1, Ordering::Relaxed) + 1 >= self.calls {
            self.tier_up(kernel, unit)?;
        }
        Ok(given)
    }

    /// Lets the address lead to machine code, unless another thread is at it.
    fn tier_up(&self, kernel: &Kernel, unit: usize) -> Result<(), Failure> {
        let Ok(mut callees) = kernel.callees.try_lock() else { return Ok(()) };
        if kernel.is_compiled.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut blocks = match self.publish(unit) {
            // It goes on in the interpreter, and is tried again later.
            Err(Error::ArenaFull { .. }) => {
                kernel.calls.store(0, Ordering::Relaxed);
                return Ok(());
            }
            published => published?,
        };
        let Some(trampoline) = blocks.pop() else {
            return Err(Failure::Run("a program without functions".to_owned()));
        };
        // Calls that have begun are under guards, which the old block waits for.
        drop(kernel.entry.swap(trampoline)?);
        *callees = blocks;
        kernel.is_compiled.store(true, Ordering::Relaxed);
        self.tally.tiered_up.add(1);
        Ok(())
    }

    fn publish(&self, unit: usize) -> Result<Vec<CodeBlock>, Error> {
        let mut batch = self.arena.batch();
        let slots = place(&mut batch, &self.units[unit].object, unit)?;
        link(&mut batch, &self.units[unit].object, &slots)?;
        batch.publish()
    }
}
