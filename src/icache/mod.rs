//! The one architecture table: how every core is made to run new bytes, and the few instructions
//! that the crate itself needs.
//!
//! ```text
//! write bytes --> flush (by executable address) --> sync_cores, once for a batch --> the address is given out
//! ```
//!
//! [`flush`] moves written bytes, named by their *executable* address, from the data side to where
//! instructions are fetched. [`sync_cores`] makes the other cores of this process drop instructions
//! that they fetched ahead. Both run once for a batch, after the bytes are written and before an
//! address is given out.
//!
//! | architecture | flush | other cores |
//! |---|---|---|
//! | x86, x86-64 | nothing | nothing |
//! | AArch64, Linux and Android | `dc cvau`, `ic ivau` by line | `membarrier` |
//! | AArch64, Apple | `sys_icache_invalidate` | every thread is asked for its registers |
//! | AArch64, Windows | `FlushInstructionCache` | `FlushProcessWriteBuffers` |
//! | Arm, 32 bits | `cacheflush` | `membarrier` |
//! | RISC-V | `riscv_flush_icache`, flags 0 | the same call |
//! | s390x, Linux | nothing | `membarrier` |
//! | x86, x86-64, Windows | `FlushInstructionCache`, for emulators | nothing |
//!
//! Every other architecture is refused when an arena or a block is made. So is a system on which
//! other cores cannot be synchronised.
//!
//! **x86** keeps instruction caches coherent with stores, by physical address, so stores to the
//! second view of the same memory count too (Intel SDM volume 3, "Self-Modifying Code"; AMD APM
//! volume 2, "Cache Coherency with Instruction Fetches"). A core may have fetched ahead from an
//! address that is used again. For this the SDM ("Handling Self- and Cross-Modifying Code")
//! requires a serialising instruction only of a core that could be *executing* the bytes as they
//! change. No core can here. The bytes of a block change while nobody owns it, and a thread runs
//! them only after a branch to an address that it received after the change. The store invalidated
//! the old bytes in the caches and the pipeline of that core.
//!
//! One sentence of the SDM requires more. If an instruction is changed through another linear
//! address than the one it is fetched from, a serialising instruction has to be executed before it
//! runs ("Self-Modifying Code", with the note that this is no practical concern for most software).
//! `DualMap`, `FileWrite` and the kernel write change code in that way. By default no such
//! instruction is executed, as in every JIT with two views, because the check is by physical
//! address, and no failure is known. [`serialize_cores`] is for users who want to follow the manual
//! to the letter; see `ArenaBuilder::serialize_cores`.

use crate::Error;
use crate::units::GRANULE;

#[cfg(all(windows, any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
#[path = "windows.rs"]
mod native;
#[cfg(all(target_arch = "aarch64", target_vendor = "apple"))]
#[path = "apple.rs"]
mod native;
#[cfg(all(target_arch = "aarch64", any(target_os = "linux", target_os = "android")))]
#[path = "aarch64.rs"]
mod native;
#[cfg(all(target_arch = "arm", any(target_os = "linux", target_os = "android")))]
#[path = "arm.rs"]
mod native;
#[cfg(all(any(target_arch = "riscv64", target_arch = "riscv32"), target_os = "linux"))]
#[path = "riscv.rs"]
mod native;
#[cfg(all(target_arch = "s390x", target_os = "linux"))]
#[path = "s390x.rs"]
mod native;
#[cfg(all(unix, any(target_arch = "x86", target_arch = "x86_64")))]
#[path = "coherent.rs"]
mod native;
#[cfg(not(any(
    all(windows, any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")),
    all(target_arch = "aarch64", any(target_vendor = "apple", target_os = "linux", target_os = "android")),
    all(target_arch = "arm", any(target_os = "linux", target_os = "android")),
    all(any(target_arch = "riscv64", target_arch = "riscv32"), target_os = "linux"),
    all(target_arch = "s390x", target_os = "linux"),
    all(unix, any(target_arch = "x86", target_arch = "x86_64")),
)))]
#[path = "unknown.rs"]
mod native;

#[cfg(all(
    not(any(target_arch = "riscv64", target_arch = "riscv32")),
    any(target_os = "linux", target_os = "android")
))]
mod membarrier;

pub(crate) mod jump;
pub(crate) mod stub;

pub(crate) use native::{BARRIERS, flush, sync_cores};

/// An instruction that traps. It is repeated to fill memory that must not be run.
pub(crate) const TRAP: &[u8] = if cfg!(any(target_arch = "x86", target_arch = "x86_64")) {
    &[0xcc] // int3
} else if cfg!(target_arch = "aarch64") {
    &[0x00, 0x00, 0x20, 0xd4] // brk #0; instructions are little-endian whatever the data are
} else if cfg!(target_arch = "arm") {
    &[0xf0, 0x00, 0xf0, 0xe7] // udf #0
} else if cfg!(any(target_arch = "riscv64", target_arch = "riscv32")) {
    &[0x02, 0x90] // c.ebreak
} else {
    &[0x00, 0x00] // s390x: an operation code that stays invalid
};

/// A granule of traps.
pub(crate) const TRAPS: [u8; GRANULE] = {
    let mut granule = [0; GRANULE];
    let mut i = 0;
    while i < GRANULE {
        granule[i] = TRAP[i % TRAP.len()];
        i += 1;
    }
    granule
};

/// Whether zeros stop a thread that runs them, because pages without memory read as zeros. They are
/// `udf #0` on AArch64, and stay invalid on RISC-V and s390x. On x86 they are `add [rax], al`, on
/// Arm `andeq r0, r0, r0`.
pub(crate) const ZEROS_TRAP: bool =
    cfg!(any(target_arch = "aarch64", target_arch = "riscv64", target_arch = "riscv32", target_arch = "s390x"));

/// Returns the traps between the end of a function of `len` bytes and the next granule.
pub(crate) fn padding_of(len: usize) -> &'static [u8] {
    &TRAPS[len.wrapping_sub(1) % GRANULE + 1..]
}

/// The code of two functions of type `extern "C" fn() -> u32`, which return 1 and 2. They are
/// called through a pointer, so they begin with the landing pad that a processor may require
/// ([`LANDING_PAD`]). It does nothing on other processors.
pub(crate) const RETURN_1_2: [&[u8]; 2] = if cfg!(target_arch = "x86_64") {
    // endbr64; mov eax, n; ret
    [&[0xf3, 0x0f, 0x1e, 0xfa, 0xb8, 1, 0, 0, 0, 0xc3], &[0xf3, 0x0f, 0x1e, 0xfa, 0xb8, 2, 0, 0, 0, 0xc3]]
} else if cfg!(target_arch = "x86") {
    // endbr32; mov eax, n; ret
    [&[0xf3, 0x0f, 0x1e, 0xfb, 0xb8, 1, 0, 0, 0, 0xc3], &[0xf3, 0x0f, 0x1e, 0xfb, 0xb8, 2, 0, 0, 0, 0xc3]]
} else if cfg!(target_arch = "aarch64") {
    // bti c; mov w0, #n; ret
    [
        &[0x5f, 0x24, 0x03, 0xd5, 0x20, 0x00, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6],
        &[0x5f, 0x24, 0x03, 0xd5, 0x40, 0x00, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6],
    ]
} else if cfg!(target_arch = "arm") {
    // mov r0, #n; bx lr
    [&[1, 0x00, 0xa0, 0xe3, 0x1e, 0xff, 0x2f, 0xe1], &[2, 0x00, 0xa0, 0xe3, 0x1e, 0xff, 0x2f, 0xe1]]
} else if cfg!(any(target_arch = "riscv64", target_arch = "riscv32")) {
    // lpad 0; c.li a0, n; c.jr ra
    [&[0x17, 0, 0, 0, 0x05, 0x45, 0x82, 0x80], &[0x17, 0, 0, 0, 0x09, 0x45, 0x82, 0x80]]
} else {
    [&[0xa7, 0x29, 0, 1, 0x07, 0xfe], &[0xa7, 0x29, 0, 2, 0x07, 0xfe]] // lghi %r2, n; br %r14
};

/// The landing pad: the first instruction of code that is reached through a pointer, where a
/// processor may require it. It is `endbr64`, `endbr32` (Intel SDM volume 1, "Control-flow
/// Enforcement Technology"), `bti c` (Arm ARM, "Branch Target Identification") or `lpad 0` (RISC-V
/// unprivileged specification, "Zicfilp"). All of them do nothing elsewhere.
pub(crate) const LANDING_PAD: &[u8] = if cfg!(target_arch = "x86_64") {
    &[0xf3, 0x0f, 0x1e, 0xfa]
} else if cfg!(target_arch = "x86") {
    &[0xf3, 0x0f, 0x1e, 0xfb]
} else if cfg!(target_arch = "aarch64") {
    &[0x5f, 0x24, 0x03, 0xd5]
} else if cfg!(any(target_arch = "riscv64", target_arch = "riscv32")) {
    &[0x17, 0x00, 0x00, 0x00]
} else {
    &[]
};

/// Returns an error on architectures for which the crate does not know how to keep code coherent,
/// because otherwise stale code could run.
pub(crate) fn check() -> Result<(), Error> {
    native::check()
}

/// Fetches the cache line of a value that is read soon. It has no effect on architectures without
/// such an instruction.
#[inline]
pub(crate) fn prefetch<T>(value: &T) {
    let at = std::ptr::from_ref(value);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: it changes no memory and never faults. Every x86-64 has the instruction.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    };
    #[cfg(target_arch = "aarch64")]
    // SAFETY: it changes no memory and never faults.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

/// Makes every core of the process execute a serialising instruction.
pub(crate) fn serialize_cores() -> Result<(), Error> {
    if BARRIERS {
        return sync_cores();
    }
    #[cfg(all(
        not(any(target_arch = "riscv64", target_arch = "riscv32")),
        any(target_os = "linux", target_os = "android")
    ))]
    return membarrier::check().and_then(|()| membarrier::sync_cores());
    #[cfg(all(windows, any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return native::serialize_cores();
    #[cfg(all(
        any(target_arch = "riscv64", target_arch = "riscv32"),
        any(target_os = "linux", target_os = "android")
    ))]
    // The flush already reached the other cores.
    return Ok(());
    #[cfg(not(any(windows, target_os = "linux", target_os = "android")))]
    Err(Error::unsupported("serialize_cores", "this system has no call for it: build without it"))
}

/// Returns an error if indirect branches cannot be restricted to landing pads.
pub(crate) fn check_landing_pads() -> Result<(), Error> {
    const WHAT: &str = "landing_pads";
    #[cfg(all(target_arch = "aarch64", any(target_os = "linux", target_os = "android")))]
    return match std::arch::is_aarch64_feature_detected!("bti") {
        true => Ok(()),
        false => Err(Error::unsupported(WHAT, "this processor, or this kernel, has no branch target identification")),
    };
    #[cfg(not(all(target_arch = "aarch64", any(target_os = "linux", target_os = "android"))))]
    Err(Error::unsupported(WHAT, "only AArch64 Linux has them: build without `landing_pads`"))
}

/// Fills `bytes` with traps. A rest that is shorter than an instruction stays as it is. Code never
/// has such a rest before the next block, because that begins at a granule.
pub(crate) fn fill_with_traps(bytes: &mut [u8]) {
    if let [one] = TRAP {
        bytes.fill(*one);
        return;
    }
    // From the end, where instruction boundaries are known, because granules are whole
    // instructions.
    for chunk in bytes.rchunks_exact_mut(TRAP.len()) {
        chunk.copy_from_slice(TRAP);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_called_through_a_pointer_begins_with_a_landing_pad() {
        let stub = stub::to(std::ptr::without_provenance(64 << 10), std::ptr::without_provenance(1 << 20));
        assert!([RETURN_1_2[0], RETURN_1_2[1], &stub[..]].iter().all(|code| code.starts_with(LANDING_PAD)));
    }
}
