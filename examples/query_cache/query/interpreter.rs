//! The interpreter, with which the compiled results and times are compared. It walks the tree once
//! for each row.

use super::{Arithmetic, Binary, Compare, Expr, Logic, NAN, Query, Unary};
use crate::table::Table;

pub(crate) fn run(query: &Query, table: &Table) -> f64 {
    let mut sum = 0.0;
    for row in 0..table.rows() {
        let walk = Walk { table, row };
        if query.predicate.as_ref().is_none_or(|predicate| walk.value(predicate) != 0.0) {
            sum += walk.value(&query.value);
        }
    }
    if sum.is_nan() { f64::from_bits(NAN) } else { sum }
}

struct Walk<'a> {
    table: &'a Table,
    row: usize,
}

impl Walk<'_> {
    fn value(&self, expr: &Expr) -> f64 {
        match expr {
            Expr::Number(number) => *number,
            Expr::Column(index) => self.table.column(*index)[self.row],
            Expr::Unary(unary, operand) => apply_unary(*unary, self.value(operand)),
            Expr::Not(operand) => number(self.value(operand) == 0.0),
            Expr::Binary(binary, left, right) => {
                let (left, right) = (self.value(left), self.value(right));
                match binary {
                    Binary::Arithmetic(arithmetic) => calculate(*arithmetic, left, right),
                    Binary::Compare(compare) => number(holds(*compare, left, right)),
                    Binary::Logic(Logic::And) => number(left != 0.0 && right != 0.0),
                    Binary::Logic(Logic::Or) => number(left != 0.0 || right != 0.0),
                }
            }
        }
    }
}

fn apply_unary(unary: Unary, operand: f64) -> f64 {
    match unary {
        Unary::Negate => -operand,
        Unary::Absolute => operand.abs(),
        Unary::Root => operand.sqrt(),
    }
}

fn calculate(arithmetic: Arithmetic, left: f64, right: f64) -> f64 {
    match arithmetic {
        Arithmetic::Add => left + right,
        Arithmetic::Subtract => left - right,
        Arithmetic::Multiply => left * right,
        Arithmetic::Divide => left / right,
        // Not `f64::min` and `max`, because these do not define which of two zeros they return.
        Arithmetic::Minimum if left < right => left,
        Arithmetic::Maximum if left > right => left,
        Arithmetic::Minimum | Arithmetic::Maximum => right,
    }
}

fn holds(compare: Compare, left: f64, right: f64) -> bool {
    match compare {
        Compare::Less => left < right,
        Compare::LessOrEqual => left <= right,
        Compare::Greater => left > right,
        Compare::GreaterOrEqual => left >= right,
        Compare::Equal => left == right,
        Compare::NotEqual => left != right,
    }
}

fn number(truth: bool) -> f64 {
    f64::from(u8::from(truth))
}
