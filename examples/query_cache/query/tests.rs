//! Tests of the language, by the interpreter.
#![allow(clippy::unwrap_used)]

use fastrand::Rng;

use super::{NAN, interpreter, read};
use crate::common::source::Place;
use crate::table::Table;

/// One row. The values of its columns do not matter.
fn one_row() -> Table {
    Table::made_up(&mut Rng::with_seed(1), 1)
}

fn value(text: &str) -> f64 {
    interpreter::run(&read(text, 1).unwrap(), &one_row())
}

fn error(text: &str) -> (u32, String) {
    let error = read(text, 7).unwrap_err();
    let Place { line, column } = error.place;
    assert_eq!(line, 7);
    (column, error.message)
}

#[test]
fn operators_bind_as_in_c() {
    for (text, expected) in [
        ("1 + 2 * 3", 7.0),
        ("(1 + 2) * 3", 9.0),
        ("10 - 4 - 3", 3.0),
        ("12 / 3 / 2", 2.0),
        ("-2 * -3", 6.0),
        ("- - 2", 2.0),
        ("1 + 1 == 2", 1.0),
        ("1 < 2 == 1", 1.0),
        ("1 || 0 && 0", 1.0),
        ("!0 + 1", 2.0),
        ("!(0 + 1)", 0.0),
        ("1.5e2 + 2e-1", 150.2),
        ("min(3, max(1, 2)) + abs(-4) * sqrt(9)", 14.0),
        ("5 where 2 > 1", 5.0),
        ("5 where 0", 0.0),
    ] {
        assert_eq!(value(text), expected, "{text}");
    }
}

#[test]
fn nan_and_zeros_are_as_the_language_says() {
    for (text, expected) in [
        ("1 where 0 / 0", 1.0),
        ("!(0 / 0)", 0.0),
        ("0 / 0 == 0 / 0", 0.0),
        ("0 / 0 != 0 / 0", 1.0),
        ("min(0 / 0, 2)", 2.0),
        ("max(0 / 0, 2)", 2.0),
        ("1 / min(0, -0)", f64::NEG_INFINITY),
        ("1 / max(-0, 0)", f64::INFINITY),
        ("1 / 0", f64::INFINITY),
    ] {
        assert_eq!(value(text), expected, "{text}");
    }
    for text in ["0 / 0", "-(0 / 0)", "min(2, 0 / 0)", "sqrt(-1)"] {
        assert_eq!(value(text).to_bits(), NAN, "{text}");
    }
    // A sum begins with 0, to which -0 adds nothing.
    assert_eq!(value("-0").to_bits(), 0);
}

#[test]
fn errors_name_their_place() {
    for (text, column, message) in [
        ("", 1, "expected a number, a column, a function or `(`, found the end of the query"),
        ("price *", 8, "expected a number, a column, a function or `(`, found the end of the query"),
        ("price * where", 9, "expected a number, a column, a function or `(`, found `where`"),
        ("price quantity", 7, "expected an operator, `where` or the end of the query, found `quantity`"),
        ("1 where 2 where 3", 11, "expected an operator or the end of the query, found `where`"),
        ("(1", 3, "expected `)`, found the end of the query"),
        ("min(1)", 6, "expected `,`, found `)`"),
        ("sin(1)", 1, "no function is named `sin`; there are min, max, abs and sqrt"),
        ("2 * 12monkeys", 5, "12monkeys is not a number"),
        ("1e999", 1, "1e999 is too large for a number"),
        ("'ä' + 1", 1, "unexpected character '\\''"),
        ("1 + ä", 5, "unexpected character 'ä'"),
    ] {
        assert_eq!(error(text), (column, message.to_owned()), "{text}");
    }
    assert!(error("2 * prise").1.starts_with("no column is named `prise`; there are price, "));
}

#[test]
fn nesting_has_a_bound() {
    for (left, right) in [("(", ")"), ("-", ""), ("1 + ", ""), ("abs(", ")")] {
        let nested = |depth: usize| format!("{}1{}", left.repeat(depth), right.repeat(depth));
        assert!(read(&nested(50), 1).is_ok());
        assert!(error(&nested(10_000)).1.starts_with("nested deeper"));
    }
}
