//! Machine code by Cranelift: one function for each query, with one loop over the rows.

// The architectures are those of Cranelift's dependencies in Cargo.toml.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x"))]
pub(crate) mod compiler;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x")))]
#[path = "no_compiler.rs"]
pub(crate) mod compiler;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x"))]
mod lower;

/// How a query is called: where the columns begin, and how many rows they have.
pub(crate) type Function = unsafe extern "C" fn(*const *const f64, usize) -> f64;

/// A compiled query. It names no address, so it can be copied to wherever there is room.
pub(crate) struct Compiled<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) align: usize,
}
