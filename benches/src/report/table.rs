//! The table of rows, as text.

use crate::group::{Row, Target};

const HEAD: [&str; 7] = ["row", "ours", "best peer", "floor", "target", "measured", "reached"];

/// Left-aligned columns.
pub fn table(rows: &[Row]) -> String {
    let cells: Vec<[String; 7]> = [HEAD.map(str::to_owned)].into_iter().chain(rows.iter().map(cells)).collect();
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let line = |row: &[String; 7]| {
        let padded = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let rule = widths.iter().map(|&width| "-".repeat(width)).collect::<Vec<_>>().join("  ");
    let mut lines: Vec<String> = cells.iter().map(line).collect();
    lines.insert(1, rule);
    lines.join("\n")
}

fn cells(row: &Row) -> [String; 7] {
    let Row { what, ours, peer, floor, target, figure, unit } = row;
    let with_unit = |value: String| format!("{value} {unit}");
    let target_text = match target {
        Target::AtMost(limit) => with_unit(format!("<= {limit}")),
        Target::AtLeast(limit) => with_unit(format!(">= {limit}")),
        Target::None => "-".to_owned(),
    };
    let figure_text = match figure {
        f if !f.is_finite() => "no figure".to_owned(),
        f if f.abs() < 100.0 => with_unit(format!("{f:.2}")),
        f => with_unit(format!("{f:.0}")),
    };
    let reached = match target.reached(*figure) {
        Some(true) => "yes",
        Some(false) => "NO",
        None if *target == Target::None => "",
        None => "?",
    };
    [what.clone(), ours.clone(), peer.clone(), floor.clone(), target_text, figure_text, reached.to_owned()]
}
