//! Programs with an address that stays. They begin in the interpreter, and become machine code
//! after many calls.
//!
//! The address is that of a [`Redirect`]. At first it leads to a few instructions, made for the
//! program, that call the interpreter. Later it leads to the program's own code. Callers do not
//! notice. A call that has begun continues in the old code, which waits for the guards of its
//! callers.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use gaia_jit::{Code, CodeArena, CodeBlock, Error, Redirect};

use crate::cache::{link, place};
use crate::common::failure::Failure;
use crate::counters::Counters;
use crate::language::ast::Program;
use crate::language::interpreter;
use crate::language::machine::Machine;
use crate::native::{Entry, compiler::Compiler};
use crate::workload::{Case, Unit};

/// The number of programs with an address that stays, at most. Their code is not evicted.
const MOST: usize = 64;

pub(crate) struct Tiers<'a> {
    arena: &'a CodeArena,
    units: &'a [Unit],
    counters: &'a Counters,
    /// The number of calls in the interpreter before a program is compiled.
    calls: u32,
    /// The first programs, with their redirects.
    kernels: Vec<Kernel>,
}

/// A program with its redirect. The fields are dropped in this order, so that first no new call
/// reaches the code.
struct Kernel {
    entry: Redirect,
    /// The number of calls in the interpreter since the last attempt to compile.
    calls: AtomicU32,
    is_compiled: AtomicBool,
    /// The functions that the entry calls after it was compiled.
    callees: Mutex<Vec<CodeBlock>>,
}

/// Calls the interpreter. Compiled code calls this.
///
/// # Safety
/// - No other code uses the machine. There are as many arguments as the entry of the program has
///   parameters.
unsafe extern "C" fn interpret(machine: *mut Machine, arguments: *const i64, program: *const Program) -> i64 {
    // SAFETY: the address is in code that was made for this program, and the program outlives the
    // code.
    let program = unsafe { &*program };
    let count = program.functions[program.entry].parameters.len();
    // SAFETY: the caller promises it.
    let arguments = unsafe { std::slice::from_raw_parts(arguments, count) };
    // SAFETY: the caller promises it.
    interpreter::enter(program, unsafe { &mut *machine }, arguments)
}

impl<'a> Tiers<'a> {
    /// Makes redirects for the first programs that come from a file.
    pub(crate) fn new(
        arena: &'a CodeArena,
        units: &'a [Unit],
        counters: &'a Counters,
        calls: u32,
    ) -> Result<Self, Failure> {
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
        Ok(Self { arena, units, counters, calls, kernels })
    }

    pub(crate) fn count(&self) -> usize {
        self.kernels.len()
    }

    /// Runs one of the first programs.
    pub(crate) fn run(&self, unit: usize, machine: &mut Machine, case: &Case) -> Result<i64, Failure> {
        let kernel = &self.kernels[unit];
        let guard = self.arena.pin();
        // SAFETY: every target is compiled with this signature, and is called under a guard. The
        // program and the functions that it calls are dropped after the redirect.
        let entry = unsafe { kernel.entry.as_fn::<Entry>() };
        machine.reset(self.units[unit].program.steps);
        let is_compiled = kernel.is_compiled.load(Ordering::Relaxed);
        let start = Instant::now();
        // SAFETY: the same conditions hold as for programs in the cache.
        let given = unsafe { entry(machine, case.arguments.as_ptr()) };
        self.counters.tiers[usize::from(is_compiled)].add(start.elapsed());
        drop(guard);
        if !is_compiled && kernel.calls.fetch_add(1, Ordering::Relaxed) + 1 >= self.calls {
            self.tier_up(kernel, unit)?;
        }
        Ok(given)
    }

    /// Changes the redirect to machine code, unless another thread does so now.
    fn tier_up(&self, kernel: &Kernel, unit: usize) -> Result<(), Failure> {
        let Ok(mut callees) = kernel.callees.try_lock() else { return Ok(()) };
        if kernel.is_compiled.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut blocks = match self.publish(unit) {
            // The program stays in the interpreter, and is tried again later.
            Err(Error::ArenaFull { .. }) => {
                kernel.calls.store(0, Ordering::Relaxed);
                return Ok(());
            }
            published => published?,
        };
        let Some(trampoline) = blocks.pop() else {
            return Err(Failure::Run("a program without functions".to_owned()));
        };
        // Calls that have begun hold guards, for which the old block waits.
        drop(kernel.entry.swap(trampoline)?);
        *callees = blocks;
        kernel.is_compiled.store(true, Ordering::Relaxed);
        self.counters.tiered_up.add(1);
        Ok(())
    }

    fn publish(&self, unit: usize) -> Result<Vec<CodeBlock>, Error> {
        let mut batch = self.arena.batch();
        let slots = place(&mut batch, &self.units[unit].object, unit)?;
        link(&mut batch, &self.units[unit].object, &slots)?;
        batch.publish()
    }
}
