//! The common parts of the larger examples.

pub(crate) mod arguments;
pub(crate) mod failure;
pub(crate) mod format;
// The architectures are those of Cranelift's dependencies in Cargo.toml.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x"))]
pub(crate) mod isa;
pub(crate) mod progress;
pub(crate) mod source;
pub(crate) mod threads;
