//! The number of this architecture in ELF.
#![forbid(unsafe_code)]

/// `e_machine`, from the processor supplements of the ELF specification. `None` on architectures
/// where the crate runs no code.
pub(super) const MACHINE: Option<u16> = if cfg!(target_arch = "x86_64") {
    Some(62)
} else if cfg!(target_arch = "x86") {
    Some(3)
} else if cfg!(target_arch = "aarch64") {
    Some(183)
} else if cfg!(target_arch = "arm") {
    Some(40)
} else if cfg!(any(target_arch = "riscv64", target_arch = "riscv32")) {
    Some(243)
} else if cfg!(target_arch = "s390x") {
    Some(22)
} else {
    None
};
