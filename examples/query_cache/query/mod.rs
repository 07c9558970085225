//! The language of the queries, and what each operation gives.
//!
//! `main.rs` has the grammar. A number is digits, a fraction if you like, and an exponent such as
//! `e-3` if you like. A query is one line, and gives one number: the sum of the first expression
//! over all rows in which the predicate is not 0, or over all rows. The columns are those of
//! [`COLUMNS`].
//!
//! Everything is an `f64` as IEEE 754 has it, rounded after each operation, and added up row by row
//! from the first on, beginning with 0. So there is one right result, to the last bit. What the
//! standard leaves open is settled here:
//!
//! - Comparisons, `&&`, `||` and `!` give 1 or 0. Any operand that is not equal to 0 is true, so
//!   NaN is.
//! - `min(a, b)` is `a` if `a < b` and else `b`; `max(a, b)` is `a` if `a > b` and else `b`. So it
//!   is `b` with a NaN, and with two zeros. x86 has instructions for just that.
//! - Which NaN comes of two differs between processors. Nothing inside a query can tell NaNs apart;
//!   a result that is NaN is made [`NAN`].
//! - Whether both sides of `&&` and `||` are evaluated makes no difference: nothing has an effect
//!   or fails.

pub(crate) mod generator;
pub(crate) mod interpreter;
mod lexer;
mod parser;
#[cfg(test)]
mod tests;

use crate::common::source::SourceError;

/// A column, and between what its values are.
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// Values are multiples of it.
    pub(crate) step: f64,
}

const fn column(name: &'static str, low: f64, high: f64, step: f64) -> Column {
    Column { name, low, high, step }
}

/// The columns of the one table that there is.
pub(crate) const COLUMNS: [Column; 8] = [
    column("price", 0.5, 500.0, 0.01),
    column("quantity", 1.0, 100.0, 1.0),
    column("discount", 0.0, 0.4, 0.05),
    column("tax", 0.0, 0.25, 0.01),
    column("cost", 0.1, 400.0, 0.01),
    column("weight", 0.001, 50.0, 0.001),
    column("age", 0.0, 365.0, 1.0),
    column("rating", 1.0, 5.0, 0.5),
];

/// The column with NaN in it, where there is no value; `rating == rating` is false there.
pub(crate) const WITH_NAN: usize = 7;

/// The NaN that a query gives.
pub(crate) const NAN: u64 = 0x7ff8_0000_0000_0000;

#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) value: Expr,
    pub(crate) predicate: Option<Expr>,
}

#[derive(Debug)]
pub(crate) enum Expr {
    Number(f64),
    /// An index into [`COLUMNS`].
    Column(usize),
    Unary(Unary, Box<Expr>),
    Not(Box<Expr>),
    Binary(Binary, Box<Expr>, Box<Expr>),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Unary {
    Negate,
    Absolute,
    Root,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Binary {
    Arithmetic(Arithmetic),
    Compare(Compare),
    Logic(Logic),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Minimum,
    Maximum,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Compare {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Logic {
    And,
    Or,
}

/// Reads one query, which is line `line` of where it comes from.
pub(crate) fn read(text: &str, line: u32) -> Result<Query, SourceError> {
    parser::parse(&lexer::tokens(text, line)?)
}
