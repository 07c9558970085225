//! Text in a picture that is never wider than the picture.
//!
//! The font of a viewer is not known. But in fixed-width fonts letters have nearly the same width:
//! 0.60 of their size (Courier, Menlo, Consolas and DejaVu Sans Mono are between 0.55 and 0.602). A
//! character that is not ASCII counts as two, because Chinese characters and pictographs are as
//! wide as they are high.

use std::fmt::{self, Write};

pub(super) const FONT: &str = "ui-monospace,Menlo,Consolas,monospace";

/// Writes `content` below `top`, in as many lines as it needs to be no wider than `width`. Returns
/// the bottom of the last line.
pub(super) fn paragraph(
    svg: &mut String,
    (left, top): (usize, usize),
    width: usize,
    size: usize,
    content: &str,
) -> Result<usize, fmt::Error> {
    let mut bottom = top;
    for line in wrap(content, width * 100 / (size * 61)) {
        bottom += size + size / 2;
        write!(svg, r##"<text x="{left}" y="{}" font-size="{size}" fill="#222222">"##, bottom - size / 2)?;
        escape(svg, line);
        writeln!(svg, "</text>")?;
    }
    Ok(bottom)
}

fn escape(svg: &mut String, content: &str) {
    for c in content.chars() {
        match c {
            '<' => svg.push_str("&lt;"),
            '>' => svg.push_str("&gt;"),
            '&' => svg.push_str("&amp;"),
            c if c.is_control() => svg.push(' '),
            c => svg.push(c),
        }
    }
}

/// Splits text into lines of at most `columns` letters, at blanks, or within a word that is longer
/// than a line.
fn wrap(content: &str, columns: usize) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = content.trim_end();
    while !rest.is_empty() {
        let (mut used, mut end, mut blank) = (0, rest.len(), None);
        for (at, c) in rest.char_indices() {
            used += if c.is_ascii() { 1 } else { 2 };
            if used > columns && at > 0 {
                end = blank.unwrap_or(at);
                break;
            }
            if c.is_whitespace() && at > 0 {
                blank = Some(at);
            }
        }
        let (line, after) = rest.split_at(end);
        lines.push(line);
        rest = after.trim_start();
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::wrap;

    #[test]
    fn lines_break_at_blanks_and_within_words_that_are_too_long() {
        assert_eq!(wrap("", 5), [""; 0]);
        assert_eq!(wrap("a bc def", 5), ["a bc", "def"]);
        assert_eq!(wrap("abcdefghijkl m", 5), ["abcde", "fghij", "kl m"]);
        assert_eq!(wrap("  a", 5), ["  a"]);
        assert_eq!(wrap("ää ää", 5), ["ää", "ää"]);
        assert_eq!(wrap("漢字漢字", 1), ["漢", "字", "漢", "字"], "one at least");
    }

    #[test]
    fn nothing_but_blanks_is_lost() {
        let text = "one two, a_word_that_is_much_longer_than_a_line ünd three";
        for columns in 0..60 {
            let lines = wrap(text, columns);
            assert_eq!(lines.concat().replace(' ', ""), text.replace(' ', ""), "{columns}");
            let widest = lines.iter().map(|line| line.chars().map(|c| 1 + usize::from(!c.is_ascii())).sum()).max();
            assert!(widest <= Some(columns.max(2)), "{columns}: {lines:?}");
        }
    }
}
