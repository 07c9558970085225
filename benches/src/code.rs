//! The machine code that is published: nothing but returns, so that any of it can be called.

use crate::trace::MAX_SIZE;

#[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
const RETURN: &[u8] = &[0xc3];
#[cfg(target_arch = "aarch64")]
const RETURN: &[u8] = &0xd65f_03c0_u32.to_le_bytes();
#[cfg(target_arch = "riscv64")]
const RETURN: &[u8] = &0x0000_8067_u32.to_le_bytes();

/// A buffer of which any prefix of whole instructions is a function.
pub fn returns(len: usize) -> Vec<u8> {
    RETURN.iter().copied().cycle().take(len).collect()
}

/// A buffer long enough for every function of the traces.
pub fn source() -> Vec<u8> {
    returns(MAX_SIZE)
}
