//! The scoreboard: the program that runs every row of the design's table in one go.
//!
//! ```sh
//! cargo run --release --manifest-path benches/Cargo.toml
//! ```
//!
//! ```text
//! options --> groups --> tasks --> a child process for each --> samples --> judge --> table, remarks, CSV, SVG
//! ```
//!
//! - *Child*: the program starts itself with `--child`, a group, a case and a peer. The child
//!   prints one line for each sample, and the parent reads these lines.
//! - *Time*: a child that takes longer than `PATIENCE` is ended, and a sample says so.
//! - *Files*: a full run of all rows or all loads writes to `benches/results`. A quick run, or a
//!   run of chosen groups, writes only with `--out`. The picture exists for rows only.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use gaia_jit_benches::group::{Group, Row, Task};
use gaia_jit_benches::sample::{Sample, Samples};
use gaia_jit_benches::scale::Scale;
use gaia_jit_benches::{loads, machine, report, rows, sandbox};
use lexopt::prelude::*;

const HELP: &str = "\
Runs the benchmarks of gaia-jit beside its peers and floors, and prints them with their targets.

scoreboard [OPTIONS]
  --loads      run the loads instead of the rows
  --row NAME   run only this row or load (may be given again)
  --quick      tiny sizes, a few seconds: a smoke run, its figures mean nothing
  --out DIR    where to write the CSV and the SVG (benches/results; only full runs write without it)
  --list       print the names for --row
  --help       print this";

/// A task that takes longer is ended.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Options {
    loads: bool,
    only: Vec<String>,
    quick: bool,
    out: Option<PathBuf>,
    list: bool,
    help: bool,
    /// Group, case, and the peer that is alone: what the program says to itself.
    child: Option<[String; 3]>,
}

impl Options {
    fn parse() -> Result<Self> {
        let mut options = Self::default();
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("loads") => options.loads = true,
                Long("row") => options.only.push(parser.value()?.string()?),
                Long("quick") => options.quick = true,
                Long("out") => options.out = Some(parser.value()?.into()),
                Long("list") => options.list = true,
                Long("help") | Short('h') => options.help = true,
                Long("child") => {
                    let mut text = || Ok::<_, anyhow::Error>(parser.value()?.string()?);
                    options.child = Some([text()?, text()?, text()?]);
                }
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    match Options::parse().and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scoreboard: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn all() -> impl Iterator<Item = &'static Group> {
    rows::ALL.iter().chain(loads::ALL)
}

fn run(options: &Options) -> Result<()> {
    let scale = Scale { quick: options.quick };
    if let Some([name, case, alone]) = &options.child {
        let group = all().find(|group| group.name == name).context("no such group")?;
        let task = Task { case: case.clone(), alone: alone.clone() };
        (group.run)(&task, scale)?.iter().for_each(|sample| println!("{}", sample.to_line()));
        return Ok(());
    }
    if options.help {
        println!("{HELP}");
        return Ok(());
    }
    if options.list {
        let list = |groups: &[Group]| groups.iter().for_each(|group| println!("  {:16} {}", group.name, group.about));
        println!("rows:");
        list(rows::ALL);
        println!("loads:");
        list(loads::ALL);
        return Ok(());
    }
    scoreboard(options, scale)
}

fn chosen(options: &Options) -> Result<Vec<&'static Group>> {
    if let Some(unknown) = options.only.iter().find(|name| all().all(|group| group.name != *name)) {
        bail!("there is no row or load `{unknown}`; --list prints their names");
    }
    let groups = if options.loads { loads::ALL } else { rows::ALL };
    Ok(match options.only.len() {
        0 => groups.iter().collect(),
        _ => all().filter(|group| options.only.iter().any(|name| name == group.name)).collect(),
    })
}

fn scoreboard(options: &Options, scale: Scale) -> Result<()> {
    let groups = chosen(options)?;
    let head = machine::describe();
    head.iter().for_each(|line| println!("{line}"));
    if scale.quick {
        println!("a smoke run: its figures mean nothing");
    }
    println!();
    let start = Instant::now();
    let (mut samples, mut table, mut remarks): (Vec<Sample>, Vec<Row>, Vec<String>) = Default::default();
    for group in groups {
        let mut of_group = Vec::new();
        for task in (group.tasks)(scale) {
            eprint!("\r\x1b[K{} {} {}", group.name, task.case, task.alone);
            of_group.extend(sandbox::run(group, &task, scale, PATIENCE)?);
        }
        table.extend((group.judge)(Samples(&of_group)));
        remarks.extend(Samples(&of_group).remarks());
        samples.extend(of_group);
    }
    eprintln!("\r\x1b[K");
    println!("{}\n", report::table(&table));
    if !remarks.is_empty() {
        println!("Remarks:");
        remarks.iter().for_each(|remark| println!("  {remark}"));
        println!();
    }
    let judged: Vec<bool> = table.iter().filter_map(|row| row.target.reached(row.figure)).collect();
    let reached = judged.iter().filter(|&&reached| reached).count();
    println!("{reached} of {} targets reached, in {:.0} s", judged.len(), start.elapsed().as_secs_f64());
    let whole = options.only.is_empty();
    let default = || (whole && !scale.quick).then(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/results")));
    if let Some(directory) = options.out.clone().or_else(default) {
        let name = if options.loads { "loads" } else { "scoreboard" };
        report::write(&directory, name, &head, &samples, !options.loads)?;
    }
    Ok(())
}
