//! The one table of relocations: name, number, formula, field and architecture of each kind.
//!
//! The macro `relocations` makes of it the public enum [`Reloc`] and the function that
//! leads from a kind to its [`Spec`]. A new kind is one line here, and lines in `vectors.txt` that
//! an assembler and a linker made.
//!
//! ```text
//! kind --> Spec { architecture, formula (super::Formula), field (super::field) }
//! ```
//!
//! `link` computes the formula from the place, the target and the addend, and puts the value into
//! the bits of the field. The numbers are those of the ELF supplement of each architecture.
#![forbid(unsafe_code)]

use super::field::Field::{self, *};
use super::{Formula, Via};

/// The architecture that a relocation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    X86_64,
    Arm64,
    Riscv64,
}

impl Architecture {
    /// Returns whether this program runs on the architecture.
    pub(crate) fn is_here(self) -> bool {
        match self {
            Self::X86_64 => cfg!(target_arch = "x86_64"),
            Self::Arm64 => cfg!(target_arch = "aarch64"),
            Self::Riscv64 => cfg!(target_arch = "riscv64"),
        }
    }
}

/// The properties of one kind of relocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) architecture: Architecture,
    pub(super) formula: Formula,
    pub(super) via: Via,
    pub(super) field: Field,
}

macro_rules! relocations {
    ($($(#[$doc:meta])* $kind:ident = $name:literal $architecture:ident $formula:ident $via:expr, $field:expr;)+) => {
        /// A kind of relocation, for [`Batch::link`](crate::Batch::link). It defines where in the
        /// bytes a target is put, and how.
        ///
        /// `S` is the address of the target, `A` the addend, `P` the address of the place.
        /// `page(x)` is `x` without its low 12 bits. `stub` means: if the target is out of range, a
        /// [stub](crate::Batch::reserve_with_stubs) of the slot is used that leads to the target.
        /// `cell` is the word in such a stub that contains the target's address.
        ///
        /// | kind | in ELF | in Cranelift | formula | range, unit |
        /// |---|---|---|---|---|
        /// | `X86Abs64` | `R_X86_64_64` | `Abs8` | `S + A` | all |
        /// | `X86Abs32` | `R_X86_64_32` | `Abs4` | `S + A` | 0 to 4 GiB |
        /// | `X86Abs32S` | `R_X86_64_32S` | | `S + A` | ±2 GiB |
        /// | `X86Pc64` | `R_X86_64_PC64` | | `S + A - P` | all |
        /// | `X86Pc32` | `R_X86_64_PC32` | `X86PCRel4` | `S + A - P` | ±2 GiB |
        /// | `X86Pc8` | `R_X86_64_PC8` | | `S + A - P` | ±128 |
        /// | `X86Call32` | `R_X86_64_PLT32` | `X86CallPCRel4`, `X86CallPLTRel4` | `S + A - P`, stub | ±2 GiB |
        /// | `X86GotPc32` | `R_X86_64_GOTPCREL`, `GOTPCRELX`, `REX_GOTPCRELX` | `X86GOTPCRel4` | `cell + A - P` | ±2 GiB |
        /// | `Arm64Abs64`, `Arm64Abs32` | `R_AARCH64_ABS64`, `ABS32` | `Abs8`, `Abs4` | `S + A` | all; -2 to 4 GiB |
        /// | `Arm64Prel64`, `Arm64Prel32` | `R_AARCH64_PREL64`, `PREL32` | | `S + A - P` | all; -2 to 4 GiB |
        /// | `Arm64Call26`, `Arm64Jump26` | `R_AARCH64_CALL26`, `JUMP26` | `Arm64Call` | `S + A - P`, stub | ±128 MiB, 4 |
        /// | `Arm64CondBr19` | `R_AARCH64_CONDBR19` | | `S + A - P` | ±1 MiB, 4 |
        /// | `Arm64TstBr14` | `R_AARCH64_TSTBR14` | | `S + A - P` | ±32 KiB, 4 |
        /// | `Arm64LdPrelLo19` | `R_AARCH64_LD_PREL_LO19` | | `S + A - P` | ±1 MiB, 4 |
        /// | `Arm64AdrPrelLo21` | `R_AARCH64_ADR_PREL_LO21` | | `S + A - P` | ±1 MiB |
        /// | `Arm64AdrPrelPgHi21` | `R_AARCH64_ADR_PREL_PG_HI21` | `Aarch64AdrPrelPgHi21` | `page(S + A) - page(P)` | ±4 GiB |
        /// | `Arm64AddAbsLo12Nc` | `R_AARCH64_ADD_ABS_LO12_NC` | `Aarch64AddAbsLo12Nc` | low 12 bits of `S + A` | |
        /// | `Arm64Ldst8AbsLo12Nc` to `Arm64Ldst128AbsLo12Nc` | `R_AARCH64_LDST8_ABS_LO12_NC` to `LDST128` | | the same | unit of the access |
        /// | `Arm64MovwUabsG0` to `G3` | `R_AARCH64_MOVW_UABS_G0` to `G3` | | 16 bits of `S + A` | 0 to 2^16, 2^32, 2^48, all |
        /// | `Arm64MovwUabsG0Nc` to `G2Nc` | `R_AARCH64_MOVW_UABS_G0_NC` to `G2_NC` | | the same | unchecked |
        /// | `Arm64AdrGotPage` | `R_AARCH64_ADR_GOT_PAGE` | `Aarch64AdrGotPage21` | `page(cell) - page(P)`, cell of `S + A` | ±4 GiB |
        /// | `Arm64Ld64GotLo12Nc` | `R_AARCH64_LD64_GOT_LO12_NC` | `Aarch64Ld64GotLo12Nc` | low 12 bits of the same cell | 8 |
        /// | `RiscvAbs64`, `RiscvAbs32` | `R_RISCV_64`, `32` | `Abs8`, `Abs4` | `S + A` | all; -2 to 4 GiB |
        /// | `RiscvPcrel32` | `R_RISCV_32_PCREL` | | `S + A - P` | ±2 GiB |
        /// | `RiscvAdd32`, `RiscvAdd64` | `R_RISCV_ADD32`, `ADD64` | | what is there `+ S + A` | cut off |
        /// | `RiscvSub32`, `RiscvSub64` | `R_RISCV_SUB32`, `SUB64` | | what is there `- (S + A)` | cut off |
        /// | `RiscvCall` | `R_RISCV_CALL`, `CALL_PLT` | `RiscvCallPlt` | `S + A - P`, stub; `auipc` and `jalr` | ±2 GiB less 2 KiB, 1 |
        /// | `RiscvJal` | `R_RISCV_JAL` | | `S + A - P`, stub | ±1 MiB, 2 |
        /// | `RiscvBranch` | `R_RISCV_BRANCH` | | `S + A - P` | ±4 KiB, 2 |
        /// | `RiscvRvcJump`, `RiscvRvcBranch` | `R_RISCV_RVC_JUMP`, `RVC_BRANCH` | | `S + A - P` | ±2 KiB, ±256; 2 |
        /// | `RiscvHi20` | `R_RISCV_HI20` | | upper bits of `S + A` | ±2 GiB less 2 KiB |
        /// | `RiscvLo12I`, `RiscvLo12S` | `R_RISCV_LO12_I`, `LO12_S` | | low 12 bits of `S + A` | |
        /// | `RiscvPcrelHi20` | `R_RISCV_PCREL_HI20` | `RiscvPCRelHi20` | upper bits of `S + A - P` | ±2 GiB less 2 KiB |
        /// | `RiscvGotHi20` | `R_RISCV_GOT_HI20` | `RiscvGotHi20` | upper bits of `cell + A - P` | ±2 GiB less 2 KiB |
        /// | `RiscvPcrelLo12I`, `RiscvPcrelLo12S` | `R_RISCV_PCREL_LO12_I`, `LO12_S` | `RiscvPCRelLo12I` | low 12 bits of the value linked at `S + A` | |
        ///
        /// [`Display`](std::fmt::Display) prints the name in ELF.
        ///
        /// [`Batch::link`](crate::Batch::link) has an example.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[allow(missing_docs, reason = "all of them are in the table")]
        pub enum Reloc {
            $($(#[$doc])* $kind,)+
        }

        impl Reloc {
            #[cfg(all(test, not(loom)))]
            pub(super) const ALL: &[Self] = &[$(Self::$kind),+];

            pub(super) fn spec(self) -> Spec {
                match self {
                    $(Self::$kind => Spec {
                        name: $name,
                        architecture: Architecture::$architecture,
                        formula: Formula::$formula,
                        via: $via,
                        field: $field,
                    },)+
                }
            }
        }
    };
}

/// The immediate of loads and stores, and of `add`. It counts in units of `1 << shift`.
const fn low_12(shift: u32) -> Field {
    Part { lowest: 10, width: 12, shift, checked: false }
}

/// The field for sixteen bits of an address in a `movz` or `movk`.
const fn sixteen(shift: u32, checked: bool) -> Field {
    Part { lowest: 5, width: 16, shift, checked }
}

use Via::*;

relocations! {
    X86Abs64 = "R_X86_64_64" X86_64 Absolute Itself, Either(8);
    X86Abs32 = "R_X86_64_32" X86_64 Absolute Itself, Unsigned(4);
    X86Abs32S = "R_X86_64_32S" X86_64 Absolute Itself, Signed(4);
    X86Pc64 = "R_X86_64_PC64" X86_64 Relative Itself, Signed(8);
    X86Pc32 = "R_X86_64_PC32" X86_64 Relative Itself, Signed(4);
    X86Pc8 = "R_X86_64_PC8" X86_64 Relative Itself, Signed(1);
    X86Call32 = "R_X86_64_PLT32" X86_64 Relative Stub(4), Signed(4);
    X86GotPc32 = "R_X86_64_GOTPCREL" X86_64 Relative Cell, Signed(4);

    Arm64Abs64 = "R_AARCH64_ABS64" Arm64 Absolute Itself, Either(8);
    Arm64Abs32 = "R_AARCH64_ABS32" Arm64 Absolute Itself, Either(4);
    Arm64Prel64 = "R_AARCH64_PREL64" Arm64 Relative Itself, Either(8);
    Arm64Prel32 = "R_AARCH64_PREL32" Arm64 Relative Itself, Either(4);
    Arm64Call26 = "R_AARCH64_CALL26" Arm64 Relative Stub(0), Bits { lowest: 0, width: 26, shift: 2 };
    Arm64Jump26 = "R_AARCH64_JUMP26" Arm64 Relative Stub(0), Bits { lowest: 0, width: 26, shift: 2 };
    Arm64CondBr19 = "R_AARCH64_CONDBR19" Arm64 Relative Itself, Bits { lowest: 5, width: 19, shift: 2 };
    Arm64TstBr14 = "R_AARCH64_TSTBR14" Arm64 Relative Itself, Bits { lowest: 5, width: 14, shift: 2 };
    Arm64LdPrelLo19 = "R_AARCH64_LD_PREL_LO19" Arm64 Relative Itself, Bits { lowest: 5, width: 19, shift: 2 };
    Arm64AdrPrelLo21 = "R_AARCH64_ADR_PREL_LO21" Arm64 Relative Itself, Adr { shift: 0, checked: true };
    Arm64AdrPrelPgHi21 = "R_AARCH64_ADR_PREL_PG_HI21" Arm64 Pages Itself, Adr { shift: 12, checked: true };
    Arm64AddAbsLo12Nc = "R_AARCH64_ADD_ABS_LO12_NC" Arm64 WithinPage Itself, low_12(0);
    Arm64Ldst8AbsLo12Nc = "R_AARCH64_LDST8_ABS_LO12_NC" Arm64 WithinPage Itself, low_12(0);
    Arm64Ldst16AbsLo12Nc = "R_AARCH64_LDST16_ABS_LO12_NC" Arm64 WithinPage Itself, low_12(1);
    Arm64Ldst32AbsLo12Nc = "R_AARCH64_LDST32_ABS_LO12_NC" Arm64 WithinPage Itself, low_12(2);
    Arm64Ldst64AbsLo12Nc = "R_AARCH64_LDST64_ABS_LO12_NC" Arm64 WithinPage Itself, low_12(3);
    Arm64Ldst128AbsLo12Nc = "R_AARCH64_LDST128_ABS_LO12_NC" Arm64 WithinPage Itself, low_12(4);
    Arm64MovwUabsG0 = "R_AARCH64_MOVW_UABS_G0" Arm64 Absolute Itself, sixteen(0, true);
    Arm64MovwUabsG0Nc = "R_AARCH64_MOVW_UABS_G0_NC" Arm64 Absolute Itself, sixteen(0, false);
    Arm64MovwUabsG1 = "R_AARCH64_MOVW_UABS_G1" Arm64 Absolute Itself, sixteen(16, true);
    Arm64MovwUabsG1Nc = "R_AARCH64_MOVW_UABS_G1_NC" Arm64 Absolute Itself, sixteen(16, false);
    Arm64MovwUabsG2 = "R_AARCH64_MOVW_UABS_G2" Arm64 Absolute Itself, sixteen(32, true);
    Arm64MovwUabsG2Nc = "R_AARCH64_MOVW_UABS_G2_NC" Arm64 Absolute Itself, sixteen(32, false);
    Arm64MovwUabsG3 = "R_AARCH64_MOVW_UABS_G3" Arm64 Absolute Itself, sixteen(48, true);
    Arm64AdrGotPage = "R_AARCH64_ADR_GOT_PAGE" Arm64 Pages CellOfSum, Adr { shift: 12, checked: true };
    Arm64Ld64GotLo12Nc = "R_AARCH64_LD64_GOT_LO12_NC" Arm64 WithinPage CellOfSum, low_12(3);

    RiscvAbs64 = "R_RISCV_64" Riscv64 Absolute Itself, Either(8);
    RiscvAbs32 = "R_RISCV_32" Riscv64 Absolute Itself, Either(4);
    RiscvPcrel32 = "R_RISCV_32_PCREL" Riscv64 Relative Itself, Signed(4);
    RiscvAdd32 = "R_RISCV_ADD32" Riscv64 Absolute Itself, Added(4);
    RiscvAdd64 = "R_RISCV_ADD64" Riscv64 Absolute Itself, Added(8);
    RiscvSub32 = "R_RISCV_SUB32" Riscv64 Absolute Itself, Subtracted(4);
    RiscvSub64 = "R_RISCV_SUB64" Riscv64 Absolute Itself, Subtracted(8);
    RiscvCall = "R_RISCV_CALL_PLT" Riscv64 Relative Stub(0), High20Low12I;
    RiscvJal = "R_RISCV_JAL" Riscv64 Relative Stub(0), Jump;
    RiscvBranch = "R_RISCV_BRANCH" Riscv64 Relative Itself, Branch;
    RiscvRvcJump = "R_RISCV_RVC_JUMP" Riscv64 Relative Itself, ShortJump;
    RiscvRvcBranch = "R_RISCV_RVC_BRANCH" Riscv64 Relative Itself, ShortBranch;
    RiscvHi20 = "R_RISCV_HI20" Riscv64 Absolute Itself, High20;
    RiscvLo12I = "R_RISCV_LO12_I" Riscv64 Absolute Itself, Low12I;
    RiscvLo12S = "R_RISCV_LO12_S" Riscv64 Absolute Itself, Low12S;
    RiscvPcrelHi20 = "R_RISCV_PCREL_HI20" Riscv64 Relative Itself, High20;
    RiscvGotHi20 = "R_RISCV_GOT_HI20" Riscv64 Relative Cell, High20;
    RiscvPcrelLo12I = "R_RISCV_PCREL_LO12_I" Riscv64 Absolute High, Low12I;
    RiscvPcrelLo12S = "R_RISCV_PCREL_LO12_S" Riscv64 Absolute High, Low12S;
}
