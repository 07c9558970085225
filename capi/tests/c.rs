//! The interface as C and C++ use it: programs in `tests/c` and `examples`, built by the compilers of this machine and
//! run.
//!
//! What cannot run here prints `NOT RUN`.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")))]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const STRICT: [&str; 5] = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-g"];
/// What the standard library needs of the system: `rustc --print native-static-libs`.
const LIBRARIES: &[&str] =
    if cfg!(target_os = "linux") { &["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl"] } else { &["-lpthread"] };

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The directory of this test, where cargo puts the libraries of the package too.
fn built() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("NOT RUN: no {program} on this machine");
    }
    there
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let [out, error] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{error}", output.status);
    for line in out.lines().chain(error.lines()).filter(|line| line.starts_with("NOT RUN")) {
        eprintln!("{line}");
    }
    output
}

/// Sources of the tests in C.
fn sources() -> Vec<PathBuf> {
    let files = std::fs::read_dir(root().join("tests/c")).unwrap().map(|file| file.unwrap().path());
    let sources: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|name| name == "c")).collect();
    assert_eq!(sources.len(), 8);
    sources
}

/// A compiler, told of the header and the standard.
fn compiler(name: &str) -> Command {
    let mut command = Command::new(name);
    let standard = if name.contains("++") { "-std=c++17" } else { "-std=c11" };
    command.args(STRICT).arg(standard).arg("-I").arg(root().join("include"));
    command
}

/// A program of `sources`, linked with the static library.
fn program(name: &str, compiled_by: &str, sources: &[PathBuf], flags: &[&str]) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let library = built().join("libgaia_jit.a");
    assert!(library.exists(), "{}", library.display());
    run(compiler(compiled_by).args(flags).arg("-o").arg(&program).args(sources).arg(library).args(LIBRARIES));
    program
}

fn in_c(compiled_by: &str) {
    if has(compiled_by) {
        run(&mut Command::new(program(&format!("c-{compiled_by}"), compiled_by, &sources(), &[])));
    }
}

fn in_cpp(compiled_by: &str) {
    if has(compiled_by) {
        let source = [root().join("tests/c/plus.cpp")];
        run(&mut Command::new(program(&format!("cpp-{compiled_by}"), compiled_by, &source, &[])));
    }
}

#[test]
fn c() {
    in_c("cc");
    in_c("clang");
}

#[test]
fn cpp() {
    in_cpp("c++");
    in_cpp("clang++");
}

#[test]
fn a_shared_library_does_too() {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c-shared");
    let mut link = compiler("cc");
    run(link.arg("-o").arg(&program).args(sources()).arg("-L").arg(built()).args(["-lgaia_jit", "-lpthread"]));
    let output = run(Command::new(program).env("LD_LIBRARY_PATH", built()).env("DYLD_LIBRARY_PATH", built()));
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("threads\n"));
}

/// Compiled only: nobody runs them here.
#[test]
fn the_other_processor() {
    let other = if cfg!(target_arch = "x86_64") { "aarch64-linux-gnu-gcc" } else { "x86_64-linux-gnu-gcc" };
    if has(other) {
        run(compiler(other).arg("-fsyntax-only").args(sources()));
        eprintln!("NOT RUN: the tests in C on the processor of {other}; they compile");
    }
}

#[test]
fn under_address_sanitizer() {
    if !cfg!(target_os = "linux") {
        return eprintln!("NOT RUN: AddressSanitizer is tried on Linux only");
    }
    // Leaks count, and so does what the library allocates.
    let flags = ["-fsanitize=address", "-fno-omit-frame-pointer"];
    let (plus, calculator) = (root().join("tests/c/plus.cpp"), root().join("examples/calculator.c"));
    for (name, compiler, source) in
        [("asan-c", "cc", sources()), ("asan-cpp", "c++", vec![plus]), ("asan-calculator", "cc", vec![calculator])]
    {
        let program = program(name, compiler, &source, &flags);
        run(Command::new(program).env("ASAN_OPTIONS", "detect_leaks=1:exitcode=9"));
    }
}

#[test]
fn under_valgrind() {
    if has("valgrind") {
        let program = program("c-valgrind", "cc", &sources(), &[]);
        // Code changes in mappings of files too.
        let arguments = ["--quiet", "--smc-check=all", "--error-exitcode=9", "--leak-check=full"];
        run(Command::new("valgrind").args(arguments).arg(program));
    }
}

#[test]
fn the_calculator() {
    let source = [root().join("examples/calculator.c")];
    let output = run(&mut Command::new(program("calculator", "cc", &source, &["-O2"])));
    let text = String::from_utf8_lossy(&output.stdout);
    if cfg!(target_arch = "x86_64") {
        assert!(text.contains("gcd(x * 6, y * 4)") && text.contains("nothing is left"), "{text}");
    }
}

/// As it is printed, linked with what it says.
#[test]
fn the_example_of_the_readme() {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return eprintln!("NOT RUN: the code in the README is for x86-64");
    }
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let example = readme.split("```c\n").nth(1).unwrap().split("```").next().unwrap();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (directory.join("readme.c"), directory.join("readme"));
    std::fs::write(&source, example).unwrap();
    let library = built().join("libgaia_jit.a");
    run(compiler("cc").arg("-o").arg(&program).arg(source).arg(library).args(["-lpthread", "-lm", "-ldl"]));
    run(&mut Command::new(program));
}
