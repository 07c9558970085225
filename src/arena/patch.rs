//! Changing one word of published code while threads run it.
//!
//! An architecture promises for some instructions that a thread runs the old word or the new one,
//! if the word is written by one store. The list of promises, with their sources, is at
//! [`CodeBlock::patch_word`].
//!
//! ```text
//! check place and length --> AArch64: check both instructions --> one store --> flush, synchronise
//! ```
//!
//! A store needs a writable address or a right of the thread, so this works in `DualMap` and
//! `PerThread`. In the other modes the kernel copies, and promises nothing about pieces. There a
//! [`Redirect`](crate::Redirect) changes data instead of code. No lock is taken.

use super::CodeBlock;
use crate::Error;
use crate::sys::Word as Stored;

/// A word that [`CodeBlock::patch_word`] can store: `u32` or `u64`.
pub trait Word: sealed::Word {}

impl Word for u32 {}
impl Word for u64 {}

mod sealed {
    pub trait Word {
        const LEN: usize;

        /// Returns the word, in the low bits.
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
    /// Changes four or eight bytes of code by one store that no thread sees in parts. Threads may
    /// be running them: each runs the old bytes or the new ones. When this returns, a thread that
    /// learns of it by any means of synchronisation runs the new bytes.
    ///
    /// The word has the byte order of the machine. Uses are: to give a branch another target, to
    /// switch an instruction on or off, and to change a constant in an instruction. Only `DualMap`
    /// and `PerThread` support it. In other modes the kernel copies, and does not promise to do so
    /// in one piece. (A pointer in data serves most of these uses, in every mode: see
    /// [`Redirect`](crate::Redirect).)
    ///
    /// # Promises of the architectures
    ///
    /// - *AArch64* (Arm ARM, B2.2.5, "Concurrent modification and execution of instructions"): if
    ///   the old and the new instruction are each one of `B`, `BL`, `BRK`, `HVC`, `ISB`, `NOP`,
    ///   `SMC` and `SVC`, another core executes the old one or the new one. For all other
    ///   instructions nothing is promised, so they are refused here, and so are eight bytes.
    /// - *x86* (Intel SDM volume 3, "Handling Self- and Cross-Modifying Code"; AMD APM volume 2,
    ///   "Cross-Modifying Code"): an aligned store within a cache line is one piece for instruction
    ///   fetch too. A core is promised to run the new bytes after it serialises. In `DualMap` the
    ///   store is made through another linear address, in `PerThread` through the same one. All
    ///   known processors notice the store in both cases.
    /// - *RISC-V* (unprivileged specification, "Zifencei" and "Ziccif"): fetches of aligned words
    ///   up to the width of a register are one piece. Other cores see the store after they execute
    ///   a `fence.i`, which this call makes them do.
    /// - *s390x* (Principles of Operation, "Block-Concurrent References" and "Conceptual
    ///   Sequence"): aligned words are stored and fetched in one piece. Other cores see the store
    ///   after they serialise, which this call makes them do.
    /// - *32-bit Arm* (Arm ARM for A and R profiles, A3.5.4): the same list as for AArch64, in its
    ///   own encoding. This call does not check it.
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
    /// - [`Error::Unsupported`] in other modes than `DualMap` and `PerThread`.
    /// - [`Error::Unsupported`] if `offset` is no multiple of the word's length.
    /// - [`Error::Unsupported`] on AArch64 for eight bytes, and if the old or the new instruction
    ///   is not on the list.
    /// - [`Error::PastCapacity`] if the word does not lie inside the block.
    /// - [`Error::Forked`] in a forked child.
    /// - [`Error::OperatingSystem`] if other cores cannot be synchronised. The word is then
    ///   written, but not visible to every core.
    ///
    /// # Safety
    /// - No other thread writes the same bytes, and no slice from [`CodeBlock::as_bytes`] is used
    ///   from now on. No observer is being [attached](crate::CodeArena::attach).
    /// - At each byte of the word where a thread may begin to run an instruction, an instruction
    ///   begins before and after the change, because a thread may already have run a part of the
    ///   instructions in the word. The word is one whole instruction, a part of one, or padding
    ///   behind it.
    /// - The program is correct whether a thread runs the old word or the new one.
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
            // SAFETY: inside this live block, and readable. It is aligned, because blocks begin at
            // a granule.
            let old = unsafe { memory.address(at).cast::<u32>().read_volatile() };
            check_instructions(old, word)?;
        }
        // SAFETY: inside this live block, and aligned. The rest is passed on to the caller.
        unsafe { memory.write_word(at, word)? };
        memory.counters.flushed.add(word.len() as u64);
        memory.flush(at..at + word.len())?;
        memory.sync_cores()
    }
}

/// Checks that AArch64 allows this change under running threads.
fn check_instructions(old: u32, new: Stored) -> Result<(), Error> {
    let Stored::Four(new) = new else {
        return Err(Error::unsupported(WHAT, "AArch64 allows four bytes at a time, one instruction"));
    };
    for word in [old, new] {
        if !may_change(u32::from_le(word)) {
            return Err(Error::unsupported(
                WHAT,
                format!("AArch64 does not allow the instruction {word:#010x} to change under threads"),
            ));
        }
    }
    Ok(())
}

/// Returns whether an instruction of AArch64 is `B`, `BL`, `BRK`, `HVC`, `ISB`, `NOP`, `SMC` or
/// `SVC`.
fn may_change(word: u32) -> bool {
    let is = |mask: u32, value: u32| word & mask == value;
    // B and BL; exceptions, by the bits that tell them apart; hints and barriers.
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
