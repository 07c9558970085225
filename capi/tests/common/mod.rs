//! What the tests with other compilers have in common: which there are, how a program is built, and
//! how it is run.
#![allow(dead_code, unreachable_pub, reason = "each test binary has it as a module of its own, and uses a part")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const STRICT: [&str; 5] = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-g"];
/// What the standard library needs of the system: `rustc --print native-static-libs`.
const LIBRARIES: &[&str] =
    if cfg!(target_os = "linux") { &["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl"] } else { &["-lpthread"] };

/// Compilers that the tests are built by, for C and C++: all of them, each by itself.
///
/// `GAIA_TEST_COMPILERS` names others, with a blank between them, for another processor.
pub fn compilers(plus: bool) -> Vec<String> {
    let names = std::env::var("GAIA_TEST_COMPILERS");
    let names = names.unwrap_or_else(|_| "gcc g++ clang clang++".into());
    names.split(' ').filter(|name| name.contains("++") == plus).map(str::to_owned).collect()
}

/// The first of them that is here.
pub fn a_compiler(plus: bool) -> String {
    let there = compilers(plus).into_iter().find(|name| is_there(name));
    there.unwrap_or_else(|| if plus { "c++" } else { "cc" }.into())
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The directory of this test, where cargo puts the libraries of the package too.
pub fn built() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Whether a program is here. Says so if it is not.
pub fn has(program: &str) -> bool {
    let there = is_there(program);
    if !there {
        eprintln!("NOT RUN: no {program} on this machine");
    }
    there
}

/// Runs a command, which succeeds. Passes on what it says did not run.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let [out, error] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{error}", output.status);
    for line in out.lines().chain(error.lines()).filter(|line| line.starts_with("NOT RUN")) {
        eprintln!("{line}");
    }
    output
}

/// A program that was built here, under the emulator that `CROSS_RUNNER` names.
pub fn runs(program: &Path) -> Command {
    let runner = std::env::var("CROSS_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace().map(OsString::from).chain([program.into()]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command
}

/// Sources of the tests in C.
pub fn sources() -> Vec<PathBuf> {
    let files = std::fs::read_dir(root().join("tests/c")).unwrap().map(|file| file.unwrap().path());
    let sources: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|name| name == "c")).collect();
    assert_eq!(sources.len(), 11);
    sources
}

/// A compiler, told of the header, the standard, and that warnings are errors.
pub fn compiler(name: &str) -> Command {
    let mut command = Command::new(name);
    let standard = if name.contains("++") { "-std=c++17" } else { "-std=c11" };
    command.args(STRICT).arg(standard).arg("-I").arg(root().join("include"));
    command
}

/// A program of `sources`, linked with the static library.
pub fn program(name: &str, compiled_by: &str, sources: &[PathBuf], flags: &[&str]) -> PathBuf {
    program_with(name, compiled_by, sources, flags, &[])
}

/// The same with more libraries.
pub fn program_with(name: &str, compiled_by: &str, sources: &[PathBuf], flags: &[&str], with: &[&str]) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let library = built().join("libgaia_jit.a");
    assert!(library.exists(), "{}", library.display());
    let mut compile = compiler(compiled_by);
    run(compile.args(flags).arg("-o").arg(&program).args(sources).arg(library).args(with).args(LIBRARIES));
    program
}
