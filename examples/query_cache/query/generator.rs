//! A generator of queries like those of users.

use fastrand::Rng;

use super::{COLUMNS, WITH_NAN};

const ARITHMETIC: [&str; 4] = ["+", "-", "*", "/"];
const COMPARISONS: [&str; 6] = ["<", "<=", ">", ">=", "==", "!="];

/// Returns the text of one query. The same state of `rng` gives the same text.
pub(crate) fn generate(rng: &mut Rng) -> String {
    let value = expr(rng, 3);
    // Some queries have no predicate and add up all rows.
    let terms: Vec<_> = (0..rng.usize(..=3)).map(|_| comparison(rng)).collect();
    if terms.is_empty() {
        return value;
    }
    let joint = if rng.u8(..4) == 0 { " || " } else { " && " };
    format!("{value} where {}", terms.join(joint))
}

fn expr(rng: &mut Rng, depth: usize) -> String {
    if depth == 0 || rng.u8(..4) == 0 {
        return leaf(rng);
    }
    match rng.u8(..12) {
        0 => format!("sqrt(abs({}))", expr(rng, depth - 1)),
        1 => format!("min({}, {})", expr(rng, depth - 1), expr(rng, depth - 1)),
        2 => format!("max({}, {})", expr(rng, depth - 1), expr(rng, depth - 1)),
        3 => format!("-{}", leaf(rng)),
        4 => format!("({} * (1 - discount))", expr(rng, depth - 1)),
        _ => {
            let operator = ARITHMETIC[rng.usize(..ARITHMETIC.len())];
            format!("({} {operator} {})", expr(rng, depth - 1), expr(rng, depth - 1))
        }
    }
}

fn leaf(rng: &mut Rng) -> String {
    match rng.u8(..5) {
        0 => hundredths(rng.f64() * 20.0),
        // In a sum, this column would make most results NaN. In comparisons it is like any other
        // number.
        _ => COLUMNS[rng.usize(..WITH_NAN)].name.to_owned(),
    }
}

fn comparison(rng: &mut Rng) -> String {
    let column = &COLUMNS[rng.usize(..COLUMNS.len())];
    let operator = COMPARISONS[rng.usize(..COMPARISONS.len())];
    let number = hundredths(column.low + rng.f64() * (column.high - column.low));
    match rng.u8(..6) {
        0 => format!("!({} {operator} {number})", column.name),
        _ => format!("{} {operator} {number}", column.name),
    }
}

fn hundredths(number: f64) -> String {
    ((number * 100.0).round() / 100.0).to_string()
}
