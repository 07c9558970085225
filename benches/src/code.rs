//! The machine code that is published: nothing but returns, so that any of it can be called; and
//! functions that can be told apart.

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

/// What [`numbered`] is.
pub type Numbered = extern "C" fn() -> i32;

/// A function that returns a number, of type [`Numbered`].
pub fn numbered(number: u16) -> Vec<u8> {
    let number = u32::from(number);
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    let mut code = [&[0xb8], &number.to_le_bytes()[..]].concat();
    #[cfg(target_arch = "aarch64")]
    let mut code = (0x5280_0000 | number << 5).to_le_bytes().to_vec();
    #[cfg(target_arch = "riscv64")]
    let mut code = {
        // What is added last has a sign.
        let (high, low) = ((number + 0x800) >> 12, number & 0xfff);
        [0x0000_0537 | high << 12, 0x0005_051b | low << 20].map(u32::to_le_bytes).concat()
    };
    code.extend_from_slice(RETURN);
    code
}
