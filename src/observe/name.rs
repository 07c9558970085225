//! What functions are called in files that others read.
#![forbid(unsafe_code)]

use crate::Published;

/// Appends a function's name, without control characters: a line end would begin another entry of a perf map, and a zero
/// would end a string.
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
    // As a rule one pass that finds nothing.
    if name.bytes().any(|byte| !(b' '..0x7f).contains(&byte)) && name.contains(char::is_control) {
        out.truncate(from);
        out.extend_from_slice(name.replace(char::is_control, "_").as_bytes());
    }
}

/// Bytes that [`push`] appends at most.
#[cfg(all(feature = "perf", target_os = "linux"))]
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
