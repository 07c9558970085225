//! The three ways to answer a query. Each begins with the text of the query.
//!
//! ```text
//! Interpreting        parse --> interpret
//! CompilingEachTime   parse --> compile --> publish --> run --> drop
//! Caching             look up --found--> run under the guard
//!                            `--not found--> drop the guard --> get_or_compile --> run
//! ```
//!
//! - Arena and cache are shared by all threads. A compiler is not, so each thread has a `Native`.
//! - A found entry is borrowed from the guard. A compiled entry is kept by its reference count,
//!   because the guard is gone.
//! - `Trouble::Full` means that no code can be placed. The query is interpreted then, and counted.
//!   Any other trouble is an error of the run.
//! - `Native::call` needs code that `compile` made, and that nobody drops during the call.

use std::time::Instant;

use gaia_jit::cache::CodeCache;
use gaia_jit::{Code, CodeArena, Error};

use crate::common::failure::Failure;
use crate::counts::Counts;
use crate::native::compiler::Compiler;
use crate::native::{Compiled, Function};
use crate::query::{self, Query, interpreter};
use crate::table::Table;

/// An engine. Each thread has its own.
pub(crate) trait Engine {
    fn run(&mut self, text: &str, counts: &mut Counts) -> Result<f64, Failure>;
}

/// The engine that parses the query and interprets it.
pub(crate) struct Interpreting<'a> {
    pub(crate) table: &'a Table,
}

impl Engine for Interpreting<'_> {
    fn run(&mut self, text: &str, _counts: &mut Counts) -> Result<f64, Failure> {
        Ok(interpreter::run(&read(text)?, self.table))
    }
}

/// The engine that compiles the query, runs the code once and drops it.
pub(crate) struct CompilingEachTime<'a> {
    pub(crate) arena: &'a CodeArena,
    pub(crate) native: Native<'a>,
}

impl Engine for CompilingEachTime<'_> {
    fn run(&mut self, text: &str, counts: &mut Counts) -> Result<f64, Failure> {
        let Compiled { bytes, align } = self.native.compile(text, counts)?;
        let block = match self.arena.publish(Code::new(bytes).align(align).name(text)) {
            Ok(block) => block,
            Err(error) => return Trouble::from(error).interpret(text, self.native.table, counts),
        };
        // SAFETY: `compile` makes functions of this type.
        let function = unsafe { block.as_fn() };
        // SAFETY: the block lives until the end of this function.
        Ok(unsafe { self.native.call(function) })
    }
}

/// The engine that compiles the query if it is not in the cache.
pub(crate) struct Caching<'a> {
    pub(crate) arena: &'a CodeArena,
    pub(crate) cache: &'a CodeCache<String>,
    pub(crate) native: Native<'a>,
}

impl Engine for Caching<'_> {
    fn run(&mut self, text: &str, counts: &mut Counts) -> Result<f64, Failure> {
        let guard = self.arena.pin();
        if let Some(entry) = self.cache.get_in(&guard, text) {
            // The cache does not count these, because a hit under a guard writes nothing that
            // threads share.
            counts.hits += 1;
            // SAFETY: every entry came from `compile`, which makes functions of this type.
            let function = unsafe { entry.as_fn() };
            // SAFETY: the guard keeps the entry, even if another thread evicts it meanwhile.
            return Ok(unsafe { self.native.call(function) });
        }
        // Space that a compilation evicts is not free while this thread holds a guard.
        drop(guard);
        let native = &mut self.native;
        let compiled = self.cache.get_or_compile(text, |batch| {
            let Compiled { bytes, align } = native.compile(text, counts)?;
            Ok::<_, Trouble>(batch.push(Code::new(bytes).align(align).name(text))?)
        });
        match compiled {
            Ok(entry) => {
                // SAFETY: every entry came from `compile`, as above.
                let function = unsafe { entry.as_fn() };
                // SAFETY: the entry is held until the end of this arm.
                Ok(unsafe { self.native.call(function) })
            }
            Err(trouble) => trouble.interpret(text, self.native.table, counts),
        }
    }
}

/// The reasons why there is no code for a query.
enum Trouble {
    /// The arena is full, and all of its code is in use.
    Full,
    Failure(Failure),
}

impl Trouble {
    /// Interprets a query without room for its code. Returns any other error.
    fn interpret(self, text: &str, table: &Table, counts: &mut Counts) -> Result<f64, Failure> {
        match self {
            Self::Full => {
                counts.interpreted += 1;
                Ok(interpreter::run(&read(text)?, table))
            }
            Self::Failure(failure) => Err(failure),
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::ArenaFull { .. } => Self::Full,
            other => Self::Failure(Failure::Run(format!("no room for code: {other}"))),
        }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// A compiler of queries, with the table that its code reads.
pub(crate) struct Native<'a> {
    compiler: Compiler,
    table: &'a Table,
    columns: Vec<*const f64>,
}

impl<'a> Native<'a> {
    pub(crate) fn new(table: &'a Table) -> Result<Self, Failure> {
        let compiler = Compiler::for_host().map_err(Failure::Input)?;
        Ok(Self { compiler, table, columns: table.addresses() })
    }

    /// Compiles a query to a [`Function`].
    pub(crate) fn compile(&mut self, text: &str, counts: &mut Counts) -> Result<Compiled<'_>, Failure> {
        let start = Instant::now();
        let compiled = self.compiler.compile(&read(text)?).map_err(|error| Failure::Run(format!("{text}: {error}")))?;
        counts.compilations += 1;
        counts.compile_time += start.elapsed();
        counts.code_bytes += compiled.bytes.len() as u64;
        Ok(compiled)
    }

    /// # Safety
    /// - `function` is code from [`compile`](Self::compile), and nobody drops it before this call
    ///   returns.
    pub(crate) unsafe fn call(&self, function: Function) -> f64 {
        // SAFETY: the caller promises it. The code reads all columns, for the number of rows that
        // they have.
        unsafe { function(self.columns.as_ptr(), self.table.rows()) }
    }
}

/// Parses a query that was parsed before without an error.
fn read(text: &str) -> Result<Query, Failure> {
    query::read(text, 1).map_err(|error| Failure::Run(format!("{text}: {}: {}", error.place, error.message)))
}
