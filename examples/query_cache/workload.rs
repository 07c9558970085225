//! The queries, their results, and the order in which they are asked.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use fastrand::Rng;

use crate::common::failure::Failure;
use crate::common::threads::on_threads;
use crate::options::Options;
use crate::query::{self, generator, interpreter};
use crate::table::Table;

/// Enough stack for an expression of the deepest nesting, in the interpreter and in Cranelift,
/// without optimisation.
pub(crate) const STACK_BYTES: usize = 4 << 20;

/// A query, and the bits of the interpreter's result.
pub(crate) struct Item {
    pub(crate) text: String,
    pub(crate) expected: u64,
}

/// Reads or generates the queries, and interprets each once.
pub(crate) fn prepare(options: &Options, table: &Table) -> Result<Vec<Item>, Failure> {
    let mut texts = Texts::default();
    // The `n`th `--query` is line `n`.
    texts.add("--query", &options.given.join("\n"))?;
    if let Some(path) = &options.file {
        texts.add_file(path)?;
    } else if !options.has_queries() {
        texts.make_up(options);
    }
    if texts.list.is_empty() {
        let name = options.file.as_ref().map_or("--query".to_owned(), |path| path.display().to_string());
        return Err(Failure::Input(format!("{name}:1:1: no query in there")));
    }
    let texts = texts.list;
    let interpret = |thread: usize| -> Result<Vec<u64>, Failure> {
        texts.iter().skip(thread).step_by(options.threads).map(|text| expected(text, table)).collect()
    };
    let shares = on_threads(options.threads, STACK_BYTES, interpret)?;
    let expected = |index: usize| shares[index % options.threads][index / options.threads];
    Ok(texts.into_iter().enumerate().map(|(index, text)| Item { text, expected: expected(index) }).collect())
}

fn expected(text: &str, table: &Table) -> Result<u64, Failure> {
    let query = query::read(text, 1).map_err(|error| {
        Failure::Run(format!("the generator made a bad query: {}: {}\n{text}", error.place, error.message))
    })?;
    Ok(interpreter::run(&query, table).to_bits())
}

/// The different texts, in the order in which they were found.
#[derive(Default)]
struct Texts {
    list: Vec<String>,
    known: HashSet<String>,
}

impl Texts {
    fn add_file(&mut self, path: &Path) -> Result<(), Failure> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|error| Failure::Input(format!("{name}: {error}")))?;
        self.add(&name, &text)
    }

    /// Adds all lines of a text of the user. They have to be queries.
    fn add(&mut self, name: &str, text: &str) -> Result<(), Failure> {
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            query::read(line, number)
                .map_err(|error| Failure::Input(format!("{name}:{}: {}", error.place, error.message)))?;
            self.insert(line.trim().to_owned());
        }
        Ok(())
    }

    fn make_up(&mut self, options: &Options) {
        let mut rng = Rng::with_seed(options.seed);
        while self.list.len() < options.queries {
            self.insert(generator::generate(&mut rng));
        }
    }

    fn insert(&mut self, text: String) {
        if self.known.insert(text.clone()) {
            self.list.push(text);
        }
    }
}

/// The order in which one thread asks for queries, the same for each engine.
///
/// It follows Zipf's law, as requests of people do: the first query is asked for `n` times as often
/// as the `n`th.
pub(crate) struct Order {
    rng: Rng,
    queries: usize,
}

impl Order {
    pub(crate) fn new(options: &Options, thread: usize, queries: usize) -> Self {
        Self { rng: Rng::with_seed(options.seed.wrapping_add(1 + thread as u64)), queries }
    }

    pub(crate) fn next(&mut self) -> usize {
        let rank = (self.queries as f64 + 1.0).powf(self.rng.f64());
        // A number from 1 to the number of queries, except for rounding at the end.
        (rank as usize - 1).min(self.queries - 1)
    }
}
