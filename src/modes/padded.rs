//! Writing a function and the padding behind it, in modes where each write is a system call.
#![forbid(unsafe_code)]

use crate::Error;

/// The limit for one write. Up to here code and padding are copied together first, which costs
/// little beside a write through the system.
const TOGETHER: usize = 1 << 10;

/// Calls `write` once with code and padding, if both are short. Otherwise it calls `write` with the
/// code, and once more with the padding if that is needed in any case.
pub(super) fn write(
    offset: usize,
    code: &[u8],
    padding: &[u8],
    always: bool,
    write: impl Fn(usize, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let len = code.len() + padding.len();
    if !padding.is_empty() && len <= TOGETHER {
        let mut both = [0; TOGETHER];
        both[..code.len()].copy_from_slice(code);
        both[code.len()..len].copy_from_slice(padding);
        return write(offset, &both[..len]);
    }
    write(offset, code)?;
    if always && !padding.is_empty() { write(offset + code.len(), padding) } else { Ok(()) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn short_functions_are_written_with_their_padding() {
        let pieces = |code: usize, padding: usize, always| {
            let seen = RefCell::new(Vec::new());
            let (code, padding) = (vec![1; code], vec![2; padding]);
            let ended = write(64, &code, &padding, always, |at, bytes| {
                assert!(bytes.iter().enumerate().all(|(n, byte)| *byte == 1 + u8::from(at + n >= 64 + code.len())));
                seen.borrow_mut().push((at, bytes.len()));
                Ok(())
            });
            assert!(ended.is_ok());
            seen.into_inner()
        };
        assert_eq!(pieces(6, 10, false), [(64, 16)]);
        assert_eq!(pieces(1020, 4, false), [(64, 1024)]);
        assert_eq!(pieces(1024, 0, true), [(64, 1024)]);
        assert_eq!(pieces(1030, 10, false), [(64, 1030)]);
        assert_eq!(pieces(1030, 10, true), [(64, 1030), (1094, 10)]);
    }
}
