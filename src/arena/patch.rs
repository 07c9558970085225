//! One word of published code, changed in one piece under running threads.

use super::CodeBlock;
use crate::Error;
use crate::sys::Word as Stored;

/// What [`CodeBlock::patch_word`] stores: `u32` or `u64`.
pub trait Word: sealed::Word {}

impl Word for u32 {}
impl Word for u64 {}

mod sealed {
    pub trait Word {
        const LEN: usize;

        /// The word, in the low bits.
        fn bits(self) -> u64;
    }

    impl Word for u32 {
        const LEN: usize = 4;

        fn bits(self) -> u64 {
            self.into()
        }
    }

    impl Word for u64 {
        const LEN: usize = 8;

        fn bits(self) -> u64 {
            self
        }
    }
}

const WHAT: &str = "patching a word";

impl CodeBlock {
    /// Changes four or eight bytes of code, by one store that no thread sees in parts. Threads may
    /// be running them: each runs the old bytes or the new ones. When this returns, a thread that
    /// learns of it by any synchronising means runs the new ones.
    ///
    /// The word has the byte order of the machine. It is for branches that are sent elsewhere, for
    /// instructions that are switched on and off, and for constants among instructions. In
    /// `DualMap` and `PerThread` only: elsewhere the kernel copies, and does not say in what
    /// pieces. (A pointer in data does for most of this, in every mode: see
    /// [`Redirect`](crate::Redirect).)
    ///
    /// # What architectures promise
    ///
    /// - *AArch64* (Arm ARM, B2.2.5, "Concurrent modification and execution of instructions"): if
    ///   the instruction before and the one after are each one of `B`, `BL`, `BRK`, `HVC`, `ISB`,
    ///   `NOP`, `SMC` and `SVC`, another core executes the one or the other. Of all others it
    ///   promises nothing, so they are refused here, and so are eight bytes.
    /// - *x86* (Intel SDM volume 3, "Handling Self- and Cross-Modifying Code"; AMD APM volume 2,
    ///   "Cross-Modifying Code"): an aligned store within a cache line is one piece for instruction
    ///   fetch as well. That a core runs the new bytes is promised after it serialises; the store
    ///   is made through another linear address in `DualMap`, and through the same one in
    ///   `PerThread`. All known processors notice it in either case.
    /// - *RISC-V* (unprivileged specification, "Zifencei" and "Ziccif"): fetches of aligned words
    ///   up to the width of a register are one piece; other cores see the store after a `fence.i`
    ///   of their own, which this call has them make.
    /// - *s390x* (Principles of Operation, "Block-Concurrent References" and "Conceptual
    ///   Sequence"): aligned words are stored and fetched in one piece; other cores see it after
    ///   they serialise, which this call has them do.
    /// - *32-bit Arm* (Arm ARM for A and R profiles, A3.5.4): the same list as AArch64, in its
    ///   encoding. It is not looked at here.
    ///
    /// ```
    /// # #[cfg(target_arch = "x86_64")] {
    /// # use gaia_jit::{CodeArena, WxMode};
    /// let arena = CodeArena::builder().capacity(1 << 20).mode(WxMode::DualMap).build()?;
    /// let block = arena.publish(&[0x90, 0x90, 0x90, 0xb8, 1, 0, 0, 0, 0xc3])?; // nop, three times; mov eax, 1; ret
    /// // SAFETY: the four bytes are the constant of one instruction before and after.
    /// unsafe { block.patch_word(4, 2_u32)? };
    /// // SAFETY: the code takes nothing and returns a number.
    /// let two = unsafe { block.typed::<extern "C" fn() -> i32>() };
    /// assert_eq!(two.call(), 2);
    /// # }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::Unsupported`] in other modes than `DualMap` and `PerThread`; if `offset` is no
    ///   multiple of the word's length; on AArch64 for eight bytes, and from or to an instruction
    ///   that is not on the list.
    /// - [`Error::PastCapacity`] outside the block.
    /// - [`Error::Forked`] in a child.
    /// - [`Error::OperatingSystem`] if other cores cannot be reached any more: then the word is
    ///   there, but not for every core.
    ///
    /// # Safety
    /// - No other thread writes the same bytes, and no slice from [`CodeBlock::as_bytes`] is used
    ///   from now on. No observer is being [attached](crate::CodeArena::attach).
    /// - Wherever in the word a thread may be about to run an instruction, one begins before and
    ///   after the change: a thread may have run a part of the word's instructions. The word is one
    ///   whole instruction, a part of one, or padding behind it.
    /// - The program is right whichever of the two words a thread runs.
    pub unsafe fn patch_word<W: Word>(&self, offset: usize, word: W) -> Result<(), Error> {
        let word = if W::LEN == 4 { Stored::Four(word.bits() as u32) } else { Stored::Eight(word.bits()) };
        if offset.checked_add(word.len()).is_none_or(|end| end > self.len()) {
            return Err(Error::PastCapacity { offset, len: word.len(), capacity: self.len() });
        }
        if offset % word.len() != 0 {
            return Err(Error::unsupported(WHAT, format!("offset {offset} is no multiple of {}", word.len())));
        }
        let memory = &self.core().memory;
        memory.check_own("patch")?;
        let at = self.offset() + offset;
        if cfg!(target_arch = "aarch64") {
            memory.let_read();
            // SAFETY: inside this live block, readable; aligned, as blocks begin at a granule.
            let old = unsafe { memory.address(at).cast::<u32>().read_volatile() };
            check_instructions(old, word)?;
        }
        // SAFETY: inside this live block, and aligned; the rest is passed on to the caller.
        unsafe { memory.write_word(at, word)? };
        memory.counters.flushed.add(word.len() as u64);
        memory.flush(at..at + word.len())?;
        memory.sync_cores()
    }
}

/// Whether the change is one that AArch64 allows under running threads.
fn check_instructions(old: u32, new: Stored) -> Result<(), Error> {
    let Stored::Four(new) = new else {
        return Err(Error::unsupported(WHAT, "on AArch64 it is four bytes, one instruction"));
    };
    for word in [old, new] {
        if !may_change(u32::from_le(word)) {
            return Err(Error::unsupported(WHAT, format!("the architecture does not allow it for {word:#010x}")));
        }
    }
    Ok(())
}

/// Whether an instruction of AArch64 is `B`, `BL`, `BRK`, `HVC`, `ISB`, `NOP`, `SMC` or `SVC`.
fn may_change(word: u32) -> bool {
    let is = |mask: u32, value: u32| word & mask == value;
    // B and BL; exceptions by the number of bits that tell them apart; hints and barriers.
    is(0x7c00_0000, 0x1400_0000)
        || is(0xffe0_001f, 0xd400_0001)
        || is(0xffe0_001f, 0xd400_0002)
        || is(0xffe0_001f, 0xd400_0003)
        || is(0xffe0_001f, 0xd420_0000)
        || is(0xffff_f0ff, 0xd503_30df)
        || word == 0xd503_201f
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_aarch64_is_the_architectures() {
        let listed = [
            0x1400_0001, // b
            0x97ff_ffff, // bl
            0xd420_0000, // brk #0
            0xd43f_ffe0, // brk #65535
            0xd400_0002, // hvc #0
            0xd503_3fdf, // isb
            0xd503_201f, // nop
            0xd400_0003, // smc #0
            0xd400_0001, // svc #0
        ];
        let others = [
            0x5400_0001, // b.ne
            0xd65f_03c0, // ret
            0xd61f_0200, // br x16
            0x5280_0020, // mov w0, #1
            0xd503_245f, // bti c
            0xd503_3fbf, // dmb sy
            0xd440_0000, // hlt #0
            0x0000_0000, // udf #0
            0x3400_0000, // cbz
        ];
        assert!(listed.iter().all(|word| may_change(*word)), "{listed:x?}");
        assert!(!others.iter().any(|word| may_change(*word)), "{others:x?}");
        let check = |old: u32, new: u32| check_instructions(old.to_le(), Stored::Four(new.to_le()));
        assert!(check(0x1400_0001, 0xd503_201f).is_ok());
        assert!(check(0x1400_0001, 0xd65f_03c0).is_err() && check(0xd65f_03c0, 0x1400_0001).is_err());
        assert!(check_instructions(0x1400_0001, Stored::Eight(0)).is_err());
    }
}
