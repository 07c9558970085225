//! The language `tiny`. It is large enough to write kernels in, and small enough for two engines
//! that agree to the last bit.
//!
//! ```text
//! file      = program*
//! program   = "program" NAME ("steps" NUMBER)? "{" (function | check | run)* "}"
//! function  = "fn" NAME "(" (NAME ("," NAME)*)? ")" block
//! check     = "check" NAME "(" numbers? ")" "==" number ";"     # the entry, its arguments, what it gives
//! run       = "run" NAME "(" numbers? ")" ";"                   # the same, the interpreter says what it gives
//! block     = "{" statement* "}"
//! statement = "let" NAME "=" expr ";"  |  NAME "=" expr ";"  |  "mem" "[" expr "]" "=" expr ";"
//!           | "if" expr block ("else" (block | if))?  |  "while" expr block  |  "return" expr ";"  |  expr ";"
//! expr      = C's operators and precedence, with `>>>` for the logical shift;
//!             `mem[expr]`, NAME "(" exprs? ")", NAME, NUMBER
//! ```
//!
//! # What programs mean
//!
//! Every program has a defined result, and none can crash, overrun or hang:
//!
//! - The one type is `i64`. Arithmetic wraps. Comparisons and `!`, `&&`, `||` give 0 or 1.
//! - `x / 0` is 0 and `x % 0` is `x`, so that `x == x / y * y + x % y` holds for all `x` and `y`.
//! - Shifts use the low six bits of their count.
//! - `mem` has [`machine::MEMORY_WORDS`] words, zero when a run starts; an index uses its low bits.
//! - A run has a budget of steps. Entering a function costs one step, and so does every test of a
//!   loop's condition. Without steps left, a call gives 0 without entering, and a loop ends without
//!   its test. So the run ends by itself.
//! - A call that would be nested deeper than [`machine::MAX_DEPTH`] gives 0 as well.
//! - A name is visible from its `let` to the end of the block. No name hides another. A function
//!   that ends without `return` gives 0.
//!
//! The entry of a program is the function with the program's name.

pub(crate) mod ast;
pub(crate) mod generator;
pub(crate) mod interpreter;
mod lexer;
pub(crate) mod machine;
mod parser;
mod resolve;

use crate::common::source::SourceError;
use ast::Program;

/// Parses all programs of a text. The returned programs are complete, and either engine can run
/// them.
pub(crate) fn read(text: &str) -> Result<Vec<Program>, SourceError> {
    let mut programs = parser::parse(lexer::tokens(text)?)?;
    resolve::resolve(&mut programs)?;
    Ok(programs)
}
