//! The kinds of relocations, by number.
//!
//! - `RelocKind` is what the header shows. Numbers from 1 are for x86-64, from 101 for AArch64, and
//!   from 201 for RISC-V. Programs that are already compiled contain its numbers, so a number must
//!   not change.
//! - `KINDS` pairs each number with the crate's `Reloc`.
//! - `RelocKind::read` turns a number into a `Reloc`. It takes a `u32`, because C may pass any
//!   number, and an unknown one in an enum is undefined behaviour. An unknown number is
//!   `Failure::Invalid`.
//!
//! This file has no C function. The functions that link a batch call `read`. A test compares the
//! kinds with those of the crate's public API, because a kind without a number could not be used
//! from C.

use jit::Reloc;

use crate::failure::Failure;

/// A kind of relocation: where in the bytes a target goes, and how. The formulas are those of ELF,
/// with the addend given ("RELA"). A branch that does not reach goes through a stub of its slot;
/// kinds that load an address from a cell always take a stub.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelocKind {
    /// `R_X86_64_64`
    X86Abs64 = 1,
    /// `R_X86_64_32`
    X86Abs32 = 2,
    /// `R_X86_64_32S`
    X86Abs32S = 3,
    /// `R_X86_64_PC64`
    X86Pc64 = 4,
    /// `R_X86_64_PC32`
    X86Pc32 = 5,
    /// `R_X86_64_PC8`
    X86Pc8 = 6,
    /// `R_X86_64_PLT32`
    X86Call32 = 7,
    /// `R_X86_64_GOTPCREL`
    X86GotPc32 = 8,
    /// `R_AARCH64_ABS64`
    Arm64Abs64 = 101,
    /// `R_AARCH64_ABS32`
    Arm64Abs32 = 102,
    /// `R_AARCH64_PREL64`
    Arm64Prel64 = 103,
    /// `R_AARCH64_PREL32`
    Arm64Prel32 = 104,
    /// `R_AARCH64_CALL26`
    Arm64Call26 = 105,
    /// `R_AARCH64_JUMP26`
    Arm64Jump26 = 106,
    /// `R_AARCH64_CONDBR19`
    Arm64CondBr19 = 107,
    /// `R_AARCH64_TSTBR14`
    Arm64TstBr14 = 108,
    /// `R_AARCH64_LD_PREL_LO19`
    Arm64LdPrelLo19 = 109,
    /// `R_AARCH64_ADR_PREL_LO21`
    Arm64AdrPrelLo21 = 110,
    /// `R_AARCH64_ADR_PREL_PG_HI21`
    Arm64AdrPrelPgHi21 = 111,
    /// `R_AARCH64_ADD_ABS_LO12_NC`
    Arm64AddAbsLo12Nc = 112,
    /// `R_AARCH64_LDST8_ABS_LO12_NC`
    Arm64Ldst8AbsLo12Nc = 113,
    /// `R_AARCH64_LDST16_ABS_LO12_NC`
    Arm64Ldst16AbsLo12Nc = 114,
    /// `R_AARCH64_LDST32_ABS_LO12_NC`
    Arm64Ldst32AbsLo12Nc = 115,
    /// `R_AARCH64_LDST64_ABS_LO12_NC`
    Arm64Ldst64AbsLo12Nc = 116,
    /// `R_AARCH64_LDST128_ABS_LO12_NC`
    Arm64Ldst128AbsLo12Nc = 117,
    /// `R_AARCH64_MOVW_UABS_G0`
    Arm64MovwUabsG0 = 118,
    /// `R_AARCH64_MOVW_UABS_G0_NC`
    Arm64MovwUabsG0Nc = 119,
    /// `R_AARCH64_MOVW_UABS_G1`
    Arm64MovwUabsG1 = 120,
    /// `R_AARCH64_MOVW_UABS_G1_NC`
    Arm64MovwUabsG1Nc = 121,
    /// `R_AARCH64_MOVW_UABS_G2`
    Arm64MovwUabsG2 = 122,
    /// `R_AARCH64_MOVW_UABS_G2_NC`
    Arm64MovwUabsG2Nc = 123,
    /// `R_AARCH64_MOVW_UABS_G3`
    Arm64MovwUabsG3 = 124,
    /// `R_AARCH64_ADR_GOT_PAGE`
    Arm64AdrGotPage = 125,
    /// `R_AARCH64_LD64_GOT_LO12_NC`
    Arm64Ld64GotLo12Nc = 126,
    /// `R_RISCV_64`
    RiscvAbs64 = 201,
    /// `R_RISCV_32`
    RiscvAbs32 = 202,
    /// `R_RISCV_32_PCREL`
    RiscvPcrel32 = 203,
    /// `R_RISCV_ADD32`
    RiscvAdd32 = 204,
    /// `R_RISCV_ADD64`
    RiscvAdd64 = 205,
    /// `R_RISCV_SUB32`
    RiscvSub32 = 206,
    /// `R_RISCV_SUB64`
    RiscvSub64 = 207,
    /// `R_RISCV_CALL_PLT`
    RiscvCall = 208,
    /// `R_RISCV_JAL`
    RiscvJal = 209,
    /// `R_RISCV_BRANCH`
    RiscvBranch = 210,
    /// `R_RISCV_RVC_JUMP`
    RiscvRvcJump = 211,
    /// `R_RISCV_RVC_BRANCH`
    RiscvRvcBranch = 212,
    /// `R_RISCV_HI20`
    RiscvHi20 = 213,
    /// `R_RISCV_LO12_I`
    RiscvLo12I = 214,
    /// `R_RISCV_LO12_S`
    RiscvLo12S = 215,
    /// `R_RISCV_PCREL_HI20`
    RiscvPcrelHi20 = 216,
    /// `R_RISCV_GOT_HI20`
    RiscvGotHi20 = 217,
    /// `R_RISCV_PCREL_LO12_I`
    RiscvPcrelLo12I = 218,
    /// `R_RISCV_PCREL_LO12_S`
    RiscvPcrelLo12S = 219,
}

/// What each is for the crate.
const KINDS: [(RelocKind, Reloc); 53] = [
    (RelocKind::X86Abs64, Reloc::X86Abs64),
    (RelocKind::X86Abs32, Reloc::X86Abs32),
    (RelocKind::X86Abs32S, Reloc::X86Abs32S),
    (RelocKind::X86Pc64, Reloc::X86Pc64),
    (RelocKind::X86Pc32, Reloc::X86Pc32),
    (RelocKind::X86Pc8, Reloc::X86Pc8),
    (RelocKind::X86Call32, Reloc::X86Call32),
    (RelocKind::X86GotPc32, Reloc::X86GotPc32),
    (RelocKind::Arm64Abs64, Reloc::Arm64Abs64),
    (RelocKind::Arm64Abs32, Reloc::Arm64Abs32),
    (RelocKind::Arm64Prel64, Reloc::Arm64Prel64),
    (RelocKind::Arm64Prel32, Reloc::Arm64Prel32),
    (RelocKind::Arm64Call26, Reloc::Arm64Call26),
    (RelocKind::Arm64Jump26, Reloc::Arm64Jump26),
    (RelocKind::Arm64CondBr19, Reloc::Arm64CondBr19),
    (RelocKind::Arm64TstBr14, Reloc::Arm64TstBr14),
    (RelocKind::Arm64LdPrelLo19, Reloc::Arm64LdPrelLo19),
    (RelocKind::Arm64AdrPrelLo21, Reloc::Arm64AdrPrelLo21),
    (RelocKind::Arm64AdrPrelPgHi21, Reloc::Arm64AdrPrelPgHi21),
    (RelocKind::Arm64AddAbsLo12Nc, Reloc::Arm64AddAbsLo12Nc),
    (RelocKind::Arm64Ldst8AbsLo12Nc, Reloc::Arm64Ldst8AbsLo12Nc),
    (RelocKind::Arm64Ldst16AbsLo12Nc, Reloc::Arm64Ldst16AbsLo12Nc),
    (RelocKind::Arm64Ldst32AbsLo12Nc, Reloc::Arm64Ldst32AbsLo12Nc),
    (RelocKind::Arm64Ldst64AbsLo12Nc, Reloc::Arm64Ldst64AbsLo12Nc),
    (RelocKind::Arm64Ldst128AbsLo12Nc, Reloc::Arm64Ldst128AbsLo12Nc),
    (RelocKind::Arm64MovwUabsG0, Reloc::Arm64MovwUabsG0),
    (RelocKind::Arm64MovwUabsG0Nc, Reloc::Arm64MovwUabsG0Nc),
    (RelocKind::Arm64MovwUabsG1, Reloc::Arm64MovwUabsG1),
    (RelocKind::Arm64MovwUabsG1Nc, Reloc::Arm64MovwUabsG1Nc),
    (RelocKind::Arm64MovwUabsG2, Reloc::Arm64MovwUabsG2),
    (RelocKind::Arm64MovwUabsG2Nc, Reloc::Arm64MovwUabsG2Nc),
    (RelocKind::Arm64MovwUabsG3, Reloc::Arm64MovwUabsG3),
    (RelocKind::Arm64AdrGotPage, Reloc::Arm64AdrGotPage),
    (RelocKind::Arm64Ld64GotLo12Nc, Reloc::Arm64Ld64GotLo12Nc),
    (RelocKind::RiscvAbs64, Reloc::RiscvAbs64),
    (RelocKind::RiscvAbs32, Reloc::RiscvAbs32),
    (RelocKind::RiscvPcrel32, Reloc::RiscvPcrel32),
    (RelocKind::RiscvAdd32, Reloc::RiscvAdd32),
    (RelocKind::RiscvAdd64, Reloc::RiscvAdd64),
    (RelocKind::RiscvSub32, Reloc::RiscvSub32),
    (RelocKind::RiscvSub64, Reloc::RiscvSub64),
    (RelocKind::RiscvCall, Reloc::RiscvCall),
    (RelocKind::RiscvJal, Reloc::RiscvJal),
    (RelocKind::RiscvBranch, Reloc::RiscvBranch),
    (RelocKind::RiscvRvcJump, Reloc::RiscvRvcJump),
    (RelocKind::RiscvRvcBranch, Reloc::RiscvRvcBranch),
    (RelocKind::RiscvHi20, Reloc::RiscvHi20),
    (RelocKind::RiscvLo12I, Reloc::RiscvLo12I),
    (RelocKind::RiscvLo12S, Reloc::RiscvLo12S),
    (RelocKind::RiscvPcrelHi20, Reloc::RiscvPcrelHi20),
    (RelocKind::RiscvGotHi20, Reloc::RiscvGotHi20),
    (RelocKind::RiscvPcrelLo12I, Reloc::RiscvPcrelLo12I),
    (RelocKind::RiscvPcrelLo12S, Reloc::RiscvPcrelLo12S),
];

impl RelocKind {
    /// What a number of C means, which may be any.
    pub(crate) fn read(number: u32) -> Result<Reloc, Failure> {
        let known = KINDS.iter().find(|(kind, _)| *kind as u32 == number);
        let unknown = || Failure::Invalid(format!("{number} is no kind of relocation").into());
        known.map(|(_, kind)| *kind).ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_the_crate_has_a_number() {
        let api = include_str!("../../docs/public-api.txt");
        let kinds = api.lines().filter_map(|line| line.strip_prefix("pub gaia_jit::Reloc::"));
        let mut kinds: Vec<&str> = kinds.collect();
        let mut here: Vec<String> = KINDS.iter().map(|(kind, _)| format!("{kind:?}")).collect();
        kinds.sort_unstable();
        here.sort_unstable();
        assert_eq!(kinds, here);
        assert!(KINDS.iter().all(|(kind, reloc)| format!("{kind:?}") == format!("{reloc:?}")));
    }

    #[test]
    fn other_numbers_are_refused() {
        assert!(matches!(RelocKind::read(RelocKind::Arm64Jump26 as u32), Ok(Reloc::Arm64Jump26)));
        assert!(matches!(RelocKind::read(0), Err(Failure::Invalid(_))));
        assert!(matches!(RelocKind::read(u32::MAX), Err(Failure::Invalid(_))));
    }
}
