//! The system's list of this process's mappings, on Linux and Android.
#![forbid(unsafe_code)]

use super::{Refused, Result};

/// A mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) writable: bool,
    pub(super) executable: bool,
    /// Whether it is the C library's heap, which grows upwards.
    pub(super) is_heap: bool,
    /// Whether it is the first thread's stack, which grows downwards.
    pub(super) is_stack: bool,
}

/// Returns all mappings, in the order of their addresses.
pub(super) fn mappings() -> Result<Vec<Mapping>> {
    // Read as bytes, because names of files may be any bytes.
    let list = std::fs::read("/proc/self/maps").map_err(|e| Refused::new("open of /proc/self/maps", e))?;
    Ok(list.split(|byte| *byte == b'\n').filter_map(mapping).collect())
}

/// Parses one line: `start-end rights offset device inode name`.
fn mapping(line: &[u8]) -> Option<Mapping> {
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let (range, rights, rest) = (words.next()?, words.next()?, words.next()?);
    let dash = range.iter().position(|byte| *byte == b'-')?;
    let number = |digits: &[u8]| usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    Some(Mapping {
        start: number(&range[..dash])?,
        end: number(&range[dash + 1..])?,
        writable: rights.get(1) == Some(&b'w'),
        executable: rights.get(2) == Some(&b'x'),
        is_heap: rest.ends_with(b" [heap]"),
        is_stack: rest.ends_with(b" [stack]"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_any_bytes() {
        let line = b"7f0012345000-7f0012346000 r-xp 00001000 fe:00 77   /tmp/\xff \x80-- rw [heap] x";
        let of_file = Mapping {
            start: 0x7f00_1234_5000_u64 as usize,
            end: 0x7f00_1234_6000_u64 as usize,
            writable: false,
            executable: true,
            is_heap: false,
            is_stack: false,
        };
        if cfg!(target_pointer_width = "64") {
            assert_eq!(mapping(line), Some(of_file));
        }
        let heap = mapping(b"1000-3000 rw-p 0 00:00 0     [heap]").unwrap();
        assert!(heap.writable && !heap.executable && heap.is_heap && !heap.is_stack);
        assert!(mapping(b"1000-3000 rw-p 0 00:00 0     [stack]").unwrap().is_stack);
        for broken in [&b""[..], b"1000", b"1000-", b"1000 rw-p 0", b"x-y rw-p 0"] {
            assert_eq!(mapping(broken), None);
        }
    }

    #[test]
    fn this_program_is_mapped() {
        let here = (names_are_any_bytes as *const u8).addr();
        let list = mappings().unwrap();
        assert!(list.windows(2).all(|pair| pair[0].end <= pair[1].start));
        assert!(list.iter().any(|mapping| (mapping.start..mapping.end).contains(&here) && mapping.executable));
    }
}
