//! Patches calls, once the addresses are known.

use super::{Piece, Relocation, RelocationKind};

/// Patches the calls of `piece`, whose bytes are in `bytes` and which will run at `address`. `target` gives the address
/// of any piece of the same program.
pub(crate) fn link(
    piece: &Piece,
    bytes: &mut [u8],
    address: usize,
    target: impl Fn(usize) -> usize,
) -> Result<(), String> {
    for relocation in &piece.relocations {
        patch(relocation, bytes, address, target(relocation.target))
            .ok_or_else(|| format!("{}: a call is out of reach", piece.name))?;
    }
    Ok(())
}

/// `None` if the target cannot be reached from here. An arena lies within branch range of itself, so that a call from
/// one of its blocks to another never is out of reach.
fn patch(relocation: &Relocation, bytes: &mut [u8], address: usize, target: usize) -> Option<()> {
    let at = relocation.offset;
    let distance = (target as i64).wrapping_add(relocation.addend).wrapping_sub(address as i64 + at as i64);
    match relocation.kind {
        RelocationKind::X86Relative32 => {
            let distance = i32::try_from(distance).ok()?;
            bytes.get_mut(at..at + 4)?.copy_from_slice(&distance.to_le_bytes());
        }
        RelocationKind::Arm64Call => {
            let words = distance >> 2;
            if !(-(1 << 25)..1 << 25).contains(&words) {
                return None;
            }
            replace_bits(bytes, at, 0x03ff_ffff, words as u32)?;
        }
        RelocationKind::RiscvCall => {
            let distance = i32::try_from(distance).ok()? as u32;
            // `jalr` sign-extends its 12 bits; the upper 20 make up for it.
            let upper = distance.wrapping_add(0x800) & 0xffff_f000;
            let lower = distance.wrapping_sub(upper) & 0xfff;
            replace_bits(bytes, at, 0xffff_f000, upper)?;
            replace_bits(bytes, at + 4, 0xfff0_0000, lower << 20)?;
        }
    }
    Some(())
}

/// Replaces the bits of `mask` in the instruction at an offset. Instructions are little-endian on both architectures
/// that come here, whatever the data is.
fn replace_bits(bytes: &mut [u8], at: usize, mask: u32, value: u32) -> Option<()> {
    let place = bytes.get_mut(at..)?.first_chunk_mut::<4>()?;
    *place = (u32::from_le_bytes(*place) & !mask | value & mask).to_le_bytes();
    Some(())
}
