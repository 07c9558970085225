//! Tests that may die, or use up what a process has, run in a process of their own: the test binary
//! starts itself again for just that test.

use std::process::{Command, Output};

const MARK: &str = "GAIA_TEST_CHILD";

/// Runs `body` in a child process; the child's output comes back. `name` is the full name of the
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
    // One heap of glibc's for all threads. It keeps several, and in each of them freed memory below
    // what is in use, so that what a child has left says more of its threads than of an arena.
    command.env("MALLOC_ARENA_MAX", "1");
    let output = command.output().unwrap();
    // No test of that name would end well, too.
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(out.contains("running 1 test"), "{name} is not the whole name of a test\n{out}");
    output
}

/// As [`output`], and the child must end well.
pub fn run(name: &str, body: impl FnOnce()) {
    let output = output(name, body);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {:?}\n{out}\n{err}", output.status);
}
