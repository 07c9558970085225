//! Stubs: a few instructions that jump to any address, for direct branches that do not reach so far
//! (*veneers* in Arm's terms).
//!
//! A stub changes only the register that the calling convention reserves for such code: `x16` on
//! AArch64 (`ip0`, AAPCS64, "The intra-procedure-call temporary registers"), `t1` on RISC-V, `r1`
//! on s390x. So arguments, return address and stack pass through it unchanged.
//!
//! ```text
//! | landing pad | load the address, jump | ... | address of the target |
//!                                              ^ offset 16, on x86-64, AArch64 and 64-bit RISC-V
//! ```
//!
//! A stub begins with a landing pad, so that it can be reached through a pointer too. If processors
//! require landing pads, the target has to begin with one.

use super::LANDING_PAD;
use crate::units::GRANULE;

/// The bytes of a stub: whole granules.
pub(crate) const LEN: usize =
    if cfg!(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "riscv32")) {
        2 * GRANULE
    } else {
        GRANULE
    };

/// Returns a stub for the address `at`, a multiple of a granule, that jumps to `to`.
pub(crate) fn to(at: *const u8, to: *const u8) -> [u8; LEN] {
    let mut stub = [0; LEN];
    super::fill_with_traps(&mut stub);
    let target = to.addr();
    // The instructions load 64 bits, also on systems with shorter pointers (x32).
    let wide = target as u64;
    // The address is data behind the code. It is readable wherever it is executable.
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = stub.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(0, LANDING_PAD);
    if cfg!(target_arch = "x86_64") {
        put(4, &[0xff, 0x25, 6, 0, 0, 0]); // jmp [rip + 6]
        put(16, &wide.to_ne_bytes());
    } else if cfg!(target_arch = "x86") {
        put(4, &[0xe9]); // jmp rel32, which wraps around and so reaches everything
        put(5, &target.wrapping_sub(at.addr() + 9).to_ne_bytes());
    } else if cfg!(target_arch = "aarch64") {
        // ldr x16, 12; br x16. A jump through x16 may arrive at `bti c` (Arm ARM, "Branch Target
        // Identification").
        put(4, &0x5800_0070_u32.to_le_bytes());
        put(8, &0xd61f_0200_u32.to_le_bytes());
        put(16, &wide.to_ne_bytes());
    } else if cfg!(target_arch = "arm") {
        put(0, &0xe51f_f004_u32.to_le_bytes()); // ldr pc, [pc, #-4], also to Thumb code
        put(4, &target.to_ne_bytes());
    } else if cfg!(target_arch = "riscv64") {
        // auipc t1, 0; ld t1, 12(t1); jr t1
        put(4, &0x0000_0317_u32.to_le_bytes());
        put(8, &0x00c3_3303_u32.to_le_bytes());
        put(12, &0x0003_0067_u32.to_le_bytes());
        put(16, &wide.to_ne_bytes());
    } else if cfg!(target_arch = "riscv32") {
        // auipc t1, 0; lw t1, 12(t1); jr t1
        put(4, &0x0000_0317_u32.to_le_bytes());
        put(8, &0x00c3_2303_u32.to_le_bytes());
        put(12, &0x0003_0067_u32.to_le_bytes());
        put(16, &target.to_ne_bytes());
    } else if cfg!(target_arch = "s390x") {
        // lgrl %r1, 8; br %r1
        put(0, &[0xc4, 0x18, 0, 0, 0, 4, 0x07, 0xf1]);
        put(8, &wide.to_ne_bytes());
    }
    stub
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x")))]
mod tests {
    use super::*;

    /// Also on systems with shorter pointers than the instruction loads.
    #[test]
    fn all_that_is_loaded_is_the_target() {
        let stub = to(std::ptr::without_provenance(64 << 10), std::ptr::without_provenance(0x1234_5678));
        assert!(stub.windows(8).any(|bytes| bytes == 0x1234_5678_u64.to_ne_bytes()));
    }
}
