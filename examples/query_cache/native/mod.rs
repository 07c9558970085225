//! Machine code by Cranelift: one function for each query, with one loop over the rows.

// The architectures are those of Cranelift's dependencies in Cargo.toml.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x"))]
pub(crate) mod compiler;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x")))]
#[path = "no_compiler.rs"]
pub(crate) mod compiler;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x"))]
mod lower;

/// The type of a compiled query. It takes the addresses of the columns, and the number of rows.
pub(crate) type Function = unsafe extern "C" fn(*const *const f64, usize) -> f64;

/// A compiled query. It contains no address, so it can be copied to any place.
pub(crate) struct Compiled<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) align: usize,
}
