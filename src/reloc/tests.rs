//! Relocations against the output of a linker for the same bytes.

use super::table::Architecture;
use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap()).collect()
}

struct Vector {
    kind: Reloc,
    place: u64,
    sum: u64,
    before: Vec<u8>,
    /// `None` if the linker refuses.
    after: Option<Vec<u8>>,
}

fn vectors() -> Vec<Vector> {
    let lines = include_str!("vectors.txt").lines().filter(|line| !line.starts_with('#'));
    let parse = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, place, target, addend, before, after] = words[..] else { panic!("{line}") };
        let kind = *Reloc::ALL.iter().find(|kind| format!("{kind:?}") == name).expect(line);
        let hex = |word| u64::from_str_radix(word, 16).unwrap();
        let sum = hex(target).wrapping_add_signed(addend.parse().unwrap());
        let after = (after != "!").then(|| bytes(after));
        Vector { kind, place: hex(place), sum, before: bytes(before), after }
    };
    lines.map(parse).collect()
}

#[test]
fn bytes_are_those_of_a_linker() {
    for Vector { kind, place, sum, before, after } in vectors() {
        let mut got = before.clone();
        let applied = kind.apply(&mut got, kind.value(sum, place));
        match after {
            Some(after) => assert_eq!((applied, got), (Ok(()), after), "{kind:?} {sum:x} - {place:x}"),
            None => {
                assert!(
                    matches!(applied, Err(Misfit::OutOfRange | Misfit::Misaligned)),
                    "{kind:?} {sum:x} - {place:x}"
                );
                assert_eq!(got, before, "{kind:?}: changed by an error");
            }
        }
    }
}

/// Linked bytes are linked again for another target, as if they had never been linked. An addition
/// is undone by a subtraction.
#[test]
fn a_second_time_replaces_the_first() {
    let vectors = vectors();
    let (mut pairs, mut sums) = (0, 0);
    for pair in vectors.windows(2) {
        let [first, second] = pair else { continue };
        let (Some(_), Some(after)) = (&first.after, &second.after) else { continue };
        if first.kind != second.kind {
            continue;
        }
        let mut got = second.before.clone();
        let first_value = first.kind.value(first.sum, first.place);
        first.kind.apply(&mut got, first_value).unwrap();
        if matches!(first.kind, Reloc::RiscvAdd32 | Reloc::RiscvAdd64 | Reloc::RiscvSub32 | Reloc::RiscvSub64) {
            first.kind.apply(&mut got, first_value.wrapping_neg()).unwrap();
            assert_eq!(got, second.before);
            sums += 1;
            continue;
        }
        second.kind.apply(&mut got, second.kind.value(second.sum, second.place)).unwrap();
        assert_eq!(&got, after, "{:?}", first.kind);
        pairs += 1;
    }
    assert!(pairs > 100 && sums > 4, "{pairs} {sums}");
}

/// Every kind has a test, except those that take the value of another one.
#[test]
fn every_kind_is_tried() {
    let vectors = vectors();
    for kind in Reloc::ALL {
        let tried = vectors.iter().any(|vector| vector.kind == *kind);
        let is_of_another = matches!(kind.via(), Via::Cell | Via::CellOfSum | Via::High);
        assert!(tried != is_of_another, "{kind:?}");
        let prefix = match kind.architecture() {
            Architecture::X86_64 => "R_X86_64_",
            Architecture::Arm64 => "R_AARCH64_",
            Architecture::Riscv64 => "R_RISCV_",
        };
        assert!(kind.to_string().starts_with(prefix) && kind.len() > 0);
    }
}

/// High and low parts give the value together, whatever it is.
#[test]
fn two_parts_are_the_whole() {
    for value in [0, 1, 0x7ff, 0x800, 0x801, 0xfff, 0x1000, -1, -0x800, -0x801, 0x7fff_f7ff, -0x8000_0000, 0x1234_5fff]
    {
        let mut high = 0x517_u32.to_le_bytes();
        Reloc::RiscvPcrelHi20.apply(&mut high, value).unwrap();
        for (kind, low_of) in [(Reloc::RiscvPcrelLo12I, 0), (Reloc::RiscvPcrelLo12S, 1)] {
            let mut low = 0_u32.to_le_bytes();
            kind.apply(&mut low, low_12_of_high(value)).unwrap();
            let word = u32::from_le_bytes(low);
            let field = if low_of == 0 { word >> 20 } else { (word >> 25) << 5 | (word >> 7) & 0x1f };
            let low = ((field << 20) as i32 >> 20) as i64;
            let upper = i64::from((u32::from_le_bytes(high) & 0xffff_f000) as i32);
            assert_eq!(upper + low, value, "{kind:?} {value:x}");
        }
    }
}
