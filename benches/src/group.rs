//! A group of measurements: what it runs, and how its figures are judged.

use anyhow::Result;

use crate::sample::{Sample, Samples};
use crate::scale::Scale;

/// One run of a group, in a process of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub case: String,
    /// A single peer that is not trusted in one process with the others; empty for all the others.
    pub alone: String,
}

impl Task {
    pub fn new(case: impl ToString) -> Self {
        Self { case: case.to_string(), alone: String::new() }
    }

    pub fn alone(case: impl ToString, peer: &str) -> Self {
        Self { case: case.to_string(), alone: peer.to_owned() }
    }
}

/// Measurements that belong together, under the name that `--row` takes.
pub struct Group {
    pub name: &'static str,
    pub about: &'static str,
    pub tasks: fn(Scale) -> Vec<Task>,
    /// Runs in the child.
    pub run: fn(&Task, Scale) -> Result<Vec<Sample>>,
    /// Runs in the parent, on the samples of all tasks.
    pub judge: fn(Samples<'_>) -> Vec<Row>,
}

/// What a figure is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// Only looked at.
    None,
}

impl Target {
    /// `None` if there is no figure or no target.
    pub fn reached(self, figure: f64) -> Option<bool> {
        match self {
            _ if !figure.is_finite() => None,
            Self::AtMost(limit) => Some(figure <= limit),
            Self::AtLeast(limit) => Some(figure >= limit),
            Self::None => None,
        }
    }
}

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub what: String,
    pub ours: String,
    pub peer: String,
    pub floor: String,
    pub target: Target,
    /// What `target` is compared with.
    pub figure: f64,
    /// Follows the figure and the target: `x`, ` %`, ` ns`.
    pub unit: &'static str,
}

impl Row {
    pub fn new(what: impl Into<String>, target: Target, figure: f64, unit: &'static str) -> Self {
        let none = || "-".to_owned();
        Self { what: what.into(), ours: none(), peer: none(), floor: none(), target, figure, unit }
    }

    pub fn ours(self, ours: impl Into<String>) -> Self {
        Self { ours: ours.into(), ..self }
    }

    pub fn peer(self, peer: impl Into<String>) -> Self {
        Self { peer: peer.into(), ..self }
    }

    /// The best peer by name and figure.
    pub fn best_peer(self, best: Option<(&str, f64)>) -> Self {
        match best {
            Some((name, ns)) => self.peer(format!("{} {name}", ns_text(ns))),
            None => self,
        }
    }

    pub fn floor(self, floor: impl Into<String>) -> Self {
        Self { floor: floor.into(), ..self }
    }
}

/// Nanoseconds, readable.
pub fn ns_text(ns: f64) -> String {
    match ns {
        n if !n.is_finite() => "-".to_owned(),
        n if n < 100.0 => format!("{n:.1} ns"),
        n if n < 10_000.0 => format!("{n:.0} ns"),
        n if n < 10_000_000.0 => format!("{:.1} µs", n / 1e3),
        n => format!("{:.1} ms", n / 1e6),
    }
}

/// Bytes, readable.
pub fn bytes_text(bytes: f64) -> String {
    match bytes {
        b if !b.is_finite() => "-".to_owned(),
        b if b.abs() < 10240.0 => format!("{b:.0} B"),
        b if b.abs() < 10_485_760.0 => format!("{:.1} KiB", b / 1024.0),
        b => format!("{:.1} MiB", b / 1_048_576.0),
    }
}
