//! The examples, built by the compilers of this machine and run.
//!
//! What cannot run here prints `NOT RUN`.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")))]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::{a_compiler, built, compiler, compilers, has, program, program_with, root, run, runs};

#[test]
fn the_calculator() {
    for name in compilers(false).iter().filter(|name| has(name)) {
        let source = [root().join("examples/calculator.c")];
        let output = run(&mut runs(&program(&format!("calculator-{name}"), name, &source, &["-O2"])));
        let text = String::from_utf8_lossy(&output.stdout);
        if cfg!(target_arch = "x86_64") {
            assert!(text.contains("gcd(x * 6, y * 4)") && text.contains("nothing is left"), "{text}");
        }
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
    let mut compile = compiler(&a_compiler(false));
    run(compile.arg("-o").arg(&program).arg(source).arg(library).args(["-lpthread", "-lm", "-ldl"]));
    run(&mut Command::new(program));
}

/// Whether asmjit is here, with the names that the examples use. Says so if it is not.
fn has_asmjit(compiler: &str) -> bool {
    const PROBE: &str = "#include <asmjit/x86.h>\nint main() { return asmjit::CodeHolder().hasUnresolvedLinks(); }\n";
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        eprintln!("NOT RUN: the examples with asmjit are for Linux on x86-64");
        return false;
    }
    let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("asmjit-{compiler}.cpp"));
    std::fs::write(&source, PROBE).unwrap();
    let mut probe = Command::new(compiler);
    let probe = probe.args(["-std=c++17", "-fsyntax-only"]).arg(source).stderr(Stdio::null()).status();
    let there = probe.is_ok_and(|status| status.success());
    if !there {
        eprintln!("NOT RUN: no asmjit for {compiler} on this machine, or one of another interface (libasmjit-dev)");
    }
    there
}

#[test]
fn asmjit() {
    let source = [root().join("examples/asmjit.cpp")];
    for name in compilers(true).iter().filter(|name| has(name) && has_asmjit(name)) {
        let output = run(&mut runs(&program_with(&format!("asmjit-{name}"), name, &source, &["-O2"], &["-lasmjit"])));
        let text = String::from_utf8_lossy(&output.stdout);
        for line in [
            "gcd(48, 36) = 12",
            "sum of 1 to 100 = 5050",
            "is_even(1000) = 1",
            "InvalidInstruction",
            "arena full",
            "nothing is left",
        ] {
            assert!(text.contains(line), "no \"{line}\" in\n{text}");
        }
    }
}

/// Its figures mean nothing here, in a build without optimisation and among other tests.
#[test]
fn the_benchmark_with_asmjit() {
    let source = [root().join("examples/asmjit_bench.cpp")];
    for name in compilers(true).iter().filter(|name| has(name) && has_asmjit(name)) {
        let program = program_with(&format!("asmjit-bench-{name}"), name, &source, &["-O2"], &["-lasmjit"]);
        let output = run(runs(&program).args(["--rounds", "1"]));
        let text = String::from_utf8_lossy(&output.stdout);
        for line in ["adding 1000", "replacing one of 10000", "resident"] {
            assert!(text.contains(line), "no \"{line}\" in\n{text}");
        }
    }
}

/// Examples with asmjit under AddressSanitizer, where leaks count.
#[test]
fn asmjit_under_address_sanitizer() {
    let name = a_compiler(true);
    if has(&name) && has_asmjit(&name) {
        let source = [root().join("examples/asmjit.cpp")];
        let flags = ["-fsanitize=address", "-fno-omit-frame-pointer"];
        let program = program_with("asan-asmjit", &name, &source, &flags, &["-lasmjit"]);
        run(Command::new(program).env("ASAN_OPTIONS", "detect_leaks=1:exitcode=9"));
    }
}
