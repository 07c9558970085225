//! The arena as a picture: one square for each page, coloured by what is in it.

use std::fmt::Write;

use gaia_jit::{Occupancy, PageUse};
use svg::Document;
use svg::node::element::{Path, Rectangle, Text};

/// Width and greatest height of the map, in SVG units.
const MAP: usize = 1024;
/// Sides of a square, gap included; the largest is taken with which the map is high enough.
const CELLS: [usize; 3] = [16, 8, 4];
const MARGIN_LEFT: usize = 72;
const MARGIN_TOP: usize = 64;
const LEGEND_HEIGHT: usize = 88;

/// Shades of live pages, from nearly empty to full.
const SHADES: [&str; 8] = ["#dcecf7", "#bfdcef", "#9ccae5", "#75b4d9", "#519bca", "#3380b8", "#1c659f", "#0b4a80"];
const UNTOUCHED: &str = "#e9e9e4";
const HOLE: &str = "#f2b632";
const PENDING: &str = "#d1385a";

/// What a page is shown as; the order is that of the legend.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Untouched,
    Hole,
    Pending,
    /// The index of its shade.
    Live(usize),
}

impl State {
    /// The state of pages that a square stands for.
    fn of(pages: &[PageUse], page_size: usize) -> Self {
        let live: usize = pages.iter().map(|page| page.live as usize).sum();
        if pages.iter().any(|page| page.pending > 0) {
            Self::Pending
        } else if live > 0 {
            Self::Live((live * SHADES.len() / (page_size * pages.len())).min(SHADES.len() - 1))
        } else if pages.iter().any(|page| page.resident) {
            Self::Hole
        } else {
            Self::Untouched
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Self::Untouched => UNTOUCHED,
            Self::Hole => HOLE,
            Self::Pending => PENDING,
            Self::Live(shade) => SHADES[shade],
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        [Self::Untouched, Self::Hole, Self::Pending].into_iter().chain((0..SHADES.len()).map(Self::Live))
    }
}

/// Draws the arena. `figures` are lines of text under the map.
pub(crate) fn draw(occupancy: &Occupancy, title: &str, figures: &[String]) -> Document {
    let Occupancy { page_size, pages, .. } = occupancy;
    // More pages than the map has room for share squares.
    let together = pages.len().div_ceil((MAP / CELLS[2]).pow(2)).max(1);
    let states: Vec<_> = pages.chunks(together).map(|pages| State::of(pages, *page_size)).collect();
    let side = CELLS.into_iter().find(|side| states.len().div_ceil(MAP / side) * side <= MAP).unwrap_or(CELLS[2]);
    let columns = MAP / side;
    let rows = states.len().div_ceil(columns);
    let (width, map_bottom) = (MARGIN_LEFT + MAP + 24, MARGIN_TOP + rows * side);
    let height = map_bottom + LEGEND_HEIGHT + 20 * figures.len();
    let square_bytes = page_size * together;
    let scale = match together {
        1 => format!("one square is a page of {} KiB", square_bytes >> 10),
        _ => format!("one square is {together} pages, {} KiB", square_bytes >> 10),
    };

    let mut document = Document::new()
        .set("viewBox", (0, 0, width, height))
        .set("width", width)
        .set("height", height)
        .set("font-family", "sans-serif")
        .add(Rectangle::new().set("width", width).set("height", height).set("fill", "#ffffff"))
        .add(text(MARGIN_LEFT, 28, 18, title))
        .add(text(MARGIN_LEFT, 50, 12, &format!("{scale}; a row is {} KiB", (columns * square_bytes) >> 10)));
    for state in State::all() {
        // One path for each colour keeps the file small: a square costs some twenty bytes.
        let squares = squares(&states, state, columns, side);
        if !squares.is_empty() {
            document = document.add(Path::new().set("fill", state.colour()).set("d", squares));
        }
    }
    for row in (0..rows).step_by(rows.div_ceil(16).next_power_of_two()) {
        let label = format!("+{} KiB", (row * columns * square_bytes) >> 10);
        let y = MARGIN_TOP + row * side + 10;
        document = document.add(text(MARGIN_LEFT - 6, y, 10, &label).set("text-anchor", "end"));
    }
    document = legend(document, &states, map_bottom + 20);
    for (line, figure) in figures.iter().enumerate() {
        document = document.add(text(MARGIN_LEFT, map_bottom + LEGEND_HEIGHT + 20 * line, 12, figure));
    }
    document
}

/// The outline of all squares in one state, row by row.
fn squares(states: &[State], wanted: State, columns: usize, side: usize) -> String {
    let mut outline = String::new();
    let inner = side - 1;
    for (number, _) in states.iter().enumerate().filter(|(_, state)| **state == wanted) {
        let (x, y) = (MARGIN_LEFT + number % columns * side, MARGIN_TOP + number / columns * side);
        // Writing to a string cannot fail.
        let _ = write!(outline, "M{x} {y}h{inner}v{inner}h-{inner}z");
    }
    outline
}

fn legend(mut document: Document, states: &[State], y: usize) -> Document {
    let count = |wanted: State| states.iter().filter(|state| **state == wanted).count();
    let live = states.iter().filter(|state| matches!(state, State::Live(_))).count();
    let entries = [
        (State::Untouched, format!("not resident ({})", count(State::Untouched))),
        (State::Hole, format!("resident, empty ({})", count(State::Hole))),
        (State::Pending, format!("has code waiting for a guard ({})", count(State::Pending))),
    ];
    let mut x = MARGIN_LEFT;
    for (state, label) in entries {
        document = document.add(swatch(x, y, state)).add(text(x + 20, y + 12, 12, &label));
        x += 250;
    }
    let y = y + 24;
    for shade in 0..SHADES.len() {
        document = document.add(swatch(MARGIN_LEFT + 16 * shade, y, State::Live(shade)));
    }
    let label = format!("live code, from nearly none to the whole page ({live})");
    document.add(text(MARGIN_LEFT + 16 * SHADES.len() + 8, y + 12, 12, &label))
}

fn swatch(x: usize, y: usize, state: State) -> Rectangle {
    Rectangle::new().set("x", x).set("y", y).set("width", 15).set("height", 15).set("fill", state.colour())
}

fn text(x: usize, y: usize, size: usize, content: &str) -> Text {
    Text::new(content).set("x", x).set("y", y).set("font-size", size).set("fill", "#222222")
}
