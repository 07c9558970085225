//! What a run leaves behind: a table, a CSV, a picture.

mod picture;
mod table;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

pub use table::table;

use crate::sample::{COLUMNS, Sample};

/// Writes `NAME.csv`, and with `picture` also `NAME.svg`, into `directory`; `head` goes into both.
pub fn write(directory: &Path, name: &str, head: &[String], samples: &[Sample], picture: bool) -> Result<()> {
    let at = |extension| directory.join(format!("{name}.{extension}"));
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let mut csv: String = head.iter().map(|line| format!("# {line}\n")).collect();
    csv.push_str(COLUMNS);
    csv.push('\n');
    samples.iter().for_each(|sample| csv.extend([&sample.to_csv(), "\n"]));
    fs::write(at("csv"), csv).with_context(|| format!("writing {}", at("csv").display()))?;
    println!("wrote {}", at("csv").display());
    if picture {
        let svg = picture::draw(head, samples).context("drawing the picture")?;
        fs::write(at("svg"), svg).with_context(|| format!("writing {}", at("svg").display()))?;
        println!("wrote {}", at("svg").display());
    }
    Ok(())
}
