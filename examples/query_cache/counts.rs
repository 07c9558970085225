//! The counts of one thread. They are added up when it has ended.

use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) queries: u64,
    /// Queries that were in the cache at the first look, under a guard.
    pub(crate) hits: u64,
    /// Queries that were interpreted because there was no room for their code.
    pub(crate) interpreted: u64,
    pub(crate) compilations: u64,
    /// The bytes of compiled code, and the time to parse and compile the queries.
    pub(crate) code_bytes: u64,
    pub(crate) compile_time: Duration,
    /// Results that differ from the interpreter's in any bit.
    pub(crate) mismatches: u64,
    pub(crate) first_mismatch: Option<String>,
}

impl Counts {
    /// Compares a result with the expected bits.
    pub(crate) fn check(&mut self, text: &str, given: f64, expected: u64) {
        self.queries += 1;
        if given.to_bits() != expected {
            self.mismatches += 1;
            let expected = f64::from_bits(expected);
            self.first_mismatch.get_or_insert_with(|| {
                format!("{text}: {given:e}, not {expected:e} ({:#x}, {:#x})", given.to_bits(), expected.to_bits())
            });
        }
    }
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, counts| Self {
            queries: sum.queries + counts.queries,
            hits: sum.hits + counts.hits,
            interpreted: sum.interpreted + counts.interpreted,
            compilations: sum.compilations + counts.compilations,
            code_bytes: sum.code_bytes + counts.code_bytes,
            compile_time: sum.compile_time + counts.compile_time,
            mismatches: sum.mismatches + counts.mismatches,
            first_mismatch: sum.first_mismatch.or(counts.first_mismatch),
        })
    }
}
