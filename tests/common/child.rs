//! Tests that may end their process, or use up its resources, run in a process of their own: the
//! test binary starts itself again for this test.

use std::io::Write;
use std::process::{Command, Output};

const MARK: &str = "GAIA_TEST_CHILD";

/// Runs `body` in a child process, and returns the child's output. `test` is the name of the
/// calling test, without its module.
pub fn output<F: FnOnce()>(test: &str, body: F) -> Output {
    let name = &whole_name::<F>(test);
    if std::env::var(MARK).is_ok_and(|mark| &mark == name) {
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
    // What a child leaves out is said, whatever becomes of the rest of its output.
    for line in String::from_utf8_lossy(&output.stderr).lines().filter(|line| line.starts_with("NOT RUN: ")) {
        std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
    }
    // A name without a test would end without an error, too.
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(out.contains("running 1 test"), "{name} is not the name of a test\n{out}");
    output
}

/// Does the same as [`output`], and checks that the child ends without an error.
pub fn run(test: &str, body: impl FnOnce()) {
    let output = output(test, body);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test}: {:?}\n{out}\n{err}", output.status);
}

/// Returns the name of a test of the module `path`, which is `module_path!()`, as libtest knows it.
pub fn name_in(path: &str, test: &str) -> String {
    match path.split_once("::") {
        Some((_, modules)) => format!("{modules}::{test}"),
        None => test.to_string(),
    }
}

/// Returns the name of a test with its modules, which are those of `F`: a closure in the test, or
/// in a function beside it.
fn whole_name<F>(test: &str) -> String {
    let closure = std::any::type_name::<F>();
    // Types that a function is generic in have paths of their own.
    let path = closure.split('<').next().unwrap_or(closure);
    let mut modules: Vec<&str> = path.split("::").skip(1).take_while(|part| *part != "{{closure}}").collect();
    modules.pop();
    modules.push(test);
    modules.join("::")
}
