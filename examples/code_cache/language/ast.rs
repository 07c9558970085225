//! The syntax tree, shared by the interpreter and the compiler.

use crate::common::source::Place;

/// A name as it was written.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) place: Place,
    /// What it stands for, filled in by `resolve`: the local's number within its function, or the
    /// function's within its program.
    pub(crate) index: usize,
}

/// Functions that call each other: what the cache holds, publishes and evicts as one.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: Name,
    /// The budget of one run.
    pub(crate) steps: i64,
    pub(crate) functions: Vec<Function>,
    pub(crate) runs: Vec<Run>,
    /// The function that bears the program's name; filled in by `resolve`.
    pub(crate) entry: usize,
}

/// A `check` or `run` line.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) function: Name,
    pub(crate) arguments: Vec<i64>,
    /// What the author says it gives; `run` lines do not say.
    pub(crate) expected: Option<i64>,
}

#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: Name,
    pub(crate) parameters: Vec<Name>,
    pub(crate) body: Vec<Statement>,
    /// How many locals there are, parameters first; filled in by `resolve`.
    pub(crate) locals: usize,
}

#[derive(Debug)]
pub(crate) enum Statement {
    Let(Name, Expr),
    Assign(Name, Expr),
    Store { index: Expr, value: Expr },
    If { condition: Expr, then: Vec<Statement>, otherwise: Vec<Statement> },
    While { condition: Expr, body: Vec<Statement> },
    Return(Expr),
    Evaluate(Expr),
}

#[derive(Debug)]
pub(crate) enum Expr {
    Number(i64),
    Local(Name),
    Load(Box<Expr>),
    Call(Name, Vec<Expr>),
    Unary(Unary, Box<Expr>),
    Binary(Binary, Box<Expr>, Box<Expr>),
    /// `&&` and `||`, which may leave their right side unevaluated.
    Logic(Logic, Box<Expr>, Box<Expr>),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Unary {
    Negate,
    Complement,
    Not,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Logic {
    And,
    Or,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight,
    ShiftRightLogical,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}
