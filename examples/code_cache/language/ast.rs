//! The syntax tree, shared by the interpreter and the compiler.

use crate::common::source::Place;

/// A name in the source.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) place: Place,
    /// The number that it refers to, set by `resolve`: of the local within its function, or of the
    /// function within its program.
    pub(crate) index: usize,
}

/// Functions that call each other. The cache holds, publishes and evicts them as one.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: Name,
    /// The budget of one run.
    pub(crate) steps: i64,
    pub(crate) functions: Vec<Function>,
    pub(crate) runs: Vec<Run>,
    /// The function with the program's name; set by `resolve`.
    pub(crate) entry: usize,
}

/// A `check` or `run` line.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) function: Name,
    pub(crate) arguments: Vec<i64>,
    /// The result that the author expects. `run` lines have none.
    pub(crate) expected: Option<i64>,
}

#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: Name,
    pub(crate) parameters: Vec<Name>,
    pub(crate) body: Vec<Statement>,
    /// The number of locals, parameters first; set by `resolve`.
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
    /// `&&` and `||`, which may not evaluate their right side.
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
