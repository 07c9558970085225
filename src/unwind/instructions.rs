//! The check that call frame instructions are complete and known. It is necessary because unwinders
//! trust them: they read past the end, or abort.
//!
//! The source is "DWARF Debugging Information Format" 5, section 6.4.2 and table 7.29. The
//! instructions from `0x1c` on are those of GNU and AArch64.
#![forbid(unsafe_code)]

use super::Refusal;
use super::reader::Reader;

/// Checks the instructions of a CIE or FDE. Their meaning is not checked, as that of code is not.
///
/// # Errors
/// - [`Refusal::Truncated`] if an instruction is not complete.
/// - [`Refusal::Instruction`] if an instruction is not known or not allowed.
pub(super) fn check(mut program: Reader<'_>) -> Result<(), Refusal> {
    let mut remembered = 0usize;
    while !program.is_empty() {
        let at = program.at();
        let opcode = program.u8()?;
        match opcode {
            // Advance, restore; nop; of AArch64 or SPARC.
            0x40..=0x7f | 0xc0..=0xff | 0x00 | 0x2d => {}
            // Offset of a register; extended restore, undefined, same value, CFA register and
            // offset, both also signed; size of arguments.
            0x80..=0xbf | 0x06..=0x08 | 0x0d | 0x0e | 0x13 | 0x2e => program.skip_leb()?,
            // Advance by one, two, four bytes' worth.
            0x02 => program.take(1).map(drop)?,
            0x03 => program.take(2).map(drop)?,
            0x04 => program.take(4).map(drop)?,
            // Extended offset, register, CFA; signed; value offsets; negative offset.
            0x05 | 0x09 | 0x0c | 0x11 | 0x12 | 0x14 | 0x15 | 0x2f => {
                program.skip_leb()?;
                program.skip_leb()?;
            }
            0x0a => remembered += 1,
            0x0b => remembered = remembered.checked_sub(1).ok_or(Refusal::Instruction { at, opcode })?,
            // Expressions.
            0x0f => program.skip_block()?,
            0x10 | 0x16 => {
                program.skip_leb()?;
                program.skip_block()?;
            }
            // Among them `DW_CFA_set_loc`, whose address would have to be relocated.
            _ => return Err(Refusal::Instruction { at, opcode }),
        }
    }
    Ok(())
}
