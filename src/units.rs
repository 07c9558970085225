//! Page and granule arithmetic, checked: nothing here wraps or panics.
#![forbid(unsafe_code)]

use crate::Error;

/// Space is handed out in granules of this many bytes, so every block is aligned to it.
pub(crate) const GRANULE: usize = 16;

/// The largest alignment of a block. An arena of at least this size begins at a multiple of it.
pub(crate) const MAX_ALIGN: usize = 2 << 20;

/// How far a direct branch reaches in both directions, so also the largest arena: within it every
/// block reaches every other. x86-64 `call rel32`, AArch64 `bl`, RISC-V `auipc` + `jalr`; 32-bit
/// Arm `bl`; i386 reaches everything. RISC-V adds two signed numbers, the second of 12 bits, and so
/// reaches 2 KiB less far forwards than 2 GiB: a page less.
pub(crate) const BRANCH_REACH: usize = if cfg!(target_arch = "aarch64") {
    128 << 20
} else if cfg!(target_arch = "arm") {
    32 << 20
} else if cfg!(target_pointer_width = "32") {
    1 << 30
} else if cfg!(target_arch = "riscv64") {
    (2 << 30) - (4 << 10)
} else {
    2 << 30
};

/// Whether a direct branch reaches from one address to another, wherever near `from` it begins: a
/// little less than what the instruction can do, which counts from itself or from its end.
pub(crate) fn branch_reaches(from: usize, to: usize) -> bool {
    cfg!(target_arch = "x86") || from.abs_diff(to) < BRANCH_REACH - GRANULE
}

/// How far references relative to an instruction reach in both directions, so also the largest
/// arena with its data. x86-64 `[rip + disp32]`, RISC-V `auipc`; AArch64 `adrp`, s390x `larl`;
/// 32-bit systems name all addresses.
pub(crate) const DATA_REACH: usize = if cfg!(target_pointer_width = "32") {
    1 << 30
} else if cfg!(any(target_arch = "aarch64", target_arch = "s390x")) {
    // 4 GiB, which is no number of 32 bits.
    1_usize.wrapping_shl(32)
} else {
    BRANCH_REACH
};

/// How far behind the code data begins, at most: pages without access, and the unit in which
/// Windows maps.
pub(crate) const DATA_GAP: usize = 128 << 10;

/// Capacity of an arena whose builder names none.
pub(crate) const DEFAULT_CAPACITY: usize = if cfg!(target_pointer_width = "32") {
    32 << 20
} else if cfg!(target_arch = "aarch64") {
    128 << 20
} else {
    256 << 20
};

/// `n` rounded up to a multiple of `to`, a power of two; `None` past the end of the address space.
pub(crate) const fn round_up(n: usize, to: usize) -> Option<usize> {
    debug_assert!(to.is_power_of_two());
    match n.checked_add(to - 1) {
        Some(sum) => Some(sum & !(to - 1)),
        None => None,
    }
}

/// Granules that hold `bytes`, for code of at most `limit` bytes (which is less than 4 GiB).
pub(crate) fn granules(bytes: usize, limit: usize) -> Result<u32, Error> {
    match bytes {
        0 => Err(Error::ZeroSize),
        n if n > limit => Err(Error::TooLarge { asked: n, limit }),
        n => Ok(n.div_ceil(GRANULE) as u32),
    }
}

/// An alignment of at most `limit` in granules, at least one.
pub(crate) fn align_granules(align: usize, limit: usize) -> Result<u32, Error> {
    if !align.is_power_of_two() || align > limit {
        return Err(Error::BadAlignment { align, limit });
    }
    Ok((align / GRANULE).max(1) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_never_wraps() {
        assert_eq!(round_up(0, 4096), Some(0));
        assert_eq!(round_up(1, 4096), Some(4096));
        assert_eq!(round_up(usize::MAX, 4096), None);
        assert_eq!(round_up(usize::MAX - 4095, 4096), Some(usize::MAX - 4095));
    }

    /// From the first byte of the largest arena to the last granule.
    #[cfg(target_pointer_width = "64")]
    #[test]
    fn the_largest_arena_is_in_reach_from_end_to_end() {
        let forwards = match () {
            () if cfg!(target_arch = "aarch64") => (128 << 20) - 4,
            () if cfg!(target_arch = "riscv64") => 0x7fff_f000 + 0x7ff,
            () => 0x7fff_ffff,
        };
        assert!(BRANCH_REACH - GRANULE <= forwards);
    }

    #[test]
    fn sizes_and_alignments_are_checked() {
        assert!(matches!(granules(0, 64), Err(Error::ZeroSize)));
        assert!(matches!(granules(usize::MAX, 64), Err(Error::TooLarge { .. })));
        assert_eq!(granules(17, 64).ok(), Some(2));
        for bad in [0, 3, MAX_ALIGN * 2, usize::MAX] {
            assert!(matches!(align_granules(bad, MAX_ALIGN), Err(Error::BadAlignment { .. })), "{bad}");
        }
        assert_eq!(align_granules(1, MAX_ALIGN).ok(), Some(1));
        assert_eq!(align_granules(MAX_ALIGN, MAX_ALIGN).ok(), Some((MAX_ALIGN / GRANULE) as u32));
        assert!(matches!(align_granules(8192, 4096), Err(Error::BadAlignment { align: 8192, limit: 4096 })));
    }
}
