//! The second engine: machine code by Cranelift, linked at the addresses that the arena hands out.
//!
//! Cranelift turns each function into bytes with relocations ([`compiler`], [`lower`]); nothing is known of addresses
//! yet. When a program is published its functions get their places first, then calls between them are patched
//! ([`link`]). The same object can therefore be published again wherever there is room.

// The architectures are those of Cranelift's dependencies in Cargo.toml.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x"))]
pub(crate) mod compiler;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x")))]
#[path = "no_compiler.rs"]
pub(crate) mod compiler;
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x")),
    allow(dead_code)
)]
mod link;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x"))]
mod lower;

pub(crate) use link::link;

use crate::language::machine::Machine;

/// How the host enters a program: the machine's state and as many arguments as the entry function takes.
pub(crate) type Entry = unsafe extern "C" fn(*mut Machine, *const i64) -> i64;

/// A compiled program, not bound to an address.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Object {
    /// The program's functions in their order, and last the trampoline of type [`Entry`].
    pub(crate) pieces: Vec<Piece>,
}

impl Object {
    pub(crate) fn bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.bytes.len()).sum()
    }
}

/// The code of one function.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// `program::function`.
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) align: usize,
    relocations: Vec<Relocation>,
}

/// A call whose target has to be patched in.
#[derive(Debug, PartialEq, Eq)]
struct Relocation {
    offset: usize,
    kind: RelocationKind,
    /// The piece that is called.
    target: usize,
    addend: i64,
}

/// The ways in which the supported architectures encode a direct call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RelocationKind {
    /// x86: 32 bits, relative to the place itself; the addend accounts for their own four bytes.
    X86Relative32,
    /// AArch64 `bl`: 26 bits, in units of four bytes.
    Arm64Call,
    /// RISC-V `auipc` and `jalr`: 20 and 12 bits.
    RiscvCall,
}
