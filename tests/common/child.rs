//! Tests that may end their process, or use up its resources, run in a process of their own: the
//! test binary starts itself again for this test.

use std::process::{Command, Output};

const MARK: &str = "GAIA_TEST_CHILD";

/// Runs `body` in a child process, and returns the child's output. `name` is the full name of the
/// calling test.
pub fn output(name: &str, body: impl FnOnce()) -> Output {
    if std::env::var(MARK).is_ok_and(|mark| mark == name) {
        body();
        std::process::exit(0);
    }
    let binary = std::env::current_exe().unwrap();
    let mut words: Vec<String> =
        std::env::var("CROSS_RUNNER").unwrap_or_default().split_whitespace().map(String::from).collect();
    words.push(binary.to_str().unwrap().into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["--exact", name, "--nocapture", "--test-threads=1"]).env(MARK, name);
    // One heap of glibc for all threads. Otherwise glibc keeps several, with freed memory in each
    // of them, so that the child's memory depends more on its threads than on an arena.
    command.env("MALLOC_ARENA_MAX", "1");
    let output = command.output().unwrap();
    // A name without a test would end without an error, too.
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(out.contains("running 1 test"), "{name} is not the whole name of a test\n{out}");
    output
}

/// Does the same as [`output`], and checks that the child ends without an error.
pub fn run(name: &str, body: impl FnOnce()) {
    let output = output(name, body);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {:?}\n{out}\n{err}", output.status);
}
