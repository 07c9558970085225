//! A picture of an arena: one square for each page, coloured by its content, and frames around the
//! largest holes.
//!
//! ```text
//! title
//!   +0 MiB  [][][][][][][][]      squares in rows, the lowest address first
//!   +4 MiB  [][][]#########       # a frame around a hole
//! legend    the colours, and the number of squares of each
//! lines     text of the caller
//! ```
//!
//! If there are more pages than squares that fit, several pages share a square. All squares of one
//! colour are one SVG path, so that the file stays small.
#![forbid(unsafe_code)]

mod text;

use std::fmt::{self, Write};

use super::{Map, PageUse};
use text::{FONT, paragraph};

/// The width and the greatest height of the squares together, in SVG units.
const SIZE: usize = 1024;
/// The sides of a square, with its gap. The largest is used for which the picture is not too high.
const SIDES: [usize; 3] = [16, 8, 4];
/// The space left of the squares, enough for "+65535 MiB".
const LEFT: usize = 72;
/// The width of the picture and of its text.
const WIDTH: usize = LEFT + SIZE + 24;
const TEXT: usize = SIZE;
/// The sizes of letters.
const TITLE: usize = 18;
const BODY: usize = 12;
const SMALL: usize = 10;
/// The distance of two squares in the legend.
const SWATCH: usize = 17;

/// The shades of live pages, from nearly empty to full.
const SHADES: [&str; 8] = ["#dcecf7", "#bfdcef", "#9ccae5", "#75b4d9", "#519bca", "#3380b8", "#1c659f", "#0b4a80"];

/// The state that a square shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Untouched,
    Empty,
    Pending,
    /// Live, with the index of the shade.
    Live(usize),
}

impl State {
    /// Returns the state of pages that share a square.
    fn of(pages: &[PageUse], page_size: usize) -> Self {
        let live: usize = pages.iter().map(|page| page.live as usize).sum();
        if pages.iter().any(|page| page.pending > 0) {
            Self::Pending
        } else if live > 0 {
            Self::Live(
                (live.saturating_mul(SHADES.len()) / page_size.saturating_mul(pages.len()).max(1))
                    .min(SHADES.len() - 1),
            )
        } else if pages.iter().any(|page| page.resident) {
            Self::Empty
        } else {
            Self::Untouched
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Self::Untouched => "#e9e9e4",
            Self::Empty => "#f2b632",
            Self::Pending => "#d1385a",
            Self::Live(shade) => SHADES.get(shade).copied().unwrap_or("#000000"),
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        [Self::Untouched, Self::Empty, Self::Pending].into_iter().chain((0..SHADES.len()).map(Self::Live))
    }
}

/// The layout of pages in squares and rows.
struct Layout {
    side: usize,
    columns: usize,
    rows: usize,
    /// The bytes that one square stands for.
    bytes: usize,
    /// The top of the squares, below the title.
    top: usize,
}

impl Layout {
    /// Returns the corner of the square that contains byte `offset`.
    fn corner(&self, offset: usize) -> (usize, usize) {
        let square = offset / self.bytes;
        (LEFT + square % self.columns * self.side, self.top + square / self.columns * self.side)
    }
}

impl Map {
    /// Draws the map as an SVG image, with a title above and lines of text below.
    ///
    /// ```
    /// let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let block = arena.publish(&[0xc3; 10_000])?;
    /// let picture = arena.map().to_svg("my cache", &[arena.stats().to_string()]);
    /// assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    #[must_use]
    pub fn to_svg(&self, title: &str, lines: &[String]) -> String {
        let mut svg = String::new();
        // Writing to a string cannot fail.
        let _ = self.draw(&mut svg, title, lines);
        svg
    }

    fn draw(&self, svg: &mut String, title: &str, lines: &[String]) -> fmt::Result {
        // If there are more pages than squares, pages share squares.
        let together = self.pages.len().div_ceil((SIZE / SIDES[2]).pow(2)).max(1);
        let states: Vec<_> = self.pages.chunks(together).map(|pages| State::of(pages, self.page_size)).collect();
        let fits = |side: &usize| states.len().div_ceil(SIZE / side) * side <= SIZE;
        let side = SIDES.into_iter().find(fits).unwrap_or(SIDES[2]);
        let columns = SIZE / side;
        let bytes = (self.page_size * together).max(1);
        let what = if together == 1 { "a page of".into() } else { format!("{together} pages,") };
        let scale = format!("one square is {what} {}; a row is {}", amount(bytes), amount(columns * bytes));

        // The height is known only at the end.
        let mut body = String::new();
        let top = paragraph(&mut body, (LEFT, 10), TEXT, TITLE, title)?;
        let top = paragraph(&mut body, (LEFT, top), TEXT, BODY, &scale)? + 8;
        let layout = Layout { side, columns, rows: states.len().div_ceil(columns), bytes, top };
        for state in State::all() {
            squares(&mut body, &states, state, &layout)?;
        }
        for hole in self.holes.iter().filter(|hole| hole.len >= layout.bytes) {
            frame(&mut body, hole.offset, hole.len, &layout)?;
        }
        for row in (0..layout.rows).step_by(layout.rows.div_ceil(16).next_power_of_two()) {
            let label = format!("+{}", amount(row * columns * bytes));
            paragraph(&mut body, (2, top + row * side - SMALL / 2), LEFT, SMALL, &label)?;
        }
        let mut bottom = self.legend(&mut body, &states, top + layout.rows * side + 8)?;
        for line in lines {
            bottom = paragraph(&mut body, (LEFT, bottom), TEXT, BODY, line)?;
        }

        let height = bottom + 12;
        writeln!(
            svg,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="{FONT}">"#
        )?;
        writeln!(svg, r##"<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>"##)?;
        svg.push_str(&body);
        writeln!(svg, "</svg>")
    }

    /// Draws the legend: the meaning of each colour, and the number of squares that have it.
    /// Returns its bottom.
    fn legend(&self, svg: &mut String, states: &[State], top: usize) -> Result<usize, fmt::Error> {
        let count = |wanted: fn(&State) -> bool| states.iter().filter(|state| wanted(state)).count();
        let entries = [
            ("not resident", count(|state| *state == State::Untouched), &[State::Untouched][..]),
            ("resident, empty", count(|state| *state == State::Empty), &[State::Empty]),
            ("has code waiting for a guard", count(|state| *state == State::Pending), &[State::Pending]),
            (
                "live code, from nearly none to the whole page",
                count(|state| matches!(state, State::Live(_))),
                &std::array::from_fn::<_, { SHADES.len() }, _>(State::Live),
            ),
        ];
        let mut bottom = top;
        for (label, count, colours) in entries {
            // The squares of an entry end at the same place, before its label.
            for (place, state) in colours.iter().rev().enumerate() {
                swatch(svg, (LEFT + SWATCH * (SHADES.len() - 1 - place), bottom + 2), *state)?;
            }
            let left = SWATCH * SHADES.len() + 8;
            bottom = paragraph(svg, (LEFT + left, bottom), TEXT - left, BODY, &format!("{label} ({count})"))?;
        }
        let holes: Vec<_> = self.holes.iter().map(|hole| format!("{} B at +{:#x}", hole.len, hole.offset)).collect();
        paragraph(svg, (LEFT, bottom), TEXT, BODY, &format!("largest holes (framed): {}", holes.join(", ")))
    }
}

/// Returns bytes in the largest unit in which they are a whole number.
fn amount(bytes: usize) -> String {
    match bytes {
        0 => "0".to_owned(),
        _ if bytes % (1 << 20) == 0 => format!("{} MiB", bytes >> 20),
        _ => format!("{} KiB", bytes >> 10),
    }
}

/// Draws all squares of one state, as one path, because that keeps the file small.
fn squares(svg: &mut String, states: &[State], wanted: State, layout: &Layout) -> fmt::Result {
    if !states.contains(&wanted) {
        return Ok(());
    }
    write!(svg, r#"<path fill="{}" d=""#, wanted.colour())?;
    let inner = layout.side - 1;
    for (number, _) in states.iter().enumerate().filter(|(_, state)| **state == wanted) {
        let (x, y) = layout.corner(number * layout.bytes);
        write!(svg, "M{x} {y}h{inner}v{inner}h-{inner}z")?;
    }
    writeln!(svg, r#""/>"#)
}

/// Draws a frame around a hole: one rectangle for each row that it reaches into, but at most two.
fn frame(svg: &mut String, offset: usize, len: usize, layout: &Layout) -> fmt::Result {
    let row = layout.columns * layout.bytes;
    let mut at = offset.next_multiple_of(layout.bytes);
    let end = (offset + len) / layout.bytes * layout.bytes;
    while at < end {
        // Whole rows are one rectangle. A part that begins or ends in the middle of a row is
        // another one.
        let whole = if at % row == 0 { (end - at) / row * row } else { 0 };
        let until = if whole > 0 { at + whole } else { end.min((at / row + 1) * row) };
        let (x, y) = layout.corner(at);
        let wide = ((until - at).min(row)) / layout.bytes * layout.side;
        let high = (until - at).div_ceil(row) * layout.side;
        writeln!(
            svg,
            r##"<rect x="{x}" y="{y}" width="{}" height="{}" fill="none" stroke="#222222"/>"##,
            wide.saturating_sub(1),
            high.saturating_sub(1)
        )?;
        at = until;
    }
    Ok(())
}

fn swatch(svg: &mut String, (x, y): (usize, usize), state: State) -> fmt::Result {
    writeln!(svg, r#"<rect x="{x}" y="{y}" width="15" height="15" fill="{}"/>"#, state.colour())
}

#[cfg(test)]
mod tests {
    use super::super::Hole;
    use super::*;

    fn map(pages: usize, holes: Vec<Hole>) -> String {
        let used = PageUse { live: 4096, pending: 0, resident: true };
        Map { page_size: 4096, pages: vec![used; pages], holes }.to_svg("a <title> & more\n", &[])
    }

    /// Its fields are public.
    #[test]
    fn pages_of_no_size_are_drawn() {
        let map = Map { page_size: 0, pages: vec![PageUse { live: 1, ..PageUse::default() }], holes: Vec::new() };
        assert!(map.to_svg("", &[]).ends_with("</svg>\n"));
    }

    #[test]
    fn every_page_has_a_square_or_shares_one() {
        for (pages, squares) in [(0, 0), (1, 1), (4096, 4096), (65_536, 65_536), (65_537, 32_769), (1 << 19, 1 << 16)] {
            let drawn = map(pages, Vec::new());
            let paths = drawn.lines().filter(|line| line.starts_with("<path"));
            assert_eq!(paths.map(|path| path.matches('M').count()).sum::<usize>(), squares, "{pages} pages");
        }
    }

    /// By the widest letters of the fonts it may be shown in.
    #[test]
    fn no_text_leaves_the_picture() {
        let used = PageUse { live: 4096, pending: 0, resident: true };
        let holes = (0..16).map(|n| Hole { offset: n << (usize::BITS - 5), len: usize::MAX >> 6 }).collect();
        let name = format!("{}::{}", "very_long_name".repeat(40), "\u{6f22}".repeat(300));
        let lines = [name.clone(), "words of some length ".repeat(60)];
        // Not more than there are addresses.
        for pages in [0, 1, 4096, 1 << if usize::BITS > 32 { 20 } else { 15 }] {
            let svg =
                Map { page_size: 64 << 10, pages: vec![used; pages], holes: Vec::clone(&holes) }.to_svg(&name, &lines);
            let mut bottom = 0;
            for line in svg.lines().filter(|line| line.starts_with("<text")) {
                let number = |name: &str| -> usize {
                    let (_, after) = line.split_once(&format!(" {name}=\"")).unwrap();
                    after.split_once('"').unwrap().0.parse().unwrap()
                };
                let content = line.split_once('>').unwrap().1.strip_suffix("</text>").unwrap();
                let columns: usize = content.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum();
                let right = number("x") + columns * number("font-size") * 61 / 100;
                assert!(right <= WIDTH, "{right}: {line}");
                bottom = bottom.max(number("y"));
            }
            let height: usize = svg.split_once(" height=\"").unwrap().1.split_once('"').unwrap().0.parse().unwrap();
            assert!(bottom + 4 <= height, "{bottom} of {height}");
        }
    }

    #[test]
    fn text_is_escaped() {
        assert!(map(1, Vec::new()).contains(">a &lt;title&gt; &amp; more<"));
    }

    #[test]
    fn a_hole_over_three_rows_has_a_frame_for_each_part() {
        // 64 squares in a row.
        let framed = |first: usize, count: usize| {
            let hole = Hole { offset: first * 4096 - 16, len: count * 4096 + 32 };
            map(1024, vec![hole]).matches("stroke=").count()
        };
        assert_eq!((framed(1, 3), framed(60, 4), framed(60, 8), framed(60, 200)), (1, 1, 2, 3));
        assert_eq!(framed(64, 128), 1, "whole rows are one rectangle");
    }
}
