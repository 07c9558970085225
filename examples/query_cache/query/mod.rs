//! The language of the queries, and the result of each operation.
//!
//! `main.rs` contains the grammar. A number has digits, an optional fraction, and an optional
//! exponent such as `e-3`. A query is one line, and gives one number: the sum of the first
//! expression over all rows in which the predicate is not 0, or over all rows if there is no
//! predicate. The columns are those of [`COLUMNS`].
//!
//! Every value is an IEEE 754 `f64`, rounded after each operation. Rows are added one by one from
//! the first, beginning with 0. So there is one right result, to the last bit. This language
//! settles the points that the standard leaves open:
//!
//! - Comparisons, `&&`, `||` and `!` give 1 or 0. Every operand that is not equal to 0 is true,
//!   including NaN.
//! - `min(a, b)` is `a` if `a < b`, and otherwise `b`. `max(a, b)` is `a` if `a > b`, and otherwise
//!   `b`. So the result is `b` if one of them is NaN, or if both are zeros. x86 has instructions
//!   that do exactly this.
//! - Processors differ in which of two NaNs an operation returns. No operation in a query
//!   distinguishes NaNs. A result that is NaN becomes [`NAN`].
//! - It makes no difference whether both sides of `&&` and `||` are evaluated, because no operation
//!   has an effect or fails.

pub(crate) mod generator;
pub(crate) mod interpreter;
mod lexer;
mod parser;
#[cfg(test)]
mod tests;

use crate::common::source::SourceError;

/// A column, with the range of its values.
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// All values are multiples of this number.
    pub(crate) step: f64,
}

const fn column(name: &'static str, low: f64, high: f64, step: f64) -> Column {
    Column { name, low, high, step }
}

/// The columns of the only table.
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

/// The column with missing values, which are NaN. `rating == rating` is false there.
pub(crate) const WITH_NAN: usize = 7;

/// The NaN that is the result of a query.
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

/// Parses one query, which is line `line` of its source.
pub(crate) fn read(text: &str, line: u32) -> Result<Query, SourceError> {
    parser::parse(&lexer::tokens(text, line)?)
}
