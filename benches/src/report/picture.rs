//! The picture: what churn costs over the number of live functions, and what huge pages are worth
//! when code runs.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::rows::{CALLS, CHURN};
use crate::sample::Sample;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (1360, 620);
/// Dark enough to be read as text.
const DARK: [RGBColor; 7] = [
    RGBColor(31, 119, 180),
    RGBColor(44, 140, 44),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(20, 150, 165),
    RGBColor(150, 140, 20),
    RGBColor(60, 60, 160),
];
const FONT: &str = "sans-serif";

/// The SVG as text.
pub fn draw(head: &[String], samples: &[Sample]) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let failed = |e: &dyn std::fmt::Display| anyhow!("{e}");
        root.fill(&WHITE).map_err(|e| failed(&e))?;
        let (panels, foot) = root.split_vertically(SIZE.1 - 40);
        let (left, right) = panels.split_horizontally(920);
        churn(&left, samples).map_err(|e| failed(&e))?;
        calls(&right, samples).map_err(|e| failed(&e))?;
        for (line, text) in head.iter().take(3).enumerate() {
            let place = (12, line as i32 * 12);
            foot.draw(&Text::new(text.clone(), place, (FONT, 11))).map_err(|e| failed(&e))?;
        }
        root.present().map_err(|e| failed(&e))?;
    }
    Ok(svg)
}

/// Fixed colours for those who matter, the rest from a palette.
fn colour(peer: &str, index: usize) -> RGBColor {
    match peer {
        "gaia-jit DualMap" => RGBColor(200, 30, 30),
        "gaia-jit DualMap huge" => RGBColor(240, 130, 130),
        "gaia-jit Flip" => RGBColor(230, 140, 0),
        "malloc (glibc)" => RGBColor(90, 90, 90),
        "malloc (mimalloc)" => RGBColor(160, 160, 160),
        _ => DARK[index % DARK.len()],
    }
}

fn churn(area: &Area<'_>, samples: &[Sample]) -> Result<(), Box<dyn std::error::Error>> {
    let mut lines: Vec<(&str, Vec<(f64, f64)>)> = Vec::new();
    for sample in samples.iter().filter(|s| s.group == CHURN.0 && s.metric == CHURN.1 && s.best.is_finite()) {
        let Ok(live) = sample.case.parse::<f64>() else { continue };
        match lines.iter_mut().find(|(peer, _)| *peer == sample.peer) {
            Some((_, points)) => points.push((live, sample.best)),
            None => lines.push((&sample.peer, vec![(live, sample.best)])),
        }
    }
    let all = || lines.iter().flat_map(|(_, points)| points);
    let least = all().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let most = all().map(|p| p.1).fold(0.0, f64::max);
    if lines.is_empty() {
        return Ok(());
    }
    let mut chart = ChartBuilder::on(area)
        .caption("Churn: drop a random function, publish another", (FONT, 18))
        .margin(12)
        .margin_right(210)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d((800.0..1_250_000.0).log_scale(), (least * 0.7..most * 1.5).log_scale())?;
    let mesh = &mut chart.configure_mesh();
    mesh.x_desc("live functions").y_desc("ns per replacement").light_line_style(RGBColor(235, 235, 235));
    mesh.x_label_formatter(&|x| format!("{x:.0}")).y_label_formatter(&|y| format!("{y:.0}")).draw()?;
    for (index, (peer, points)) in lines.iter().enumerate() {
        let style = colour(peer, index);
        let width = if peer.starts_with("gaia-jit D") || peer.starts_with("gaia-jit F") { 3 } else { 2 };
        chart.draw_series(LineSeries::new(points.iter().copied(), style.stroke_width(width)))?;
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, style.filled())))?;
    }
    legend(area, &lines, least * 0.7..most * 1.5, chart.plotting_area().get_pixel_range().1)
}

/// The names at the right, each at the height of its line's end as far as there is room.
fn legend(
    area: &Area<'_>,
    lines: &[(&str, Vec<(f64, f64)>)],
    range: std::ops::Range<f64>,
    pixels: std::ops::Range<i32>,
) -> Result<(), Box<dyn std::error::Error>> {
    let (top, height) = (f64::from(pixels.start), f64::from(pixels.end - pixels.start));
    let whole = (range.end / range.start).ln();
    let end = |points: &[(f64, f64)]| points.last().map_or(range.start, |last| last.1);
    let mut names: Vec<(f64, &str, RGBColor, bool)> = Vec::new();
    for (index, (peer, points)) in lines.iter().enumerate() {
        let share = (range.end / end(points)).ln() / whole;
        let ends_early = points.last().is_some_and(|last| last.0 < 1e6);
        names.push((top + share * height, peer, colour(peer, index), ends_early));
    }
    names.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = f64::NEG_INFINITY;
    let origin = area.get_pixel_range().1.start;
    for (at, peer, colour, ends_early) in names {
        let y = at.max(free);
        free = y + 15.0;
        let text = match peer {
            _ if peer.starts_with("jit-allocator2") => format!("{peer} (damages blocks)"),
            _ if ends_early => format!("{peer} (ends early)"),
            _ => peer.to_owned(),
        };
        area.draw(&Text::new(text, (722, y as i32 - origin - 7), (FONT, 13).into_font().color(&colour)))?;
    }
    Ok(())
}

fn calls(area: &Area<'_>, samples: &[Sample]) -> Result<(), Box<dyn std::error::Error>> {
    let bars: Vec<&Sample> =
        samples.iter().filter(|s| s.group == CALLS.0 && s.metric == CALLS.1 && s.best.is_finite()).collect();
    if bars.is_empty() {
        return Ok(());
    }
    let most = bars.iter().map(|s| s.best).fold(0.0, f64::max) * 1.2;
    let mut chart = ChartBuilder::on(area)
        .caption("Random calls over 64 MiB of code", (FONT, 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(10)
        .build_cartesian_2d(0.0..most, 0.0..bars.len() as f64)?;
    let mesh = &mut chart.configure_mesh();
    mesh.disable_y_mesh().disable_y_axis().x_desc("ns per call").light_line_style(RGBColor(235, 235, 235)).draw()?;
    for (index, sample) in bars.iter().enumerate() {
        let y = (bars.len() - index) as f64;
        let colour = if sample.peer.contains("huge") { RGBColor(200, 30, 30) } else { RGBColor(150, 150, 150) };
        chart.draw_series([Rectangle::new([(0.0, y - 0.25), (sample.best, y - 0.65)], colour.filled())])?;
        let pages = if sample.peer.ends_with("huge") { "pages" } else { "" };
        let text = format!("{} {pages} {:.0} ns", sample.peer, sample.best);
        chart.draw_series([Text::new(text, (most * 0.005, y - 0.05), (FONT, 13))])?;
    }
    Ok(())
}
