//! The names of functions in files that other programs read.
//!
//! Tried with `perf` 6.1 and gdb 13: blanks at either end, `[`, `@plt`, `$x`, `.L`, digits, quotes,
//! any letters and 70,000 bytes are all shown unchanged. A perf map is read line by line. `perf`
//! skips a line with a name of less than three bytes.
#![forbid(unsafe_code)]

use crate::Published;

/// Returns whether some reader takes this letter for the end of a line or of a string.
fn ends_something(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}')
}

/// Appends a function's name as [`push`] does, and blanks after it if `perf` would skip its line in
/// a map.
#[cfg(feature = "perf")]
pub(super) fn push_for_map(out: &mut Vec<u8>, function: &Published<'_>) {
    let end = out.len() + 3;
    push(out, function);
    if out.len() < end {
        out.resize(end, b' ');
    }
}

/// Appends a function's name without control characters, because a line end would begin another
/// entry of a perf map, and a zero would end a string.
pub(super) fn push(out: &mut Vec<u8>, function: &Published<'_>) {
    let Some(name) = function.name.filter(|name| !name.is_empty()) else {
        out.extend_from_slice(b"jit_");
        return match function.block.tag {
            0 => {
                out.extend_from_slice(b"0x");
                push_hex(out, function.block.start.addr());
            }
            tag => out.extend_from_slice(tag.to_string().as_bytes()),
        };
    };
    let from = out.len();
    out.extend_from_slice(name.as_bytes());
    // Usually one pass that finds nothing.
    if name.bytes().any(|byte| !(b' '..0x7f).contains(&byte)) && name.contains(ends_something) {
        out.truncate(from);
        out.extend_from_slice(name.replace(ends_something, "_").as_bytes());
    }
}

/// Returns how many bytes [`push`] appends at most.
#[cfg(feature = "perf")]
pub(super) fn most(function: &Published<'_>) -> usize {
    function.name.map_or(0, str::len).max("jit_".len() + 20)
}

/// Appends a number in hexadecimal, without leading zeros.
pub(super) fn push_hex(out: &mut Vec<u8>, number: usize) {
    let digits = number.checked_ilog2().map_or(1, |top| top / 4 + 1);
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[number >> (4 * digit) & 15]);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn hexadecimal_is_what_the_formatter_writes() {
        for number in [0, 1, 9, 15, 16, 0xdead_beef, usize::MAX, usize::MAX >> 1, 0x1000_0000] {
            let mut out = Vec::new();
            super::push_hex(&mut out, number);
            assert_eq!(out, format!("{number:x}").into_bytes());
        }
    }
}
