//! The lexer: source text becomes tokens.

use crate::common::source::{Place, SourceError};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A name or a keyword. The parser distinguishes them.
    Word(String),
    /// A number without its sign, up to `u64::MAX`, so that hexadecimal masks can be written. It
    /// wraps to `i64`.
    Number(u64),
    /// An operator or a bracket.
    Mark(&'static str),
    End,
}

/// The operators and brackets. Longer marks are before the marks that they begin with.
const MARKS: [&str; 30] = [
    ">>>", ">>", "<<", "==", "!=", "<=", ">=", "&&", "||", "+", "-", "*", "/", "%", "&", "|", "^", "~", "!", "<", ">",
    "=", "(", ")", "{", "}", "[", "]", ",", ";",
];

/// Splits a text into tokens with their positions. The last token is `End`.
pub(super) fn tokens(text: &str) -> Result<Vec<(Token, Place)>, SourceError> {
    let mut tokens = Vec::new();
    let mut place = Place { line: 1, column: 1 };
    for (number, line) in (1..).zip(text.lines()) {
        let mut rest = line;
        loop {
            rest = rest.trim_start();
            // `rest` is the tail of `line`, so the length of the part before it is the difference
            // of their lengths.
            let before = &line[..line.len() - rest.len()];
            place = Place { line: number, column: before.chars().count() as u32 + 1 };
            if rest.is_empty() || rest.starts_with('#') {
                break;
            }
            let (token, length) = token(rest).map_err(|message| SourceError::new(place, message))?;
            tokens.push((token, place));
            rest = &rest[length..];
        }
    }
    tokens.push((Token::End, place));
    Ok(tokens)
}

/// Returns the token at the beginning of a text that is not empty, and its length in bytes.
fn token(rest: &str) -> Result<(Token, usize), String> {
    let word_end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    if rest.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok((number(&rest[..word_end])?, word_end));
    }
    if word_end > 0 {
        return Ok((Token::Word(rest[..word_end].to_owned()), word_end));
    }
    match MARKS.iter().find(|mark| rest.starts_with(**mark)) {
        Some(mark) => Ok((Token::Mark(mark), mark.len())),
        None => Err(format!("unexpected character {:?}", rest.chars().next().unwrap_or(' '))),
    }
}

fn number(word: &str) -> Result<Token, String> {
    let digits = word.replace('_', "");
    let value = match digits.strip_prefix("0x") {
        Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16),
        None => digits.parse(),
    };
    value.map(Token::Number).map_err(|_| format!("{word} is not a number of 64 bits"))
}
