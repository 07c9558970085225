//! The check of call frame information, and its relocation to the address of its function.
//!
//! # Layout of the result
//!
//! ```text
//! CIE, CIE, …   as given, padded
//! FDE, 0        the distance to its CIE and its first address relocated, padded, with a terminator after it
//! FDE, 0
//! ```
//!
//! `__register_frame` differs between unwinders:
//!
//! - libgcc's reads entry after entry until a zero;
//! - LLVM's takes one FDE, and reads nothing after it.
//!
//! Both find the CIE of an FDE by its distance. So the address of an FDE is right for both if a
//! zero follows it and its CIE lies somewhere before it. It does not matter which unwinder there
//! is.
//!
//! Entries are padded with `DW_CFA_nop` (0) to whole words, because libgcc reads them with that
//! alignment.
#![forbid(unsafe_code)]

use super::reader::Reader;
use super::{Refusal, instructions};

/// `DW_EH_PE_absptr` and `DW_EH_PE_omit`.
const ABSOLUTE: u8 = 0;
const OMITTED: u8 = 0xff;

const WORD: usize = size_of::<usize>();

/// Relocated call frame information, in whole words, as the unwinder reads it.
#[derive(Debug)]
pub(super) struct Frames {
    /// Not a `Box`, because a move of a `Box` asserts that nobody else has a pointer to it.
    words: Vec<usize>,
    /// The offsets of the FDEs, in words.
    entries: Box<[u32]>,
}

impl Frames {
    /// Returns the addresses of the FDEs. Each FDE is followed by a zero.
    pub(super) fn entries(&self) -> impl Iterator<Item = *const usize> + '_ {
        self.entries.iter().map(|at| self.words.as_ptr().wrapping_add(*at as usize))
    }
}

struct Cie {
    /// The offset in the given bytes.
    from: usize,
    /// The offset in the result.
    to: usize,
    /// Whether its FDEs have a length of augmentation data.
    sized: bool,
    /// Whether that data contains an address.
    has_lsda: bool,
}

/// Checks `bytes`, and returns a copy for a function of `size` bytes at `start`. With `start` 0 it
/// is only a check.
///
/// # Errors
/// A [`Refusal`] of any kind except `Form`, `Windows`, `Forked` and `NoTable`.
pub(super) fn relocate(bytes: &[u8], start: usize, size: usize) -> Result<Frames, Refusal> {
    let mut reader = Reader::new(bytes);
    let mut out: Vec<u8> = Vec::with_capacity(bytes.len() + 4 * WORD);
    let mut fdes: Vec<(usize, Reader<'_>)> = Vec::new();
    let mut cies: Vec<Cie> = Vec::new();
    while !reader.is_empty() {
        let at = reader.at();
        let len = reader.u32()?;
        match len {
            // A terminator.
            0 => break,
            u32::MAX => return Err(Refusal::Version { at, version: 64 }),
            _ => {}
        }
        let mut entry = reader.split(len as usize)?;
        let whole = entry;
        let id_at = entry.at();
        let id = entry.u32()?;
        if id == 0 {
            let (sized, has_lsda) = check_cie(at, entry)?;
            cies.push(Cie { from: at, to: out.len(), sized, has_lsda });
            append(&mut out, whole.rest(), at)?;
        } else {
            // The FDE is checked after all CIEs, and is laid out after them.
            let cie_at = id_at.checked_sub(id as usize).ok_or(Refusal::NoCie { at })?;
            fdes.push((cie_at, whole));
        }
    }
    let mut entries = Vec::with_capacity(fdes.len());
    let mut ranges: Vec<(usize, usize, usize)> = Vec::with_capacity(fdes.len());
    for (cie_at, whole) in fdes {
        let at = whole.at() - 4;
        let found = cies.binary_search_by_key(&cie_at, |cie| cie.from).ok().and_then(|index| cies.get(index));
        let cie = found.ok_or(Refusal::NoCie { at })?;
        let (first, len) = check_fde(whole, cie)?;
        let outside = Refusal::Range { at, start: first, len, size };
        let end = first.checked_add(len).filter(|end| *end <= size && len > 0).ok_or(outside)?;
        ranges.push((first, end, at));
        let to = out.len();
        entries.push(u32::try_from(to / WORD).map_err(|_| Refusal::Truncated { at })?);
        append(&mut out, whole.rest(), at)?;
        let distance = u32::try_from(to + 4 - cie.to).map_err(|_| Refusal::Truncated { at })?;
        put(&mut out, to + 4, &distance.to_ne_bytes());
        put(&mut out, to + 8, &start.wrapping_add(first).to_ne_bytes());
        out.resize(out.len() + WORD, 0);
    }
    if entries.is_empty() {
        return Err(Refusal::NoFunction);
    }
    ranges.sort_unstable();
    if let Some([_, (first, end, at)]) = ranges.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        return Err(Refusal::Range { at: *at, start: *first, len: end - first, size });
    }
    let words = out.chunks(WORD).map(|chunk| {
        let mut word = [0; WORD];
        word[..chunk.len()].copy_from_slice(chunk);
        usize::from_ne_bytes(word)
    });
    Ok(Frames { words: words.collect(), entries: entries.into() })
}

/// Appends an entry with its length before it and padding after it.
fn append(out: &mut Vec<u8>, entry: &[u8], at: usize) -> Result<(), Refusal> {
    let whole = (4 + entry.len()).next_multiple_of(WORD);
    let len = u32::try_from(whole - 4).map_err(|_| Refusal::Truncated { at })?;
    let end = out.len() + whole;
    out.extend_from_slice(&len.to_ne_bytes());
    out.extend_from_slice(entry);
    out.resize(end, 0);
    Ok(())
}

/// Overwrites bytes that were appended.
fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = out.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Checks a CIE from its version on. Returns whether its FDEs have augmentation data, and whether
/// that data contains an address.
fn check_cie(at: usize, mut cie: Reader<'_>) -> Result<(bool, bool), Refusal> {
    let version = cie.u8()?;
    if !matches!(version, 1 | 3) {
        return Err(Refusal::Version { at, version });
    }
    let rest = cie.rest();
    let letters = rest.iter().position(|byte| *byte == 0).ok_or(Refusal::Truncated { at: cie.at() })?;
    let augmentation = cie.take(letters)?;
    cie.u8()?;
    // Code and data alignment, register of the return address.
    cie.skip_leb()?;
    cie.skip_leb()?;
    if version == 1 {
        cie.u8()?;
    } else {
        cie.skip_leb()?;
    }
    let mut has_lsda = false;
    let sized = match augmentation.split_first() {
        None => false,
        Some((b'z', letters)) => {
            let len = usize::try_from(cie.uleb()?).map_err(|_| Refusal::Truncated { at })?;
            let mut data = cie.split(len)?;
            let mut is_last = false;
            for letter in letters {
                let encoding = match letter {
                    // `B` has no byte, but libgcc skips one for it, and takes the next for an
                    // encoding.
                    b'R' | b'L' | b'P' if !is_last => data.u8()?,
                    b'S' => continue,
                    b'B' => {
                        is_last = true;
                        continue;
                    }
                    _ => return Err(Refusal::Augmentation { at }),
                };
                // A personality that is omitted makes libgcc abort when it searches any function of
                // the process.
                match (letter, encoding) {
                    (b'R', ABSOLUTE) | (b'L', OMITTED) => {}
                    (b'L', ABSOLUTE) => has_lsda = true,
                    (b'P', ABSOLUTE) => data.address().map(drop)?,
                    _ => return Err(Refusal::Encoding { at, encoding }),
                }
            }
            true
        }
        Some(_) => return Err(Refusal::Augmentation { at }),
    };
    instructions::check(cie)?;
    Ok((sized, has_lsda))
}

/// Checks an FDE. Returns the offset in the function of the bytes that it describes, and their
/// number.
fn check_fde(mut fde: Reader<'_>, cie: &Cie) -> Result<(usize, usize), Refusal> {
    fde.u32()?;
    let (first, len) = (fde.address()?, fde.address()?);
    if cie.sized {
        let bytes = usize::try_from(fde.uleb()?).map_err(|_| Refusal::Truncated { at: fde.at() })?;
        let mut data = fde.split(bytes)?;
        if cie.has_lsda {
            data.address()?;
        }
    }
    instructions::check(fde)?;
    Ok((first, len))
}
