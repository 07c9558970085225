//! The parser: tokens become a syntax tree, by recursive descent, with precedence climbing for the
//! operators.
//!
//! ```text
//! parse --> expr --> operators (floor) --> operand --> number, column, call, "(" expr ")"
//!                    `--> operators (binding of the last operator)
//! ```
//!
//! - `operators` reads operators that bind tighter than its floor, from 1 for `||` to 6 for `*` and
//!   `/`. Operators of equal binding group from the left.
//! - `where` is a word that is no column, so it ends the first expression.
//! - `MAX_NESTING` counts parentheses, prefix operators and the links of a chain of operators,
//!   because each makes the tree one level deeper.
//! - An error has the position of the token that was found. For an unknown column or function it
//!   lists the known names.

use super::lexer::Token;
use super::{Arithmetic, Binary, COLUMNS, Compare, Expr, Logic, Query, Unary};
use crate::common::source::{Place, SourceError};

/// The limit of nesting in expressions. It keeps the recursion here and in the engines within their
/// stacks.
const MAX_NESTING: usize = 100;

type Parsed<T> = Result<T, SourceError>;

/// Parses a list of tokens, which ends with `Token::End`.
pub(super) fn parse(tokens: &[(Token<'_>, Place)]) -> Parsed<Query> {
    let mut parser = Parser { tokens, next: 0, nesting: 0 };
    let value = parser.expr()?;
    if *parser.peek() == Token::End {
        return Ok(Query { value, predicate: None });
    }
    if *parser.peek() != Token::Word("where") {
        return parser.unexpected("an operator, `where` or the end of the query");
    }
    parser.next += 1;
    let predicate = Some(parser.expr()?);
    match parser.peek() {
        Token::End => Ok(Query { value, predicate }),
        _ => parser.unexpected("an operator or the end of the query"),
    }
}

struct Parser<'a> {
    tokens: &'a [(Token<'a>, Place)],
    /// The index of the next token. It never passes the end.
    next: usize,
    nesting: usize,
}

impl<'a> Parser<'a> {
    fn expr(&mut self) -> Parsed<Expr> {
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
            let right = self.operators(binding)?;
            left = Expr::Binary(operator, Box::new(left), Box::new(right));
        }
        self.nesting = outer;
        Ok(left)
    }

    /// Returns the next operator, and how tight it binds.
    fn operator(&self) -> Option<(Binary, u8)> {
        let Token::Mark(mark) = self.peek() else { return None };
        Some(match *mark {
            "||" => (Binary::Logic(Logic::Or), 1),
            "&&" => (Binary::Logic(Logic::And), 2),
            "==" => (Binary::Compare(Compare::Equal), 3),
            "!=" => (Binary::Compare(Compare::NotEqual), 3),
            "<" => (Binary::Compare(Compare::Less), 4),
            "<=" => (Binary::Compare(Compare::LessOrEqual), 4),
            ">" => (Binary::Compare(Compare::Greater), 4),
            ">=" => (Binary::Compare(Compare::GreaterOrEqual), 4),
            "+" => (Binary::Arithmetic(Arithmetic::Add), 5),
            "-" => (Binary::Arithmetic(Arithmetic::Subtract), 5),
            "*" => (Binary::Arithmetic(Arithmetic::Multiply), 6),
            "/" => (Binary::Arithmetic(Arithmetic::Divide), 6),
            _ => return None,
        })
    }

    fn operand(&mut self) -> Parsed<Expr> {
        if self.accept("-") {
            return Ok(Expr::Unary(Unary::Negate, Box::new(self.nested(Self::operand)?)));
        }
        if self.accept("!") {
            return Ok(Expr::Not(Box::new(self.nested(Self::operand)?)));
        }
        if self.accept("(") {
            let inner = self.expr()?;
            self.expect(")")?;
            return Ok(inner);
        }
        let (token, place) = self.tokens[self.next];
        match token {
            Token::Number(number) => {
                self.next += 1;
                Ok(Expr::Number(number))
            }
            Token::Word(word) if word != "where" => {
                self.next += 1;
                if self.accept("(") { self.call(word, place) } else { column(word, place) }
            }
            _ => self.unexpected("a number, a column, a function or `(`"),
        }
    }

    /// Parses the arguments of a call, after the name and the parenthesis.
    fn call(&mut self, name: &str, place: Place) -> Parsed<Expr> {
        let call = match name {
            "abs" => Expr::Unary(Unary::Absolute, Box::new(self.expr()?)),
            "sqrt" => Expr::Unary(Unary::Root, Box::new(self.expr()?)),
            "min" => self.pair(Arithmetic::Minimum)?,
            "max" => self.pair(Arithmetic::Maximum)?,
            _ => {
                let message = format!("no function is named `{name}`; there are min, max, abs and sqrt");
                return Err(SourceError::new(place, message));
            }
        };
        self.expect(")")?;
        Ok(call)
    }

    fn pair(&mut self, arithmetic: Arithmetic) -> Parsed<Expr> {
        let left = Box::new(self.expr()?);
        self.expect(",")?;
        Ok(Expr::Binary(Binary::Arithmetic(arithmetic), left, Box::new(self.expr()?)))
    }

    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        self.deepen()?;
        let result = inner(self);
        self.nesting -= 1;
        result
    }

    fn deepen(&mut self) -> Parsed<()> {
        if self.nesting == MAX_NESTING {
            let place = self.tokens[self.next].1;
            return Err(SourceError::new(place, format!("nested deeper than {MAX_NESTING}")));
        }
        self.nesting += 1;
        Ok(())
    }

    fn accept(&mut self, mark: &str) -> bool {
        let found = matches!(self.peek(), Token::Mark(ahead) if *ahead == mark);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, mark: &str) -> Parsed<()> {
        if self.accept(mark) { Ok(()) } else { self.unexpected(&format!("`{mark}`")) }
    }

    fn unexpected<T>(&self, wanted: &str) -> Parsed<T> {
        let (token, place) = self.tokens[self.next];
        let found = match token {
            Token::Word(word) => format!("`{word}`"),
            Token::Number(number) => number.to_string(),
            Token::Mark(mark) => format!("`{mark}`"),
            Token::End => "the end of the query".to_owned(),
        };
        Err(SourceError::new(place, format!("expected {wanted}, found {found}")))
    }

    fn peek(&self) -> &'a Token<'a> {
        &self.tokens[self.next].0
    }
}

fn column(name: &str, place: Place) -> Parsed<Expr> {
    match COLUMNS.iter().position(|column| column.name == name) {
        Some(index) => Ok(Expr::Column(index)),
        None => {
            let names: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
            Err(SourceError::new(place, format!("no column is named `{name}`; there are {}", names.join(", "))))
        }
    }
}
