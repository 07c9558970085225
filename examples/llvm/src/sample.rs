//! A module to try things with: see `sample.ll`.

use std::marker::PhantomData;
use std::mem::transmute;

use inkwell::context::Context;
use inkwell::execution_engine::ExecutionEngine;
use inkwell::memory_buffer::MemoryBuffer;
use inkwell::module::Module;

use crate::Failure;

const TEXT: &str = include_str!("sample.ll");

/// The module, not compiled yet.
///
/// # Errors
/// What LLVM does not understand.
pub fn module(context: &Context) -> Result<Module<'_>, Failure> {
    parse(context, TEXT)
}

/// A module from its text.
///
/// # Errors
/// What LLVM does not understand.
pub fn parse<'ctx>(context: &'ctx Context, text: &str) -> Result<Module<'ctx>, Failure> {
    let buffer = MemoryBuffer::create_from_memory_range_copy(text.as_bytes(), "module");
    context.create_module_from_ir(buffer).map_err(|message| Failure::Engine(message.to_string()))
}

/// The function that the module calls: it doubles its argument.
pub extern "C-unwind" fn from_rust(n: i64) -> i64 {
    2 * n
}

/// What goes by the name `from_rust` in the module.
pub fn outside() -> [(&'static str, usize); 1] {
    [("from_rust", from_rust as *const () as usize)]
}

/// The functions of a compiled sample. They borrow the code.
#[derive(Clone, Copy)]
pub struct Functions<'c> {
    sum: extern "C" fn(i64) -> i64,
    fibonacci: extern "C" fn(i64) -> i64,
    count: extern "C" fn() -> i64,
    prime: extern "C" fn(i64) -> i32,
    call_out: extern "C-unwind" fn(i64) -> i64,
    _code: PhantomData<&'c ()>,
}

impl<'c> Functions<'c> {
    /// Finds the functions of an engine, which compiles the module if it was not compiled yet.
    ///
    /// # Errors
    /// A name that the engine does not know.
    ///
    /// # Safety
    /// - The engine's module is that of [`module`], with the [`outside`] function or one of its
    ///   type.
    pub unsafe fn of(engine: &'c ExecutionEngine<'_>) -> Result<Self, Failure> {
        let find = |name: &str| {
            let found = engine.get_function_address(name).map_err(|error| Failure::Engine(format!("{name}: {error}")));
            found.map(std::ptr::with_exposed_provenance::<()>)
        };
        Ok(Self {
            // SAFETY: the type that the module has it with; the code lives as long as the borrow.
            sum: unsafe { transmute::<*const (), extern "C" fn(i64) -> i64>(find("sum")?) },
            // SAFETY: as above.
            fibonacci: unsafe { transmute::<*const (), extern "C" fn(i64) -> i64>(find("fibonacci")?) },
            // SAFETY: as above.
            count: unsafe { transmute::<*const (), extern "C" fn() -> i64>(find("count")?) },
            // SAFETY: as above.
            prime: unsafe { transmute::<*const (), extern "C" fn(i64) -> i32>(find("prime")?) },
            // SAFETY: as above; it has unwind tables, so that panics pass.
            call_out: unsafe { transmute::<*const (), extern "C-unwind" fn(i64) -> i64>(find("call_out")?) },
            _code: PhantomData,
        })
    }

    /// Calls the function in Rust, through the module.
    pub fn call_out(&self, n: i64) -> i64 {
        (self.call_out)(n)
    }

    /// How often it was called before: a variable of the module.
    pub fn count(&self) -> i64 {
        (self.count)()
    }

    /// Calls every function, the first time since the module was compiled.
    ///
    /// # Errors
    /// The first wrong result.
    pub fn check(&self) -> Result<(), String> {
        let results = [
            ("the sum up to 100", (self.sum)(100), 5_050),
            ("fibonacci(20)", (self.fibonacci)(20), 6_765),
            ("the counter", self.count(), 0),
            ("the counter, again", self.count(), 1),
            ("the prime at 0", (self.prime)(0).into(), 2),
            ("the prime at 7", (self.prime)(7).into(), 19),
            ("from Rust, and one more", self.call_out(20), 41),
        ];
        match results.into_iter().find(|(_, got, right)| got != right) {
            Some((what, got, right)) => Err(format!("{what} is {got}, not {right}")),
            None => Ok(()),
        }
    }
}
