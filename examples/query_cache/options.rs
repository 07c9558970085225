//! The command line.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use gaia_jit::WxMode;
use lexopt::Parser;
use lexopt::prelude::{Long, Short, Value};

use crate::common::arguments::{bytes, mode, number};
use crate::common::failure::Failure;

pub(crate) const HELP: &str = "\
Queries over columns, compiled and cached by their text.

usage: query_cache [options] [FILE]

FILE holds queries, one a line, those first that are asked for most; lines that are empty or begin with # are passed
over. What these queries give is printed. Without FILE and --query they are made up.

  --mode flip|dual|per-thread|file   how code gets into executable memory (flip)
  --query TEXT      a query, such as 'price * quantity where rating >= 4'; several of them as well
  --queries N       different queries to make up (2000)
  --rows N          rows of the table (4096)
  --budget BYTES    code that is cached at most, with K, M or G if you like (192K)
  --threads N       threads that run queries (all cores, four at most)
  --seconds N       how long they run, with all engines together (6)
  --seed N          for the data, the queries and their order (1)
  --help            this text
";

pub(crate) struct Options {
    pub(crate) mode: WxMode,
    /// Queries on the command line.
    pub(crate) given: Vec<String>,
    pub(crate) queries: usize,
    pub(crate) rows: usize,
    pub(crate) budget: usize,
    pub(crate) threads: usize,
    pub(crate) run_time: Duration,
    pub(crate) seed: u64,
    pub(crate) file: Option<PathBuf>,
}

impl Options {
    fn defaults() -> Self {
        Self {
            mode: WxMode::Flip,
            given: Vec::new(),
            queries: 2_000,
            rows: 4_096,
            budget: 192 << 10,
            threads: std::thread::available_parallelism().map_or(2, |cores| cores.get().min(4)),
            run_time: Duration::from_secs(6),
            seed: 1,
            file: None,
        }
    }

    /// Parses the command line. Returns `None` if only help was asked for.
    pub(crate) fn from_command_line() -> Result<Option<Self>, Failure> {
        parse(Parser::from_env()).map_err(|error| Failure::Input(error.to_string()))
    }

    /// Returns whether the user gave queries, so that none are generated.
    pub(crate) fn has_queries(&self) -> bool {
        self.file.is_some() || !self.given.is_empty()
    }
}

fn parse(mut parser: Parser) -> Result<Option<Options>, lexopt::Error> {
    let mut options = Options::defaults();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Long(name) => {
                let name = name.to_owned();
                let Some(set) = setter(&name) else { return Err(Long(&name).unexpected()) };
                let value = parser.value()?;
                set(&mut options, &value)
                    .map_err(|wrong| lexopt::Error::from(format!("--{name} {}: {wrong}", value.to_string_lossy())))?;
            }
            Value(file) if options.file.is_none() => options.file = Some(file.into()),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(options))
}

/// A function that sets an option to a value. An error says what is wrong with the value.
type Setter = fn(&mut Options, &OsStr) -> Result<(), String>;

fn setter(name: &str) -> Option<Setter> {
    Some(match name {
        "mode" => |options, value| mode(value).map(|mode| options.mode = mode),
        "query" => |options, value| text(value).map(|text| options.given.push(text)),
        "queries" => |options, value| number(value, 1, 1_000_000).map(|number| options.queries = number as usize),
        "rows" => |options, value| number(value, 0, 10_000_000).map(|number| options.rows = number as usize),
        "budget" => |options, value| bytes(value).map(|bytes| options.budget = bytes),
        "threads" => |options, value| number(value, 1, 256).map(|number| options.threads = number as usize),
        "seconds" => {
            |options, value| number(value, 1, 86_400).map(|number| options.run_time = Duration::from_secs(number))
        }
        "seed" => |options, value| number(value, 0, u64::MAX).map(|number| options.seed = number),
        _ => return None,
    })
}

fn text(value: &OsStr) -> Result<String, String> {
    value.to_str().map(str::to_owned).ok_or_else(|| "not a text".to_owned())
}
