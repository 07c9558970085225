//! The lexer: a line of text becomes tokens.

use crate::common::source::{Place, SourceError};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// A name or `where`. The parser distinguishes them.
    Word(&'a str),
    Number(f64),
    /// An operator, a parenthesis or a comma.
    Mark(&'static str),
    End,
}

/// The operators, parentheses and the comma. Longer marks are before the marks that they begin
/// with.
const MARKS: [&str; 16] = ["==", "!=", "<=", ">=", "&&", "||", "+", "-", "*", "/", "!", "<", ">", "(", ")", ","];

/// Splits a line into tokens with their positions. The last token is `End`.
pub(super) fn tokens(text: &str, line: u32) -> Result<Vec<(Token<'_>, Place)>, SourceError> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    loop {
        // `rest` is the tail of `text`, so the length of the part before it is the difference of
        // their lengths.
        let before = &text[..text.len() - rest.len()];
        let place = Place { line, column: before.chars().count() as u32 + 1 };
        if rest.is_empty() {
            tokens.push((Token::End, place));
            return Ok(tokens);
        }
        let (token, length) = token(rest).map_err(|message| SourceError::new(place, message))?;
        tokens.push((token, place));
        rest = rest[length..].trim_start();
    }
}

/// Returns the token at the beginning of a text that is not empty, and its length in bytes.
fn token(rest: &str) -> Result<(Token<'_>, usize), String> {
    if rest.starts_with(|c: char| c.is_ascii_digit()) {
        let end = number_end(rest);
        return Ok((number(&rest[..end])?, end));
    }
    let word_end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
    if word_end > 0 {
        return Ok((Token::Word(&rest[..word_end]), word_end));
    }
    match MARKS.iter().find(|mark| rest.starts_with(**mark)) {
        Some(mark) => Ok((Token::Mark(mark), mark.len())),
        None => Err(format!("unexpected character {:?}", rest.chars().next().unwrap_or(' '))),
    }
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Returns the length of a number in a text that begins with a digit. Letters belong to it, so that
/// `12monkeys` is one wrong number, and not a number and a name.
fn number_end(rest: &str) -> usize {
    let mut before = ' ';
    let is_outside = |c: char| {
        let is_sign_of_exponent = matches!(c, '+' | '-') && matches!(before, 'e' | 'E');
        before = c;
        !(is_of_word(c) || c == '.' || is_sign_of_exponent)
    };
    rest.find(is_outside).unwrap_or(rest.len())
}

fn number(word: &str) -> Result<Token<'static>, String> {
    match word.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(Token::Number(number)),
        Ok(_) => Err(format!("{word} is too large for a number")),
        Err(_) => Err(format!("{word} is not a number")),
    }
}
