//! How an arena keeps pages from being writable and executable at once.

use jit::WxMode;

use crate::failure::Failure;

/// How an arena keeps pages from being writable and executable at once.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Private memory, one address. Pages are opened for writing only while they are empty; holes
    /// in executable pages are filled through the kernel where it allows that. What is used unless
    /// something else is said.
    Flip = 0,
    /// Shared memory mapped twice: executable at one address, writable at another. No system calls
    /// to publish.
    DualMap = 1,
    /// Private memory, writable for the writing thread alone: protection keys of x86-64 on Linux. A
    /// thread that is older than the arena pins it before it calls code that reads its own
    /// constants.
    PerThread = 2,
    /// Shared memory mapped for executing alone, to which the arena writes through its descriptor.
    /// Linux and Android.
    FileWrite = 3,
    /// A mode that C cannot ask for.
    Other = 99,
}

/// In the order of the numbers.
const MODES: [WxMode; 4] = [WxMode::Flip, WxMode::DualMap, WxMode::PerThread, WxMode::FileWrite];

impl Mode {
    /// What a number of C means, which may be any.
    pub(crate) fn read(number: u32) -> Result<WxMode, Failure> {
        let mode = MODES.get(number as usize).copied();
        mode.ok_or_else(|| Failure::Invalid(format!("{number} is no mode").into()))
    }
}

impl From<WxMode> for Mode {
    fn from(mode: WxMode) -> Self {
        match mode {
            WxMode::Flip => Self::Flip,
            WxMode::DualMap => Self::DualMap,
            WxMode::PerThread => Self::PerThread,
            WxMode::FileWrite => Self::FileWrite,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for number in 0..MODES.len() as u32 {
            assert_eq!(Mode::from(Mode::read(number).unwrap()) as u32, number);
        }
        assert!(matches!(Mode::read(4), Err(Failure::Invalid(_))));
    }
}
