//! A jump through a pointer in memory: the code of a redirect. It changes the same register as a
//! [stub](super::stub), and `ip` on 32-bit Arm.

use super::{LANDING_PAD, TRAPS};
use crate::reloc::{Misfit, Reloc, low_12_of_high};
use crate::units::GRANULE;

/// Returns code for the address `at`, which jumps to the address in the pointer at `cell`, read
/// anew each time. Returns `None` if the cell is out of reach, or the architecture is not known.
pub(crate) fn through(at: *const u8, cell: *const u8) -> Option<[u8; GRANULE]> {
    let mut code = TRAPS;
    let (place, cell) = (at.addr() as u64, cell.addr() as u64);
    code[..LANDING_PAD.len()].copy_from_slice(LANDING_PAD);
    let written = if cfg!(target_arch = "x86_64") {
        // jmp [rip + distance]
        put(&mut code, 4, &[0xff, 0x25]).link(6, Reloc::X86Pc32, place + 6, cell.wrapping_sub(4))
    } else if cfg!(target_arch = "x86") {
        // jmp [address]
        put(&mut code, 4, &[0xff, 0x25]).put(6, &(cell as u32).to_le_bytes())
    } else if cfg!(target_arch = "aarch64") {
        // adrp x16, page; ldr x16, [x16, within]; br x16. A jump through x16 may arrive at `bti c`.
        words(&mut code, 4, &[0x9000_0010, 0xf940_0210, 0xd61f_0200])
            .link(4, Reloc::Arm64AdrPrelPgHi21, place + 4, cell)
            .link(8, Reloc::Arm64Ldst64AbsLo12Nc, place + 8, cell)
    } else if cfg!(target_arch = "arm") {
        // ldr ip, [pc, #0]; ldr pc, [ip], also to Thumb code; the cell's address
        words(&mut code, 0, &[0xe59f_c000, 0xe59c_f000]).put(8, &(cell as u32).to_ne_bytes())
    } else if cfg!(any(target_arch = "riscv64", target_arch = "riscv32")) {
        // auipc t1, high; ld (lw) t1, low(t1); jr t1
        let load = if cfg!(target_arch = "riscv64") { 0x0003_3303 } else { 0x0003_2303 };
        let low = low_12_of_high(cell.wrapping_sub(place + 4) as i64) as u64;
        words(&mut code, 4, &[0x0000_0317, load, 0x0003_0067]).link(4, Reloc::RiscvPcrelHi20, place + 4, cell).link(
            8,
            Reloc::RiscvLo12I,
            0,
            low,
        )
    } else if cfg!(target_arch = "s390x") {
        // lgrl %r1, distance in halfwords; br %r1
        let distance = i32::try_from(cell.wrapping_sub(place) as i64 / 2).ok()?;
        put(&mut code, 0, &[0xc4, 0x18]).put(2, &distance.to_be_bytes()).put(6, &[0x07, 0xf1])
    } else {
        return None;
    };
    written.result.ok()?;
    Some(code)
}

/// Code that is being written.
struct Writing<'a> {
    code: &'a mut [u8; GRANULE],
    result: Result<(), Misfit>,
}

fn put<'a>(code: &'a mut [u8; GRANULE], at: usize, bytes: &[u8]) -> Writing<'a> {
    Writing { code, result: Ok(()) }.put(at, bytes)
}

fn words<'a>(code: &'a mut [u8; GRANULE], at: usize, words: &[u32]) -> Writing<'a> {
    let start = Writing { code, result: Ok(()) };
    words.iter().zip(0..).fold(start, |writing, (word, n)| writing.put(at + 4 * n, &word.to_le_bytes()))
}

impl Writing<'_> {
    fn put(self, at: usize, bytes: &[u8]) -> Self {
        if let Some(place) = self.code.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        self
    }

    fn link(self, at: usize, kind: Reloc, place: u64, target: u64) -> Self {
        let result = self.result.and_then(|()| kind.apply(&mut self.code[at..], kind.value(target, place)));
        Self { code: self.code, result }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn it_begins_with_a_landing_pad_and_ends_in_traps() {
        let at = |address: usize| std::ptr::without_provenance::<u8>(address);
        let Some(code) = through(at(64 << 10), at(1 << 20)) else {
            // The crate refuses this architecture altogether.
            return assert!(super::super::check().is_err());
        };
        assert!(code.starts_with(LANDING_PAD));
        let used = match () {
            () if cfg!(any(target_arch = "x86", target_arch = "x86_64")) => 10,
            () if cfg!(target_arch = "arm") => 12,
            () if cfg!(target_arch = "s390x") => 8,
            () => GRANULE,
        };
        assert_eq!(code[used..], TRAPS[used..]);
    }

    #[cfg(any(target_arch = "x86_64", target_arch = "riscv64"))]
    #[test]
    fn a_cell_out_of_reach_is_refused() {
        let at = |address: usize| std::ptr::without_provenance::<u8>(address);
        assert!(through(at(64 << 10), at(1 << 40)).is_none());
        assert!(through(at(1 << 40), at(64 << 10)).is_none());
    }
}
