//! The second engine: machine code by Cranelift, linked at the addresses that the arena assigns.
//!
//! Cranelift compiles each function to bytes with relocations ([`compiler`], [`lower`]), without
//! addresses. When a program is published, its functions get their places first. Then the calls
//! between them are linked ([`gaia_jit::Batch::link`]). So the same object can be published again
//! at any place.

// The architectures are those of Cranelift's dependencies in Cargo.toml.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x"))]
pub(crate) mod compiler;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x")))]
#[path = "no_compiler.rs"]
pub(crate) mod compiler;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x"))]
mod lower;

use gaia_jit::Reloc;

use crate::language::machine::Machine;

/// The type by which the host enters a program. It takes the machine's state, and as many arguments
/// as the entry function has.
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
    pub(crate) relocations: Vec<Relocation>,
}

/// A call whose target has to be linked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Relocation {
    pub(crate) offset: usize,
    pub(crate) kind: Reloc,
    /// The index of the piece that is called.
    pub(crate) target: usize,
    pub(crate) addend: i64,
}
