//! The address space is full but for one page, and for what lies 8 GiB below it.

use std::process::{Command, Output};

fn run(manager: &str) -> Output {
    let program = env!("CARGO_BIN_EXE_gaia_jit_llvm");
    let runner = std::env::var("CROSS_RUNNER").unwrap_or_default();
    let words: Vec<&str> = runner.split_whitespace().chain([program, "--one-far", manager]).collect();
    Command::new(words[0]).args(&words[1..]).output().expect("the program")
}

#[test]
fn code_and_data_stay_in_reach_of_each_other() {
    let arena = run("arena");
    let text = String::from_utf8_lossy(&arena.stdout);
    assert!(arena.status.success(), "{arena:?}");
    if text.contains("NOT RUN") {
        println!("{text}");
        return;
    }
    assert!(text.contains("the function returns 42"), "{text}");
    // Otherwise nothing was tried out.
    let llvm = run("llvm");
    assert!(!llvm.status.success(), "LLVM's own manager got through: {llvm:?}");
}
