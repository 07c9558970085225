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
A JIT on an arena that is too small for its programs.

usage: code_cache [options] [FILE]

FILE holds programs in the language of kernels.tiny, which is used without it.

  --mode flip|dual|per-thread|file   how code gets into executable memory (flip)
  --functions N     functions in the working set; random ones make up what FILE lacks (4000)
  --capacity BYTES  size of the arena, with K, M or G if you like (1536K)
  --threads N       threads that run programs (all cores, four at most)
  --seconds N       how long they run (5)
  --seed N          for the random programs and the order of calls (1)
  --tier-up N       calls in the interpreter before a program of FILE is compiled (20)
  --recompile N     percentage of cache misses that are compiled anew and compared (1)
  --svg PATH        where the picture of the arena goes (target/occupancy.svg)
  --perf map|jitdump   names for perf (cargo's --features perf); where they are is said first
  --gdb             names for gdb (cargo's --features gdb)
  --help            this text
";

pub(crate) struct Options {
    pub(crate) mode: WxMode,
    pub(crate) functions: usize,
    pub(crate) capacity: usize,
    pub(crate) threads: usize,
    pub(crate) run_time: Duration,
    pub(crate) seed: u64,
    pub(crate) tier_up_calls: u32,
    pub(crate) recompile_percent: u8,
    pub(crate) svg: Option<PathBuf>,
    pub(crate) file: Option<PathBuf>,
    pub(crate) perf: Option<Perf>,
    pub(crate) gdb: bool,
}

/// The file that is written for perf.
#[derive(Clone, Copy)]
pub(crate) enum Perf {
    Map,
    Jitdump,
}

impl Options {
    fn defaults() -> Self {
        Self {
            mode: WxMode::Flip,
            functions: 4_000,
            capacity: 1536 << 10,
            threads: std::thread::available_parallelism().map_or(2, |cores| cores.get().min(4)),
            run_time: Duration::from_secs(5),
            seed: 1,
            tier_up_calls: 20,
            recompile_percent: 1,
            svg: None,
            file: None,
            perf: None,
            gdb: false,
        }
    }

    /// Parses the command line. Returns `None` if only help was asked for.
    pub(crate) fn from_command_line() -> Result<Option<Self>, Failure> {
        parse(Parser::from_env()).map_err(|error| Failure::Input(error.to_string()))
    }
}

fn parse(mut parser: Parser) -> Result<Option<Options>, lexopt::Error> {
    let mut options = Options::defaults();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Long("gdb") => options.gdb = true,
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
        "functions" => |options, value| number(value, 1, 1_000_000).map(|number| options.functions = number as usize),
        "capacity" => |options, value| bytes(value).map(|bytes| options.capacity = bytes),
        "threads" => |options, value| number(value, 1, 256).map(|number| options.threads = number as usize),
        "seconds" => {
            |options, value| number(value, 1, 86_400).map(|number| options.run_time = Duration::from_secs(number))
        }
        "seed" => |options, value| number(value, 0, u64::MAX).map(|number| options.seed = number),
        "tier-up" => {
            |options, value| number(value, 1, 1_000_000_000).map(|number| options.tier_up_calls = number as u32)
        }
        "recompile" => |options, value| number(value, 0, 100).map(|number| options.recompile_percent = number as u8),
        "perf" => |options, value| perf(value).map(|perf| options.perf = Some(perf)),
        "svg" => |options, value| {
            options.svg = Some(value.into());
            Ok(())
        },
        _ => return None,
    })
}

fn perf(value: &OsStr) -> Result<Perf, String> {
    match value.to_str() {
        Some("map") => Ok(Perf::Map),
        Some("jitdump") => Ok(Perf::Jitdump),
        _ => Err("perf reads a map or a jitdump".to_owned()),
    }
}
