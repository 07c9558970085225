//! The interpreter, which defines the results of compiled code. It walks the tree.

use super::ast::{Expr, Logic, Program, Statement};
use super::machine::Machine;

/// Runs a program from a fresh machine.
pub(crate) fn run(program: &Program, arguments: &[i64]) -> i64 {
    let mut machine = Machine::new();
    machine.reset(program.steps);
    enter(program, &mut machine, arguments)
}

/// Runs a program on a machine in its present state.
pub(crate) fn enter(program: &Program, machine: &mut Machine, arguments: &[i64]) -> i64 {
    call(program, machine, program.entry, arguments.to_vec())
}

/// Calls a function; `locals` holds its arguments.
fn call(program: &Program, machine: &mut Machine, function: usize, mut locals: Vec<i64>) -> i64 {
    if machine.steps == 0 || machine.depth == 0 {
        return 0;
    }
    machine.steps -= 1;
    machine.depth -= 1;
    let function = &program.functions[function];
    locals.resize(function.locals, 0);
    let flow = Frame { program, machine, locals }.block(&function.body);
    machine.depth += 1;
    match flow {
        Flow::Return(value) => value,
        Flow::Next => 0,
    }
}

/// The continuation after a statement.
enum Flow {
    Next,
    Return(i64),
}

struct Frame<'a> {
    program: &'a Program,
    machine: &'a mut Machine,
    locals: Vec<i64>,
}

impl Frame<'_> {
    fn block(&mut self, statements: &[Statement]) -> Flow {
        for statement in statements {
            if let Flow::Return(value) = self.statement(statement) {
                return Flow::Return(value);
            }
        }
        Flow::Next
    }

    fn statement(&mut self, statement: &Statement) -> Flow {
        match statement {
            Statement::Let(name, value) | Statement::Assign(name, value) => {
                self.locals[name.index] = self.value(value);
            }
            Statement::Store { index, value } => {
                let word = Machine::word(self.value(index));
                self.machine.memory[word] = self.value(value);
            }
            Statement::If { condition, then, otherwise } => {
                let taken = if self.value(condition) != 0 { then } else { otherwise };
                return self.block(taken);
            }
            Statement::While { condition, body } => {
                while self.machine.steps > 0 {
                    self.machine.steps -= 1;
                    if self.value(condition) == 0 {
                        break;
                    }
                    if let Flow::Return(value) = self.block(body) {
                        return Flow::Return(value);
                    }
                }
            }
            Statement::Return(value) => return Flow::Return(self.value(value)),
            Statement::Evaluate(value) => {
                self.value(value);
            }
        }
        Flow::Next
    }

    fn value(&mut self, expr: &Expr) -> i64 {
        match expr {
            Expr::Number(number) => *number,
            Expr::Local(name) => self.locals[name.index],
            Expr::Load(index) => {
                let word = Machine::word(self.value(index));
                self.machine.memory[word]
            }
            Expr::Call(name, arguments) => {
                let arguments = arguments.iter().map(|argument| self.value(argument)).collect();
                call(self.program, self.machine, name.index, arguments)
            }
            Expr::Unary(unary, operand) => unary.apply(self.value(operand)),
            Expr::Binary(binary, left, right) => {
                let left = self.value(left);
                binary.apply(left, self.value(right))
            }
            Expr::Logic(logic, left, right) => {
                let left = self.value(left) != 0;
                let decided = match logic {
                    Logic::And => !left,
                    Logic::Or => left,
                };
                i64::from(if decided { left } else { self.value(right) != 0 })
            }
        }
    }
}
