//! Parsing of expressions, by precedence climbing.

use super::{Parsed, Parser};
use crate::language::ast::{Binary, Expr, Logic, Unary};
use crate::language::lexer::Token;

enum Operator {
    Binary(Binary),
    Logic(Logic),
}

impl Parser {
    pub(super) fn expr(&mut self) -> Parsed<Expr> {
        self.nested(|parser| parser.operators(0))
    }

    /// Parses operators that bind tighter than `floor`, with their operands.
    fn operators(&mut self, floor: u8) -> Parsed<Expr> {
        let outer = self.nesting;
        let mut left = self.operand()?;
        while let Some((operator, binding)) = self.operator().filter(|(_, binding)| *binding > floor) {
            self.next += 1;
            // A chain such as a + b + c makes the tree one level deeper with each link.
            self.deepen()?;
            let right = Box::new(self.operators(binding)?);
            left = match operator {
                Operator::Binary(binary) => Expr::Binary(binary, Box::new(left), right),
                Operator::Logic(logic) => Expr::Logic(logic, Box::new(left), right),
            };
        }
        self.nesting = outer;
        Ok(left)
    }

    /// Returns the next operator, and how tight it binds.
    fn operator(&self) -> Option<(Operator, u8)> {
        use Binary::*;
        let Token::Mark(mark) = self.peek() else { return None };
        let (binary, binding) = match *mark {
            "||" => return Some((Operator::Logic(Logic::Or), 1)),
            "&&" => return Some((Operator::Logic(Logic::And), 2)),
            "|" => (Or, 3),
            "^" => (Xor, 4),
            "&" => (And, 5),
            "==" => (Equal, 6),
            "!=" => (NotEqual, 6),
            "<" => (Less, 7),
            "<=" => (LessOrEqual, 7),
            ">" => (Greater, 7),
            ">=" => (GreaterOrEqual, 7),
            "<<" => (ShiftLeft, 8),
            ">>" => (ShiftRight, 8),
            ">>>" => (ShiftRightLogical, 8),
            "+" => (Add, 9),
            "-" => (Subtract, 9),
            "*" => (Multiply, 10),
            "/" => (Divide, 10),
            "%" => (Remainder, 10),
            _ => return None,
        };
        Some((Operator::Binary(binary), binding))
    }

    fn operand(&mut self) -> Parsed<Expr> {
        for (mark, unary) in [("-", Unary::Negate), ("~", Unary::Complement), ("!", Unary::Not)] {
            if self.accept(mark) {
                return Ok(Expr::Unary(unary, Box::new(self.nested(Self::operand)?)));
            }
        }
        if self.accept("(") {
            let inner = self.expr()?;
            self.expect(")")?;
            return Ok(inner);
        }
        if let Token::Number(number) = *self.peek() {
            self.next += 1;
            return Ok(Expr::Number(number as i64));
        }
        if self.accept_word("mem") {
            self.expect("[")?;
            let index = self.expr()?;
            self.expect("]")?;
            return Ok(Expr::Load(Box::new(index)));
        }
        let name = self.name("an expression")?;
        if self.accept("(") { Ok(Expr::Call(name, self.list(Self::expr)?)) } else { Ok(Expr::Local(name)) }
    }
}
