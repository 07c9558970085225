//! Tests of relocations: they are applied, and the code runs.
//!
//! - *Targets*: slots, blocks of the same and of another arena, addresses of the program, and data.
//!   Branches are direct or load the address from a cell.
//! - *Stubs*: branches to one far target share a stub. If none is free, the error has the offset
//!   and the distance.
//! - *Refusals*: kinds of other architectures, offsets outside of the function, slots of another
//!   batch, a low part without a high part.
//!
//! The code exists for x86-64, AArch64 and RISC-V of 64 bits. On other architectures `jump` and
//! `load` return `None`, and most tests end at once. Some checks are for one architecture, because
//! only its instructions can fail in that way.
//!
//! After a refusal the bytes of the function are compared, and the stub is used by another
//! relocation. This catches a relocation that is half applied, and a stub that is lost.

use std::panic::{AssertUnwindSafe, catch_unwind};

use gaia_jit::{Batch, DataAccess, Error, Misfit, Reloc, Slot, Target};

use super::common::{asm, call, modes, small};

extern "C" fn from_rust() -> u32 {
    40
}

/// Bytes, and their relocations: offset, kind, addend. A low part names the offset of its high
/// part.
struct Open {
    code: Vec<u8>,
    places: Vec<(usize, Reloc, i64)>,
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Returns code that jumps to the target.
fn jump() -> Option<Open> {
    Some(if cfg!(target_arch = "x86_64") {
        Open { code: vec![0xe9, 0, 0, 0, 0], places: vec![(1, Reloc::X86Call32, -4)] }
    } else if cfg!(target_arch = "aarch64") {
        Open { code: words(&[0x1400_0000]), places: vec![(0, Reloc::Arm64Jump26, 0)] }
    } else if cfg!(target_arch = "riscv64") {
        Open { code: words(&[0x0000_0317, 0x0003_0067]), places: vec![(0, Reloc::RiscvCall, 0)] }
    } else {
        return None;
    })
}

/// Returns code that loads 32 bits from the target and returns them.
fn load() -> Option<Open> {
    Some(if cfg!(target_arch = "x86_64") {
        Open { code: vec![0x8b, 0x05, 0, 0, 0, 0, 0xc3], places: vec![(2, Reloc::X86Pc32, -4)] }
    } else if cfg!(target_arch = "aarch64") {
        let places = vec![(0, Reloc::Arm64AdrPrelPgHi21, 0), (4, Reloc::Arm64Ldst32AbsLo12Nc, 0)];
        Open { code: words(&[0x9000_0000, 0xb940_0000, 0xd65f_03c0]), places }
    } else if cfg!(target_arch = "riscv64") {
        let places = vec![(0, Reloc::RiscvPcrelHi20, 0), (4, Reloc::RiscvPcrelLo12I, 0)];
        Open { code: words(&[0x0000_0517, 0x0005_2503, 0x0000_8067]), places }
    } else {
        return None;
    })
}

/// Returns code that jumps to the target by its address in a cell.
fn jump_by_cell() -> Option<Open> {
    Some(if cfg!(target_arch = "x86_64") {
        Open { code: vec![0x48, 0x8b, 0x05, 0, 0, 0, 0, 0xff, 0xe0], places: vec![(3, Reloc::X86GotPc32, -4)] }
    } else if cfg!(target_arch = "aarch64") {
        let places = vec![(0, Reloc::Arm64AdrGotPage, 0), (4, Reloc::Arm64Ld64GotLo12Nc, 0)];
        Open { code: words(&[0x9000_0010, 0xf940_0210, 0xd61f_0200]), places }
    } else if cfg!(target_arch = "riscv64") {
        let places = vec![(0, Reloc::RiscvGotHi20, 0), (4, Reloc::RiscvPcrelLo12I, 0)];
        Open { code: words(&[0x0000_0317, 0x0003_3303, 0x0003_0067]), places }
    } else {
        return None;
    })
}

/// Reserves a function and links it.
fn place(batch: &mut Batch, open: Option<Open>, stubs: usize, target: Target<'_>) -> Result<Slot, Error> {
    let Open { code, places } = open.unwrap();
    let slot = batch.reserve_with_stubs(code.len(), 16, stubs)?;
    batch.bytes_mut(slot)[..code.len()].copy_from_slice(&code);
    for (offset, kind, addend) in places {
        let target = match kind {
            // The high part is at the first instruction.
            Reloc::RiscvPcrelLo12I => Target::Slot(slot),
            _ => target,
        };
        batch.link(slot, offset, kind, target, addend)?;
    }
    Ok(slot)
}

/// The kinds of an architecture are refused on all others.
#[test]
fn kinds_of_other_architectures_are_refused() {
    let arena = small(gaia_jit::WxMode::Flip).build().unwrap();
    let mut batch = arena.batch();
    let slot = batch.reserve(64, 16).unwrap();
    let kinds = [
        (cfg!(target_arch = "x86_64"), Reloc::X86Pc32),
        (cfg!(target_arch = "aarch64"), Reloc::Arm64Call26),
        (cfg!(target_arch = "riscv64"), Reloc::RiscvCall),
    ];
    for (is_here, kind) in kinds {
        match batch.link(slot, 8, kind, Target::Slot(slot), 0) {
            Ok(()) => assert!(is_here),
            Err(Error::Link { slot: 0, offset: 8, kind: said, why: Misfit::OtherArchitecture, .. }) => {
                assert!(!is_here && said == kind);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn functions_reach_functions_blocks_and_the_program() {
    if jump().is_none() {
        return;
    }
    for mode in modes() {
        let (arena, elsewhere) = (small(mode).build().unwrap(), small(mode).build().unwrap());
        let (before, foreign) =
            (arena.publish(&asm::constant(3)).unwrap(), elsewhere.publish(&asm::constant(4)).unwrap());
        let program = from_rust as *const u8;
        let mut batch = arena.batch();
        let seven = batch.push(&asm::constant(7)).unwrap();
        let targets = [
            (Target::Slot(seven), 7),
            (Target::Block(&before), 3),
            (Target::Block(&foreign), 4),
            (Target::Address(program), 40),
            (Target::Address(before.as_ptr()), 3),
        ];
        let mut expected = vec![7];
        for (target, result) in targets {
            for open in [jump(), jump_by_cell()] {
                place(&mut batch, open, 1, target).unwrap();
                expected.push(result);
            }
        }
        let blocks = batch.publish().unwrap();
        assert_eq!(blocks.iter().map(call).collect::<Vec<_>>(), expected, "{mode:?}");
    }
}

#[test]
fn functions_read_data() {
    if load().is_none() {
        return;
    }
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let table = arena.data(12, 4, DataAccess::ReadOnly, |_, bytes| {
            bytes.chunks_mut(4).zip(50_u32..).for_each(|(to, n)| to.copy_from_slice(&n.to_ne_bytes()));
        });
        let table = table.unwrap();
        let mut batch = arena.batch();
        let own =
            batch.data(4, 4, DataAccess::ReadWrite, |_, bytes| bytes.copy_from_slice(&9_u32.to_ne_bytes())).unwrap();
        place(&mut batch, load(), 0, Target::Data(&table)).unwrap();
        place(&mut batch, load(), 0, Target::DataSlot(own)).unwrap();
        let third = place(&mut batch, load(), 0, Target::Data(&table)).unwrap();
        // With an addend, it is the third number.
        for (offset, kind, addend) in load().unwrap().places {
            let (target, addend) = match kind {
                Reloc::RiscvPcrelLo12I => (Target::Slot(third), 0),
                _ => (Target::Data(&table), addend + 8),
            };
            batch.link(third, offset, kind, target, addend).unwrap();
        }
        let (blocks, data) = batch.publish_with_data().unwrap();
        assert_eq!(blocks.iter().map(call).collect::<Vec<_>>(), [50, 9, 52], "{mode:?}");
        // SAFETY: these four bytes are this test's own, and no other thread uses them.
        unsafe { data[0].as_mut_ptr().unwrap().cast::<u32>().write_volatile(11) };
        assert_eq!(call(&blocks[1]), 11);
    }
}

/// Branches to one target share a stub. With more targets than stubs, the error says where.
#[test]
fn a_far_branch_takes_a_stub_if_there_is_one() {
    let Some(Open { code, places }) = jump() else { return };
    let (_, kind, addend) = places[0];
    let at = places[0].0;
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let far = arena.base().wrapping_add(arena.capacity()).wrapping_add(8 << 30);
        let mut batch = arena.batch();
        let slot = batch.reserve_with_stubs(3 * code.len(), 16, 1).unwrap();
        for n in 0..3 {
            batch.bytes_mut(slot)[n * code.len()..][..code.len()].copy_from_slice(&code);
        }
        batch.link(slot, at, kind, Target::Address(far), addend).unwrap();
        batch.link(slot, code.len() + at, kind, Target::Address(far), addend).unwrap();
        let unlinked = batch.bytes_mut(slot).to_vec();
        let other = far.wrapping_add(64);
        let refused = batch.link(slot, 2 * code.len() + at, kind, Target::Address(other), addend);
        let from = batch.address(slot) as i64 + (2 * code.len() + at) as i64;
        match refused {
            Err(Error::Link { slot: 0, offset, kind: said, distance, why: Misfit::OutOfRange, .. }) => {
                assert_eq!((offset, said, distance), (2 * code.len() + at, kind, other as i64 + addend - from));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(batch.bytes_mut(slot), unlinked, "changed by an error");
        // The second branch fails, because another target has the stub.
        batch.link(slot, 2 * code.len() + at, kind, Target::Address(far), addend).unwrap();
        // Without a stub at all.
        let bare = batch.push(&code).unwrap();
        let refused = batch.link(bare, at, kind, Target::Address(far), addend);
        assert!(matches!(refused, Err(Error::Link { slot: 1, why: Misfit::OutOfRange, .. })), "{refused:?}");
        let Open { code, places } = jump_by_cell().unwrap();
        let bare = batch.push(&code).unwrap();
        let refused = batch.link(bare, places[0].0, places[0].1, Target::Address(far), places[0].2);
        assert!(matches!(refused, Err(Error::Link { why: Misfit::NoStub, .. })), "{refused:?}");
    }
}

/// A cell that the instruction cannot reach is not used up, and serves the next relocation.
#[test]
fn what_is_refused_takes_no_stub() {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let Open { code, places } = jump_by_cell().unwrap();
        let (at, kind, addend) = places[0];
        let mut batch = arena.batch();
        let slot = batch.reserve_with_stubs(code.len(), 16, 1).unwrap();
        batch.bytes_mut(slot)[..code.len()].copy_from_slice(&code);
        let unlinked = batch.bytes_mut(slot).to_vec();
        let refused = batch.link(slot, at, kind, Target::Address(from_rust as *const u8), addend + (1 << 40));
        assert!(matches!(refused, Err(Error::Link { why: Misfit::OutOfRange, .. })), "{refused:?}");
        assert_eq!(batch.bytes_mut(slot), unlinked, "changed by an error");
        let seven = arena.publish(&asm::constant(7)).unwrap();
        batch.link(slot, at, kind, Target::Block(&seven), addend).unwrap();
        assert_eq!(call(&batch.publish().unwrap()[0]), 7);
    }
}

#[test]
fn what_lies_outside_is_refused() {
    let Some(Open { code, places }) = jump() else { return };
    let (at, kind, _) = places[0];
    let arena = small(gaia_jit::WxMode::Flip).build().unwrap();
    let (mut batch, mut other) = (arena.batch(), arena.batch());
    let (slot, foreign) = (batch.push(&code).unwrap(), other.push(&code).unwrap());
    let data = other.data(4, 4, DataAccess::ReadWrite, |_, _| {}).unwrap();
    fn link(batch: &mut Batch, slot: Slot, offset: usize, target: Target<'_>) -> Result<(), Error> {
        let Open { places, .. } = jump().unwrap();
        catch_unwind(AssertUnwindSafe(|| batch.link(slot, offset, places[0].1, target, places[0].2))).unwrap()
    }
    assert!(link(&mut batch, slot, at, Target::Slot(slot)).is_ok());
    for offset in [at + 1, code.len(), usize::MAX, usize::MAX - 4] {
        assert!(
            matches!(link(&mut batch, slot, offset, Target::Slot(slot)), Err(Error::PastCapacity { .. })),
            "{offset}"
        );
    }
    assert!(matches!(link(&mut batch, foreign, at, Target::Slot(slot)), Err(Error::OtherBatch { .. })));
    assert!(matches!(link(&mut batch, slot, at, Target::Slot(foreign)), Err(Error::OtherBatch { .. })));
    assert!(matches!(link(&mut batch, slot, at, Target::DataSlot(data)), Err(Error::OtherBatch { .. })));
    if cfg!(target_arch = "riscv64") {
        let refused = batch.link(slot, 4, Reloc::RiscvPcrelLo12I, Target::Slot(slot), 2);
        assert!(matches!(refused, Err(Error::Link { why: Misfit::NoHighPart, .. })), "{refused:?}");
    }
    if !cfg!(target_arch = "x86_64") {
        let refused = batch.link(slot, 0, kind, Target::Slot(slot), 1);
        let is_checked = cfg!(target_arch = "aarch64");
        assert_eq!(matches!(refused, Err(Error::Link { why: Misfit::Misaligned, .. })), is_checked, "{refused:?}");
    }
    // Null may be in reach, because some systems allocate memory in the first gigabytes.
    let far = batch.address(slot).wrapping_add((usize::MAX / 4) & !0xff);
    let said = link(&mut batch, slot, at, Target::Address(far)).unwrap_err().to_string();
    assert!(said.starts_with(&format!("{kind} at offset {at} of slot 0")) && said.contains("out of range"), "{said}");
}
