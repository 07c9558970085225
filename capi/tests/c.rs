//! The interface as C and C++ use it: the programs in `tests/c`, built by the compilers of this
//! machine and run.
//!
//! What cannot run here prints `NOT RUN`.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")))]

mod common;

use std::path::Path;
use std::process::Command;

use common::{a_compiler, built, compiler, compilers, has, program, root, run, runs, sources};

#[test]
fn c() {
    for name in compilers(false).iter().filter(|name| has(name)) {
        let output = run(&mut runs(&program(&format!("c-{name}"), name, &sources(), &[])));
        let tests = String::from_utf8_lossy(&output.stdout);
        assert_eq!(tests.lines().filter(|line| !line.starts_with("NOT RUN")).count(), 10, "{tests}");
    }
}

#[test]
fn cpp() {
    for name in compilers(true).iter().filter(|name| has(name)) {
        let source = [root().join("tests/c/plus.cpp")];
        run(&mut runs(&program(&format!("cpp-{name}"), name, &source, &[])));
    }
}

#[test]
fn a_shared_library_does_too() {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c-shared");
    let mut link = compiler(&a_compiler(false));
    run(link.arg("-o").arg(&program).args(sources()).arg("-L").arg(built()).args(["-lgaia_jit", "-lpthread"]));
    let output = run(runs(&program).env("LD_LIBRARY_PATH", built()).env("DYLD_LIBRARY_PATH", built()));
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("threads\n"));
}

/// Compiled only: `.ci/capi aarch64` runs them.
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
    if !cfg!(target_os = "linux") || std::env::var_os("CROSS_RUNNER").is_some() {
        return eprintln!("NOT RUN: AddressSanitizer is tried on Linux only, and not emulated");
    }
    // Leaks count, and so does what the library allocates.
    let flags = ["-fsanitize=address", "-fno-omit-frame-pointer"];
    let (plus, calculator) = (root().join("tests/c/plus.cpp"), root().join("examples/calculator.c"));
    for (name, plus, source) in
        [("asan-c", false, sources()), ("asan-cpp", true, vec![plus]), ("asan-calculator", false, vec![calculator])]
    {
        let program = program(name, &a_compiler(plus), &source, &flags);
        run(Command::new(program).env("ASAN_OPTIONS", "detect_leaks=1:exitcode=9"));
    }
}

#[test]
fn under_valgrind() {
    if std::env::var_os("CROSS_RUNNER").is_some() {
        return eprintln!("NOT RUN: valgrind is not emulated");
    }
    if has("valgrind") {
        let program = program("c-valgrind", &a_compiler(false), &sources(), &[]);
        // Code changes in mappings of files too.
        let arguments = ["--quiet", "--smc-check=all", "--error-exitcode=9", "--leak-check=full"];
        run(Command::new("valgrind").args(arguments).arg(program));
    }
}
