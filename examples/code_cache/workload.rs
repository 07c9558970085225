//! The working set: every program with its code and the interpreter's results.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use fastrand::Rng;
use indicatif::ProgressBar;

use crate::common::failure::Failure;
use crate::common::threads::on_threads;
use crate::language::ast::Program;
use crate::language::machine::{MAX_PARAMETERS, STACK_BYTES};
use crate::language::{self, generator, interpreter};
use crate::native::Object;
use crate::native::compiler::Compiler;
use crate::options::Options;

const SHIPPED_NAME: &str = "kernels.tiny";
const SHIPPED: &str = include_str!("kernels.tiny");

/// A program that is ready to be published.
pub(crate) struct Unit {
    pub(crate) program: Program,
    pub(crate) object: Object,
    pub(crate) cases: Vec<Case>,
    /// Whether the program is from a file. Otherwise it was generated.
    pub(crate) is_from_file: bool,
}

/// One call of a program, and the expected result.
pub(crate) struct Case {
    /// The arguments of the entry, then zeros.
    pub(crate) arguments: [i64; MAX_PARAMETERS],
    pub(crate) expected: i64,
}

/// A program, and its file if it was not generated.
struct Source {
    program: Program,
    file: Option<String>,
}

/// Reads, generates, interprets and compiles programs until there are as many functions as asked
/// for.
pub(crate) fn prepare(options: &Options, bar: &ProgressBar) -> Result<Vec<Unit>, Failure> {
    let mut sources = from_file(options.file.as_deref())?;
    // The trampoline is a function too.
    let functions = |source: &Source| source.program.functions.len() + 1;
    let mut count: usize = sources.iter().map(functions).sum();
    let mut rng = Rng::with_seed(options.seed);
    while count < options.functions {
        let source = made_up(&mut rng, sources.len())?;
        count += functions(&source);
        sources.push(source);
    }
    bar.set_length(sources.len() as u64);
    compile_all(sources, options.threads, bar)
}

fn from_file(path: Option<&Path>) -> Result<Vec<Source>, Failure> {
    let (name, text) = match path {
        None => (SHIPPED_NAME.to_owned(), SHIPPED.to_owned()),
        Some(path) => {
            let name = path.display().to_string();
            let text = fs::read_to_string(path).map_err(|error| Failure::Input(format!("{name}: {error}")))?;
            (name, text)
        }
    };
    let programs =
        language::read(&text).map_err(|error| Failure::Input(format!("{name}:{}: {}", error.place, error.message)))?;
    if programs.is_empty() {
        return Err(Failure::Input(format!("{name}:1:1: no program in this file")));
    }
    Ok(programs.into_iter().map(|program| Source { program, file: Some(name.clone()) }).collect())
}

fn made_up(rng: &mut Rng, number: usize) -> Result<Source, Failure> {
    let text = generator::generate(rng, &format!("random_{number}"));
    let wrong = |what: &str| Failure::Run(format!("the generator made a bad program: {what}\n{text}"));
    let mut programs = language::read(&text).map_err(|error| wrong(&format!("{}: {}", error.place, error.message)))?;
    let program = programs.pop().ok_or_else(|| wrong("none at all"))?;
    Ok(Source { program, file: None })
}

/// Distributes the programs over threads. Returns the units in the order of the sources.
fn compile_all(sources: Vec<Source>, threads: usize, bar: &ProgressBar) -> Result<Vec<Unit>, Failure> {
    let next = AtomicUsize::new(0);
    let worker = || -> Result<Vec<(usize, Object, Vec<Case>)>, Failure> {
        let mut compiler = Compiler::for_host().map_err(Failure::Input)?;
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(source) = sources.get(index) else { return Ok(done) };
            let cases = interpret(source)?;
            let object = compiler.compile(&source.program).map_err(Failure::Run)?;
            done.push((index, object, cases));
            bar.inc(1);
        }
    };
    let mut done = on_threads(threads, STACK_BYTES, |_| worker())?.into_iter().flatten().collect::<Vec<_>>();
    done.sort_by_key(|(index, ..)| *index);
    let finished = sources.into_iter().zip(done);
    Ok(finished
        .map(|(source, (_, object, cases))| Unit {
            program: source.program,
            object,
            cases,
            is_from_file: source.file.is_some(),
        })
        .collect())
}

/// Returns the interpreter's result for every `check` and `run`. A wrong `check` is an error of its
/// file.
fn interpret(source: &Source) -> Result<Vec<Case>, Failure> {
    let mut cases = Vec::new();
    for run in &source.program.runs {
        let given = interpreter::run(&source.program, &run.arguments);
        if let Some(expected) = run.expected.filter(|expected| *expected != given) {
            let file = source.file.as_deref().unwrap_or("?");
            return Err(Failure::Input(format!(
                "{file}:{}: {} gives {given}, not {expected}",
                run.function.place, run.function.text
            )));
        }
        let mut arguments = [0; MAX_PARAMETERS];
        arguments[..run.arguments.len()].copy_from_slice(&run.arguments);
        cases.push(Case { arguments, expected: given });
    }
    Ok(cases)
}
