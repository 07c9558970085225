//! The parser: tokens become a syntax tree, by recursive descent. Expressions are in a file of
//! their own.
//!
//! ```text
//! program --> function   --> block --> statement --> expr (expression.rs)
//!        `--> check, run --> signed numbers
//! ```
//!
//! - One method reads one rule of the grammar. It decides by the next token only. So `assignment`
//!   reads an expression first, and the `=` after it decides.
//! - Names stay text here, and all their indices are 0. `resolve` replaces these afterwards.
//! - The first error ends the parse. It has the position of the token that was found, and says what
//!   was expected.
//! - Blocks and expressions count their nesting against `MAX_NESTING`.

mod expression;

use super::ast::{Expr, Function, Name, Program, Run, Statement};
use super::lexer::Token;
use super::machine::DEFAULT_STEPS;
use crate::common::source::{Place, SourceError};

/// The limit of nesting in blocks and expressions. It keeps the recursion here and in the engines
/// within their stacks.
const MAX_NESTING: usize = 64;

const KEYWORDS: [&str; 11] = ["program", "steps", "fn", "check", "run", "let", "if", "else", "while", "return", "mem"];

type Parsed<T> = Result<T, SourceError>;

pub(super) fn parse(tokens: Vec<(Token, Place)>) -> Parsed<Vec<Program>> {
    let mut parser = Parser { tokens, next: 0, nesting: 0 };
    let mut programs = Vec::new();
    while *parser.peek() != Token::End {
        programs.push(parser.program()?);
    }
    Ok(programs)
}

struct Parser {
    /// The tokens. They end with `Token::End`, which the position never passes.
    tokens: Vec<(Token, Place)>,
    next: usize,
    nesting: usize,
}

impl Parser {
    fn program(&mut self) -> Parsed<Program> {
        self.expect_word("program")?;
        let name = self.name("the program's name")?;
        let steps = if self.accept_word("steps") { self.signed()? } else { DEFAULT_STEPS };
        self.expect("{")?;
        let (mut functions, mut runs) = (Vec::new(), Vec::new());
        while !self.accept("}") {
            if self.accept_word("fn") {
                functions.push(self.function()?);
            } else if self.accept_word("check") {
                runs.push(self.run(true)?);
            } else if self.accept_word("run") {
                runs.push(self.run(false)?);
            } else {
                return self.unexpected("`fn`, `check`, `run` or `}`");
            }
        }
        Ok(Program { name, steps, functions, runs, entry: 0 })
    }

    fn function(&mut self) -> Parsed<Function> {
        let name = self.name("the function's name")?;
        self.expect("(")?;
        let parameters = self.list(|parser| parser.name("a parameter"))?;
        Ok(Function { name, parameters, body: self.block()?, locals: 0 })
    }

    /// Parses the rest of a `check` or `run` line.
    fn run(&mut self, says_result: bool) -> Parsed<Run> {
        let function = self.name("the entry's name")?;
        self.expect("(")?;
        let arguments = self.list(Self::signed)?;
        let expected = if says_result {
            self.expect("==")?;
            Some(self.signed()?)
        } else {
            None
        };
        self.expect(";")?;
        Ok(Run { function, arguments, expected })
    }

    fn block(&mut self) -> Parsed<Vec<Statement>> {
        self.expect("{")?;
        self.nested(|parser| {
            let mut statements = Vec::new();
            while !parser.accept("}") {
                statements.push(parser.statement()?);
            }
            Ok(statements)
        })
    }

    fn statement(&mut self) -> Parsed<Statement> {
        if self.accept_word("if") {
            return self.branch();
        }
        if self.accept_word("while") {
            return Ok(Statement::While { condition: self.expr()?, body: self.block()? });
        }
        let statement = if self.accept_word("let") {
            let name = self.name("a name")?;
            self.expect("=")?;
            Statement::Let(name, self.expr()?)
        } else if self.accept_word("return") {
            Statement::Return(self.expr()?)
        } else {
            self.assignment()?
        };
        self.expect(";")?;
        Ok(statement)
    }

    /// Parses the rest of an `if`.
    fn branch(&mut self) -> Parsed<Statement> {
        let condition = self.expr()?;
        let then = self.block()?;
        let otherwise = if !self.accept_word("else") {
            Vec::new()
        } else if self.accept_word("if") {
            vec![self.nested(Self::branch)?]
        } else {
            self.block()?
        };
        Ok(Statement::If { condition, then, otherwise })
    }

    /// Parses an assignment, or an expression for its effects. The token after the first expression
    /// decides which it is.
    fn assignment(&mut self) -> Parsed<Statement> {
        let place = self.place();
        let target = self.expr()?;
        if !self.accept("=") {
            return Ok(Statement::Evaluate(target));
        }
        match target {
            Expr::Local(name) => Ok(Statement::Assign(name, self.expr()?)),
            Expr::Load(index) => Ok(Statement::Store { index: *index, value: self.expr()? }),
            _ => Err(SourceError::new(place, "only a name or a word of mem can be assigned to")),
        }
    }

    /// Parses items between commas, up to the closing parenthesis.
    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        let mut items = Vec::new();
        if self.accept(")") {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.accept(")") {
                return Ok(items);
            }
            self.expect(",")?;
        }
    }

    fn signed(&mut self) -> Parsed<i64> {
        let negative = self.accept("-");
        let Token::Number(number) = *self.peek() else { return self.unexpected("a number") };
        self.next += 1;
        Ok(if negative { (number as i64).wrapping_neg() } else { number as i64 })
    }

    fn name(&mut self, what: &str) -> Parsed<Name> {
        let place = self.place();
        match self.peek() {
            Token::Word(text) if !KEYWORDS.contains(&text.as_str()) => {
                let text = text.clone();
                self.next += 1;
                Ok(Name { text, place, index: 0 })
            }
            _ => self.unexpected(what),
        }
    }

    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        self.deepen()?;
        let result = inner(self);
        self.nesting -= 1;
        result
    }

    fn deepen(&mut self) -> Parsed<()> {
        if self.nesting == MAX_NESTING {
            return Err(SourceError::new(self.place(), format!("nested deeper than {MAX_NESTING}")));
        }
        self.nesting += 1;
        Ok(())
    }

    fn accept(&mut self, mark: &str) -> bool {
        let found = matches!(self.peek(), Token::Mark(ahead) if *ahead == mark);
        self.next += usize::from(found);
        found
    }

    fn accept_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Token::Word(ahead) if ahead == word);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, mark: &str) -> Parsed<()> {
        if self.accept(mark) { Ok(()) } else { self.unexpected(&format!("`{mark}`")) }
    }

    fn expect_word(&mut self, word: &str) -> Parsed<()> {
        if self.accept_word(word) { Ok(()) } else { self.unexpected(&format!("`{word}`")) }
    }

    fn unexpected<T>(&self, wanted: &str) -> Parsed<T> {
        let found = match self.peek() {
            Token::Word(word) => format!("`{word}`"),
            Token::Number(number) => number.to_string(),
            Token::Mark(mark) => format!("`{mark}`"),
            Token::End => "the end of the file".to_owned(),
        };
        Err(SourceError::new(self.place(), format!("expected {wanted}, found {found}")))
    }

    fn peek(&self) -> &Token {
        &self.tokens[self.next].0
    }

    fn place(&self) -> Place {
        self.tokens[self.next].1
    }
}
