//! The checks that the grammar cannot express, and the resolution of names.
//!
//! ```text
//! each program: define its functions --> check entry, budget and runs --> walk the body of each function
//! ```
//!
//! | written into the tree | meaning |
//! |---|---|
//! | `Name::index` | the number of a program, of a function in its program, or of a local in its function |
//! | `Function::locals` | how many locals a function has, parameters included |
//! | `Program::entry` | the function with the program's name |
//!
//! The engines index by these numbers, and look up no name. All functions are defined before a body
//! is walked, so a call may name a later function. A local is declared after its value is resolved,
//! and each has a number of its own. The first error ends the resolution.

use std::collections::HashMap;

use super::ast::{Expr, Function, Name, Program, Statement};
use super::machine::{MAX_PARAMETERS, MAX_STEPS};
use crate::common::source::SourceError;

/// The limit of nodes in one function's tree. `machine::MAX_DEPTH` says why it exists.
const MAX_NODES: usize = 4096;

type Checked = Result<(), SourceError>;

pub(super) fn resolve(programs: &mut [Program]) -> Checked {
    let mut names = HashMap::new();
    for program in programs {
        define(&mut names, &mut program.name, "program")?;
        resolve_program(program)?;
    }
    Ok(())
}

/// The definitions so far, numbered in the order of the text.
type Names = HashMap<String, usize>;

fn define(names: &mut Names, name: &mut Name, kind: &str) -> Checked {
    name.index = names.len();
    match names.insert(name.text.clone(), name.index) {
        Some(_) => fail(name, format!("a second {kind} `{}`", name.text)),
        None => Ok(()),
    }
}

fn resolve_program(program: &mut Program) -> Checked {
    let mut functions = Names::new();
    for function in &mut program.functions {
        define(&mut functions, &mut function.name, "function")?;
        if function.parameters.len() > MAX_PARAMETERS {
            return fail(&function.name, format!("more than {MAX_PARAMETERS} parameters"));
        }
    }
    let arities: Vec<usize> = program.functions.iter().map(|function| function.parameters.len()).collect();
    let Some(&entry) = functions.get(&program.name.text) else {
        return fail(&program.name, format!("program `{0}` has no function `{0}` to enter it by", program.name.text));
    };
    program.entry = entry;
    if program.runs.is_empty() {
        return fail(&program.name, format!("program `{}` has no `check` and no `run`", program.name.text));
    }
    if !(0..=MAX_STEPS).contains(&program.steps) {
        return fail(&program.name, format!("a budget of steps is from 0 to {MAX_STEPS}"));
    }
    for run in &program.runs {
        if run.function.text != program.name.text {
            return fail(&run.function, format!("program `{0}` is entered by `{0}`", program.name.text));
        }
        expect_arguments(&run.function, run.arguments.len(), arities[entry])?;
    }
    for function in &mut program.functions {
        resolve_function(function, &functions, &arities)?;
    }
    Ok(())
}

fn resolve_function(function: &mut Function, functions: &Names, arities: &[usize]) -> Checked {
    let mut scope = Scope { functions, arities, visible: Vec::new(), locals: 0, nodes: 0 };
    for parameter in &mut function.parameters {
        scope.declare(parameter)?;
    }
    scope.block(&mut function.body)?;
    function.locals = scope.locals;
    if scope.nodes > MAX_NODES {
        return fail(&function.name, format!("function `{}` is too long for one function", function.name.text));
    }
    Ok(())
}

/// The names that are visible at one point of a function.
struct Scope<'a> {
    functions: &'a Names,
    /// The number of parameters of each function.
    arities: &'a [usize],
    /// The visible locals.
    visible: Vec<(String, usize)>,
    locals: usize,
    nodes: usize,
}

impl Scope<'_> {
    fn declare(&mut self, name: &mut Name) -> Checked {
        if self.visible.iter().any(|(text, _)| *text == name.text) {
            return fail(name, format!("a second `{}`", name.text));
        }
        name.index = self.locals;
        self.locals += 1;
        self.visible.push((name.text.clone(), name.index));
        Ok(())
    }

    fn local(&self, name: &mut Name) -> Checked {
        match self.visible.iter().find(|(text, _)| *text == name.text) {
            Some((_, index)) => name.index = *index,
            None => return fail(name, format!("unknown name `{}`", name.text)),
        }
        Ok(())
    }

    fn block(&mut self, statements: &mut [Statement]) -> Checked {
        let outside = self.visible.len();
        for statement in statements {
            self.statement(statement)?;
        }
        self.visible.truncate(outside);
        Ok(())
    }

    fn statement(&mut self, statement: &mut Statement) -> Checked {
        self.nodes += 1;
        match statement {
            Statement::Let(name, value) => {
                self.expr(value)?;
                self.declare(name)
            }
            Statement::Assign(name, value) => {
                self.local(name)?;
                self.expr(value)
            }
            Statement::Store { index, value } => {
                self.expr(index)?;
                self.expr(value)
            }
            Statement::If { condition, then, otherwise } => {
                self.expr(condition)?;
                self.block(then)?;
                self.block(otherwise)
            }
            Statement::While { condition, body } => {
                self.expr(condition)?;
                self.block(body)
            }
            Statement::Return(value) | Statement::Evaluate(value) => self.expr(value),
        }
    }

    fn expr(&mut self, expr: &mut Expr) -> Checked {
        self.nodes += 1;
        match expr {
            Expr::Number(_) => Ok(()),
            Expr::Local(name) => self.local(name),
            Expr::Load(operand) | Expr::Unary(_, operand) => self.expr(operand),
            Expr::Binary(_, left, right) | Expr::Logic(_, left, right) => {
                self.expr(left)?;
                self.expr(right)
            }
            Expr::Call(name, arguments) => {
                let Some(&callee) = self.functions.get(&name.text) else {
                    return fail(name, format!("unknown function `{}`", name.text));
                };
                name.index = callee;
                expect_arguments(name, arguments.len(), self.arities[callee])?;
                arguments.iter_mut().try_for_each(|argument| self.expr(argument))
            }
        }
    }
}

fn expect_arguments(name: &Name, given: usize, taken: usize) -> Checked {
    if given == taken {
        return Ok(());
    }
    let plural = if taken == 1 { "" } else { "s" };
    fail(name, format!("`{}` takes {taken} argument{plural}, not {given}", name.text))
}

fn fail(name: &Name, message: String) -> Checked {
    Err(SourceError::new(name.place, message))
}
