//! The second engine: machine code by Cranelift, linked at the addresses that the arena hands out.
//!
//! Cranelift turns each function into bytes with relocations ([`compiler`], [`lower`]); nothing is
//! known of addresses yet. When a program is published its functions get their places first, then
//! calls between them are linked ([`gaia_jit::Batch::link`]). The same object can therefore be
//! published again wherever there is room.

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

/// How the host enters a program: the machine's state and as many arguments as the entry function
/// takes.
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
    /// The piece that is called.
    pub(crate) target: usize,
    pub(crate) addend: i64,
}
