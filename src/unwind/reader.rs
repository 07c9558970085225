//! A reader of the numbers in `.eh_frame`, from bytes that may be invalid.
#![forbid(unsafe_code)]

use super::Refusal;

/// A part of the bytes, and a position in it. Offsets count from the start of all bytes.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, end: bytes.len() }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.end
    }

    /// Returns a reader of the next `len` bytes, and skips them.
    pub(super) fn split(&mut self, len: usize) -> Result<Reader<'a>, Refusal> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.end);
        let end = end.ok_or(Refusal::Truncated { at: self.at })?;
        let part = Reader { bytes: self.bytes, at: self.at, end };
        self.at = end;
        Ok(part)
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Refusal> {
        let at = self.at;
        self.split(len)?;
        self.bytes.get(at..at + len).ok_or(Refusal::Truncated { at })
    }

    /// Returns the bytes that are left.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..self.end).unwrap_or_default()
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let at = self.at;
        self.take(N)?.try_into().map_err(|_| Refusal::Truncated { at })
    }

    pub(super) fn u8(&mut self) -> Result<u8, Refusal> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Refusal> {
        self.array().map(u32::from_ne_bytes)
    }

    pub(super) fn address(&mut self) -> Result<usize, Refusal> {
        self.array().map(usize::from_ne_bytes)
    }

    /// Reads an unsigned number of any length. Bits beyond 64 are dropped; no number here has them.
    pub(super) fn uleb(&mut self) -> Result<u64, Refusal> {
        let (mut value, mut shift) = (0u64, 0u32);
        loop {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            shift = shift.saturating_add(7);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
    }

    /// Skips a number. Signed and unsigned numbers end in the same way.
    pub(super) fn skip_leb(&mut self) -> Result<(), Refusal> {
        self.uleb().map(drop)
    }

    /// Skips a length and as many bytes.
    pub(super) fn skip_block(&mut self) -> Result<(), Refusal> {
        let at = self.at;
        let len = usize::try_from(self.uleb()?).map_err(|_| Refusal::Truncated { at })?;
        self.take(len).map(drop)
    }
}
