//! Fields: the parts of instructions, and the numbers, that take the value of a relocation. On all
//! architectures here instructions and numbers are little-endian.
//!
//! ```text
//! Bits { lowest: 5, width: 19, shift: 2 }     value: a signed multiple of 4
//!  31        24 23                    5 4    0
//! |            | value >> 2            |      |     the other bits of the instruction stay
//! ```
//!
//! Each field checks the range and the alignment of the value before it changes a byte.
#![forbid(unsafe_code)]

use super::Misfit;

/// A part of one or two instructions, or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// A signed number of this number of bytes.
    Signed(usize),
    /// An unsigned number of this number of bytes.
    Unsigned(usize),
    /// A number of this number of bytes that is signed or unsigned: the bits that are cut off are
    /// all zeros or all ones.
    Either(usize),
    /// A number of this number of bytes to which the value is added.
    Added(usize),
    /// A number of this number of bytes from which the value is subtracted.
    Subtracted(usize),
    /// Bits of a 32-bit instruction, for a signed multiple of `1 << shift`.
    Bits { lowest: u32, width: u32, shift: u32 },
    /// Bits of a 32-bit instruction, for the bits of an unsigned value from bit `shift` on. With
    /// `checked` the value may have no bits above them. Otherwise these are cut off.
    Part { lowest: u32, width: u32, shift: u32, checked: bool },
    /// `adr`, and `adrp` with a shift of 12: two bits from bit 29 and 19 from bit 5.
    Adr { shift: u32, checked: bool },
    /// The upper 20 bits of a value, to which the low 12 bits are added as a signed number: `lui`,
    /// `auipc`.
    High20,
    /// The low 12 bits of such a value, in an I-type instruction.
    Low12I,
    /// The low 12 bits of such a value, in an S-type instruction.
    Low12S,
    /// `auipc` and an I-type instruction behind it: both parts.
    High20Low12I,
    /// The field of a B-type instruction: conditional branches.
    Branch,
    /// The field of a J-type instruction: `jal`.
    Jump,
    /// The field of a compressed conditional branch.
    ShortBranch,
    /// The field of a compressed jump.
    ShortJump,
}

/// Returns the signed number that instructions add to the upper 20 bits of a value.
pub(crate) fn low_12_of_high(value: i64) -> i64 {
    (value << 52) >> 52
}

/// Returns whether a value is a signed number of `bits` bits.
fn is_signed(value: i64, bits: u32) -> bool {
    bits >= 64 || (value << (64 - bits)) >> (64 - bits) == value
}

/// Returns whether a value is an unsigned number of `bits` bits.
fn is_unsigned(value: i64, bits: u32) -> bool {
    bits >= 64 || value as u64 >> bits == 0
}

fn check(fits: bool, otherwise: Misfit) -> Result<(), Misfit> {
    if fits { Ok(()) } else { Err(otherwise) }
}

fn check_signed(value: i64, bits: u32, shift: u32) -> Result<(), Misfit> {
    check(value & ((1 << shift) - 1) == 0, Misfit::Misaligned)?;
    check(is_signed(value, bits), Misfit::OutOfRange)
}

impl Field {
    /// Returns the bytes of the instructions, or of the number.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Signed(len) | Self::Unsigned(len) | Self::Either(len) | Self::Added(len) | Self::Subtracted(len) => {
                len
            }
            Self::High20Low12I => 8,
            Self::ShortBranch | Self::ShortJump => 2,
            _ => 4,
        }
    }

    /// Puts a value in. After an error nothing has changed.
    pub(crate) fn put(self, bytes: &mut [u8], value: i64) -> Result<(), Misfit> {
        let bits = value as u32;
        match self {
            Self::Signed(len) => {
                check(is_signed(value, 8 * len as u32), Misfit::OutOfRange)?;
                put_number(bytes, len, value);
            }
            Self::Unsigned(len) => {
                check(is_unsigned(value, 8 * len as u32), Misfit::OutOfRange)?;
                put_number(bytes, len, value);
            }
            Self::Either(len) => {
                let fits = is_signed(value, 8 * len as u32) || is_unsigned(value, 8 * len as u32);
                check(fits, Misfit::OutOfRange)?;
                put_number(bytes, len, value);
            }
            Self::Added(len) => put_number(bytes, len, number(bytes, len).wrapping_add(value)),
            Self::Subtracted(len) => put_number(bytes, len, number(bytes, len).wrapping_sub(value)),
            Self::Bits { lowest, width, shift } => {
                check_signed(value, width + shift, shift)?;
                replace(bytes, mask(width) << lowest, ((value >> shift) as u32) << lowest);
            }
            Self::Part { lowest, width, shift, checked } => {
                check(!checked || is_unsigned(value, width + shift), Misfit::OutOfRange)?;
                // If the field counts in units, the bits below are zero. If the field is cut out of
                // an address, they belong to another relocation.
                check(shift >= 12 || value & ((1 << shift) - 1) == 0, Misfit::Misaligned)?;
                replace(bytes, mask(width) << lowest, ((value as u64 >> shift) as u32) << lowest);
            }
            Self::Adr { shift, checked } => {
                check(!checked || is_signed(value, 21 + shift), Misfit::OutOfRange)?;
                let value = (value >> shift) as u32;
                replace(bytes, 0x60ff_ffe0, (value & 3) << 29 | ((value >> 2) & 0x7_ffff) << 5);
            }
            Self::High20 => {
                check(is_signed(value.wrapping_add(0x800), 32), Misfit::OutOfRange)?;
                replace(bytes, 0xffff_f000, bits.wrapping_add(0x800));
            }
            Self::Low12I => replace(bytes, 0xfff0_0000, bits << 20),
            Self::Low12S => replace(bytes, 0xfe00_0f80, ((bits >> 5) & 0x7f) << 25 | (bits & 0x1f) << 7),
            Self::High20Low12I => {
                check(is_signed(value.wrapping_add(0x800), 32), Misfit::OutOfRange)?;
                let (high, low) = bytes.split_at_mut(4);
                Self::High20.put(high, value)?;
                Self::Low12I.put(low, value)?;
            }
            Self::Branch => {
                check_signed(value, 13, 1)?;
                let scattered =
                    (bits >> 12 & 1) << 31 | (bits >> 5 & 0x3f) << 25 | (bits >> 1 & 0xf) << 8 | (bits >> 11 & 1) << 7;
                replace(bytes, 0xfe00_0f80, scattered);
            }
            Self::Jump => {
                check_signed(value, 21, 1)?;
                let scattered = (bits >> 20 & 1) << 31
                    | (bits >> 1 & 0x3ff) << 21
                    | (bits >> 11 & 1) << 20
                    | (bits >> 12 & 0xff) << 12;
                replace(bytes, 0xffff_f000, scattered);
            }
            Self::ShortBranch => {
                check_signed(value, 9, 1)?;
                let scattered = (bits >> 8 & 1) << 12
                    | (bits >> 3 & 3) << 10
                    | (bits >> 6 & 3) << 5
                    | (bits >> 1 & 3) << 3
                    | (bits >> 5 & 1) << 2;
                replace_short(bytes, 0x1c7c, scattered as u16);
            }
            Self::ShortJump => {
                check_signed(value, 12, 1)?;
                let scattered = (bits >> 11 & 1) << 12
                    | (bits >> 4 & 1) << 11
                    | (bits >> 8 & 3) << 9
                    | (bits >> 10 & 1) << 8
                    | (bits >> 6 & 1) << 7
                    | (bits >> 7 & 1) << 6
                    | (bits >> 1 & 7) << 3
                    | (bits >> 5 & 1) << 2;
                replace_short(bytes, 0x1ffc, scattered as u16);
            }
        }
        Ok(())
    }
}

fn mask(width: u32) -> u32 {
    ((1_u64 << width) - 1) as u32
}

fn number(bytes: &[u8], len: usize) -> i64 {
    let mut wide = [0; 8];
    wide.iter_mut().zip(&bytes[..len]).for_each(|(to, from)| *to = *from);
    i64::from_le_bytes(wide)
}

fn put_number(bytes: &mut [u8], len: usize, value: i64) {
    bytes[..len].copy_from_slice(&value.to_le_bytes()[..len]);
}

/// Replaces the bits of `mask` in a 32-bit instruction.
fn replace(bytes: &mut [u8], mask: u32, value: u32) {
    if let Some(place) = bytes.first_chunk_mut::<4>() {
        *place = (u32::from_le_bytes(*place) & !mask | value & mask).to_le_bytes();
    }
}

/// Replaces the bits of `mask` in a 16-bit instruction.
fn replace_short(bytes: &mut [u8], mask: u16, value: u16) {
    if let Some(place) = bytes.first_chunk_mut::<2>() {
        *place = (u16::from_le_bytes(*place) & !mask | value & mask).to_le_bytes();
    }
}
