//! Checked arithmetic with pages and granules: nothing here wraps or panics.
#![forbid(unsafe_code)]

use crate::Error;

/// The bytes of a granule. Space is allocated in granules, so every block is aligned to 16 bytes.
pub(crate) const GRANULE: usize = 16;

/// The largest alignment of a block. An arena of at least this size begins at a multiple of it.
pub(crate) const MAX_ALIGN: usize = 2 << 20;

/// The distance that a direct branch reaches in both directions. It is also the size of the largest
/// arena, because in such an arena every block reaches every other. x86-64 `call rel32`, AArch64
/// `bl`, RISC-V `auipc` and `jalr`, 32-bit Arm `bl`; i386 reaches everything. RISC-V adds two
/// signed numbers, the second of 12 bits. So it reaches 2 KiB less than 2 GiB forwards, and the
/// limit is one page less.
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

/// Returns whether a direct branch reaches from one address to another, wherever near `from` it
/// begins. The limit is a little below that of the instruction, because the instruction counts from
/// its start or from its end.
pub(crate) fn branch_reaches(from: usize, to: usize) -> bool {
    cfg!(target_arch = "x86") || from.abs_diff(to) < BRANCH_REACH - GRANULE
}

/// The distance that references relative to an instruction reach in both directions. It is also the
/// size of the largest arena with its data. x86-64 `[rip + disp32]`, RISC-V `auipc`; AArch64
/// `adrp`, s390x `larl`; on 32-bit systems all addresses are in reach.
pub(crate) const DATA_REACH: usize = if cfg!(target_pointer_width = "32") {
    1 << 30
} else if cfg!(any(target_arch = "aarch64", target_arch = "s390x")) {
    // 4 GiB, which does not fit into 32 bits.
    1_usize.wrapping_shl(32)
} else {
    BRANCH_REACH
};

/// The largest distance between the end of the code and the data: pages without access, and the
/// unit in which Windows maps.
pub(crate) const DATA_GAP: usize = 128 << 10;

/// The capacity of an arena if the builder sets none.
pub(crate) const DEFAULT_CAPACITY: usize = if cfg!(target_pointer_width = "32") {
    32 << 20
} else if cfg!(target_arch = "aarch64") {
    128 << 20
} else {
    256 << 20
};

/// Returns `n` rounded up to a multiple of `to`, a power of two, or `None` if that is past the end
/// of the address space.
pub(crate) const fn round_up(n: usize, to: usize) -> Option<usize> {
    debug_assert!(to.is_power_of_two());
    match n.checked_add(to - 1) {
        Some(sum) => Some(sum & !(to - 1)),
        None => None,
    }
}

/// Returns the number of granules that hold `bytes`, for code of at most `limit` bytes (which is
/// less than 4 GiB).
pub(crate) fn granules(bytes: usize, limit: usize) -> Result<u32, Error> {
    match bytes {
        0 => Err(Error::ZeroSize),
        n if n > limit => Err(Error::TooLarge { asked: n, limit }),
        n => Ok(n.div_ceil(GRANULE) as u32),
    }
}

/// Returns an alignment of at most `limit` bytes in granules, at least one.
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
