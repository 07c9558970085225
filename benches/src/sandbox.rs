//! Every task runs in a child process: a crash is recorded instead of ending the run.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::group::{Group, Task};
use crate::sample::Sample;
use crate::scale::Scale;

/// Runs one task in a child of this program; its samples, and one that says so if it came to a bad
/// end.
pub fn run(group: &Group, task: &Task, scale: Scale, patience: Duration) -> Result<Vec<Sample>> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new(program);
    command.args(["--child", group.name, &task.case, &task.alone]);
    command.env("RUST_BACKTRACE", "0");
    if scale.quick {
        command.arg("--quick");
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("starting a child")?;
    let (sender, receiver) = mpsc::channel();
    if let Some(mut out) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut text = String::new();
            // What a crashed child wrote before still counts.
            let _ = out.read_to_string(&mut text);
            let _ = sender.send(text);
        });
    }
    let errors = child.stderr.take().map(|mut err| {
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ = err.read_to_string(&mut text);
            text
        })
    });
    let deadline = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait().context("waiting for a child")? {
            break Some(status);
        }
        if Instant::now() > deadline {
            child.kill().context("ending a child that took too long")?;
            child.wait().context("waiting for a child")?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let text = receiver.recv().unwrap_or_default();
    let errors = errors.and_then(|thread| thread.join().ok()).unwrap_or_default();
    let mut samples: Vec<Sample> = Vec::new();
    for sample in text.lines().filter_map(Sample::from_line) {
        // A peer that may crash reports again and again; the last report counts.
        samples.retain(|earlier| !earlier.is_of_same(&sample));
        samples.push(sample);
    }
    if let Some(why) = bad_end(status, &errors, patience) {
        let peer = if task.alone.is_empty() { "all" } else { &task.alone };
        samples.push(Sample::failed(group.name, &task.case, peer, &why));
    }
    Ok(samples)
}

fn bad_end(status: Option<ExitStatus>, errors: &str, patience: Duration) -> Option<String> {
    let Some(status) = status else { return Some(format!("took more than {} s", patience.as_secs())) };
    if status.success() {
        return None;
    }
    let panic = errors.lines().find(|line| line.contains(" panicked at ")).map(|_| "panicked").unwrap_or_default();
    let last = errors.lines().rfind(|line| !line.trim().is_empty() && !line.contains("RUST_BACKTRACE"));
    let cause = last.map(|line| format!(": {panic} {}", line.trim())).unwrap_or_default();
    Some(match status.signal() {
        Some(libc::SIGSEGV) => format!("crashed (SIGSEGV){cause}"),
        Some(libc::SIGABRT) => format!("crashed (SIGABRT){cause}"),
        Some(libc::SIGBUS) => format!("crashed (SIGBUS){cause}"),
        Some(signal) => format!("crashed (signal {signal}){cause}"),
        None => format!("failed{cause}"),
    })
}
