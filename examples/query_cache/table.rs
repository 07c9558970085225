//! The table that is queried: columns of generated numbers.

use fastrand::Rng;

use crate::query::{COLUMNS, WITH_NAN};

pub(crate) struct Table {
    /// As many columns as [`COLUMNS`], each with `rows` values.
    columns: Vec<Vec<f64>>,
    rows: usize,
}

impl Table {
    pub(crate) fn made_up(rng: &mut Rng, rows: usize) -> Self {
        let column = |index: usize| {
            let column = &COLUMNS[index];
            let steps = ((column.high - column.low) / column.step) as u32;
            let mut value = || match index {
                WITH_NAN if rng.u8(..10) == 0 => f64::NAN,
                _ => column.low + f64::from(rng.u32(..=steps)) * column.step,
            };
            (0..rows).map(|_| value()).collect()
        };
        Self { columns: (0..COLUMNS.len()).map(column).collect(), rows }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn column(&self, index: usize) -> &[f64] {
        &self.columns[index]
    }

    /// Returns the addresses of the columns, for compiled code. The pointers are valid while the
    /// table lives.
    pub(crate) fn addresses(&self) -> Vec<*const f64> {
        self.columns.iter().map(|column| column.as_ptr()).collect()
    }
}
