//! Tests of call frame information: what is accepted, what is refused, and what is registered.
//!
//! `Info` makes the bytes of one CIE and one FDE. A test changes one part of it, and compares the
//! `Refusal`.
//!
//! | what | mistake that it finds |
//! |---|---|
//! | addresses, padding and terminator after relocation | an entry that the unwinder reads past its end |
//! | augmentations and encodings | information at which libgcc aborts, or relative addresses |
//! | ranges, instructions, versions | frames outside of the function, twice, or of unknown form |
//! | 200,000 changed inputs | a read out of bounds |
//! | registration (Linux with glibc) | an address with two entries, or an entry that stays after its function |
//!
//! The tests of registration ask `_Unwind_Find_FDE`, and cover both ways to register: one function
//! at a time, and the way that this machine's unwinder allows.
#![cfg(all(unix, not(target_arch = "arm")))]

use super::Refusal;
use super::eh_frame::relocate;

/// A CIE with an augmentation and its data, and one FDE for `len` bytes at `first`, with
/// instructions for each.
struct Info {
    augmentation: &'static [u8],
    data: Vec<u8>,
    first: usize,
    len: usize,
    common: Vec<u8>,
    own: Vec<u8>,
}

impl Default for Info {
    fn default() -> Self {
        Self {
            augmentation: b"",
            data: vec![],
            first: 0,
            len: 16,
            common: vec![0x0c, 7, 8, 0x90, 1],
            own: vec![0x41, 0x0e, 16],
        }
    }
}

fn entry(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_ne_bytes(), body].concat()
}

impl Info {
    fn cie(&self) -> Vec<u8> {
        let mut body = vec![0, 0, 0, 0, 1];
        body.extend(self.augmentation);
        body.extend([0, 1, 0x78, 16]);
        if self.augmentation.first() == Some(&b'z') {
            body.push(self.data.len() as u8);
            body.extend(&self.data);
        }
        body.extend(&self.common);
        entry(&body)
    }

    /// Appends an FDE at a distance from the CIE.
    fn fde(&self, distance: usize) -> Vec<u8> {
        let mut body = (distance as u32 + 4).to_ne_bytes().to_vec();
        body.extend(self.first.to_ne_bytes());
        body.extend(self.len.to_ne_bytes());
        if self.augmentation.first() == Some(&b'z') {
            body.push(0);
        }
        body.extend(&self.own);
        entry(&body)
    }

    fn bytes(&self) -> Vec<u8> {
        let cie = self.cie();
        [cie.clone(), self.fde(cie.len())].concat()
    }
}

fn refusal(info: &Info) -> Option<Refusal> {
    relocate(&info.bytes(), 0x1000, 64).err()
}

#[test]
fn what_is_right_is_taken_and_moved() {
    let info = Info { first: 8, ..Info::default() };
    let cie = info.cie();
    // The information of two functions. The second tests the bytes after the first.
    let mut bytes = info.bytes();
    let second = Info { first: 24, len: 40, ..Info::default() };
    bytes.extend(second.fde(bytes.len()));
    let frames = relocate(&bytes, 0x1000, 64).unwrap();
    let found: Vec<_> = frames.entries().collect();
    assert_eq!(found.len(), 2);
    for (at, (first, len)) in found.into_iter().zip([(0x1008, 16), (0x1018, 40)]) {
        assert_eq!(at.addr() % align_of::<usize>(), 0);
        let at = at.cast::<u8>();
        let word = |offset: usize| {
            // SAFETY: inside the entry, which is longer than this.
            unsafe { at.wrapping_add(offset).cast::<u32>().read_unaligned() }
        };
        let address = |offset: usize| {
            // SAFETY: as above.
            unsafe { at.wrapping_add(offset).cast::<usize>().read_unaligned() }
        };
        let whole = word(0) as usize + 4;
        assert_eq!((address(8), address(8 + size_of::<usize>())), (first, len));
        assert_eq!((whole % size_of::<usize>(), word(whole)), (0, 0), "a zero follows");
        let entry = at.wrapping_add(4).wrapping_sub(word(4) as usize);
        // SAFETY: it is the CIE as given, which lies before its FDEs.
        let copy = unsafe { std::slice::from_raw_parts(entry.wrapping_add(4), cie.len() - 4) };
        assert_eq!(copy, &cie[4..]);
    }
}

#[test]
fn augmentations_with_absolute_addresses_are_taken() {
    let word = size_of::<usize>();
    let personality: Vec<u8> = [&[0][..], &vec![1; word], &[0xff, 0]].concat();
    for (augmentation, data) in [(&b"z"[..], vec![]), (b"zR", vec![0]), (b"zRS", vec![0]), (b"zPLR", personality)] {
        assert_eq!(refusal(&Info { augmentation, data, ..Info::default() }), None);
    }
    let with = |augmentation, data| refusal(&Info { augmentation, data, ..Info::default() });
    assert_eq!(with(b"zR", vec![0x1b]), Some(Refusal::Encoding { at: 0, encoding: 0x1b }));
    assert_eq!(with(b"zP", vec![0x9b, 0, 0, 0, 0]), Some(Refusal::Encoding { at: 0, encoding: 0x9b }));
    // Augmentations at which libgcc aborts, or reads one byte too many.
    assert_eq!(with(b"zP", vec![0xff]), Some(Refusal::Encoding { at: 0, encoding: 0xff }));
    assert_eq!(with(b"zPR", vec![0xff, 0]), Some(Refusal::Encoding { at: 0, encoding: 0xff }));
    assert_eq!(with(b"zBR", vec![0]), Some(Refusal::Augmentation { at: 0 }));
    assert_eq!((with(b"zRB", vec![0]), with(b"zRSB", vec![0])), (None, None));
    assert_eq!(with(b"zQ", vec![0]), Some(Refusal::Augmentation { at: 0 }));
    assert_eq!(with(b"eh", vec![]), Some(Refusal::Augmentation { at: 0 }));
    assert!(matches!(with(b"zRRR", vec![0]), Some(Refusal::Truncated { .. })));
    // Each FDE has to have an address of exception tables, and here has none.
    assert!(matches!(with(b"zL", vec![0]), Some(Refusal::Truncated { .. })));
}

#[test]
fn ranges_stay_in_the_function_and_apart() {
    let with = |first, len| refusal(&Info { first, len, ..Info::default() });
    assert_eq!((with(0, 64), with(63, 1)), (None, None));
    for (first, len) in [(0, 0), (0, 65), (64, 1), (usize::MAX, 1), (1, usize::MAX), (usize::MAX, usize::MAX)] {
        assert!(matches!(with(first, len), Some(Refusal::Range { size: 64, .. })), "{first} {len}");
    }
    let mut twice = Info::default().bytes();
    twice.extend(Info { first: 15, ..Info::default() }.fde(twice.len()));
    assert!(matches!(relocate(&twice, 0, 64), Err(Refusal::Range { start: 15, len: 16, .. })));
}

#[test]
fn instructions_are_whole_and_known() {
    let with = |own: &[u8]| refusal(&Info { own: own.to_vec(), ..Info::default() });
    let right: [&[u8]; 9] = [
        &[],
        &[0x0a, 0x41, 0x0b],
        &[0x02, 1, 0x03, 1, 1, 0x04, 1, 1, 1, 1],
        &[0x05, 0x80, 0x01, 2, 0x86, 2, 0xc6],
        &[0x0f, 2, 0x77, 8],
        &[0x10, 6, 1, 0x50, 0x16, 6, 0],
        &[0x11, 6, 0x7f, 0x13, 0x7e, 0x14, 6, 2],
        &[0x2d, 0x2e, 8, 0],
        &[0x09, 6, 7, 0x08, 6, 0x07, 6, 0x06, 6],
    ];
    for own in right {
        assert_eq!(with(own), None, "{own:x?}");
    }
    for own in [&[0x01, 0, 0, 0, 0, 0, 0, 0, 0][..], &[0x17], &[0x3f], &[0x0b], &[0x0a, 0x0b, 0x0b]] {
        assert!(matches!(with(own), Some(Refusal::Instruction { .. })), "{own:x?}");
    }
    for own in [&[0x02][..], &[0x04, 1, 1], &[0x86], &[0x0e, 0x80], &[0x0f, 5, 1], &[0x10, 6], &[0x0e, 0xff, 0xff]] {
        assert!(matches!(with(own), Some(Refusal::Truncated { .. })), "{own:x?}");
    }
    // A number that is too long is cut off. A length that is too large ends too early.
    assert_eq!(with(&[0x0e, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]), None);
    assert!(with(&[0x0f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).is_some());
}

#[test]
fn entries_are_whole_and_of_a_known_version() {
    let good = Info::default().bytes();
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        relocate(&bytes, 0, 64).err()
    };
    assert_eq!(changed(8, 4), Some(Refusal::Version { at: 0, version: 4 }));
    let fde = Info::default().cie().len();
    let own_id = if cfg!(target_endian = "little") { fde + 4 } else { fde + 7 };
    assert_eq!(changed(own_id, good[own_id] + 1), Some(Refusal::NoCie { at: fde }));
    assert_eq!(changed(own_id, good[own_id] - 1), Some(Refusal::NoCie { at: fde }));
    assert_eq!(relocate(&[0xff; 16], 0, 64).err(), Some(Refusal::Version { at: 0, version: 64 }));
    assert_eq!(relocate(&good[..fde], 0, 64).err(), Some(Refusal::NoFunction));
    assert_eq!(relocate(&[0; 4], 0, 64).err(), Some(Refusal::NoFunction));
    assert_eq!(relocate(&[&good[..], &[0; 4]].concat(), 0, 64).err(), None, "a zero ends it");
    for len in 0..good.len() {
        assert!(relocate(&good[..len], 0, 64).is_err(), "{len}");
    }
}

#[test]
fn whatever_it_is_it_is_read_within_bounds() {
    let word = size_of::<usize>();
    let data = [&[0][..], &vec![1; word], &[0xff, 0]].concat();
    let good = [
        Info::default().bytes(),
        Info { augmentation: b"zPLR", data, own: vec![0x0a, 0x0b, 0x0f, 1, 0x50], ..Info::default() }.bytes(),
    ];
    let mut random = fastrand::Rng::with_seed(7);
    let mut taken = 0;
    for n in 0..200_000 {
        let mut bytes = good[n % 2].clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = if random.bool() { random.u8(..) } else { [0, 1, 4, 0x7f, 0x80, 0xff][random.usize(..6)] };
        }
        bytes.truncate(random.usize(..bytes.len() * 2));
        if let Ok(frames) = relocate(&bytes, 0x1000, 64) {
            taken += 1;
            assert!(frames.entries().count() > 0);
        }
    }
    assert!(taken > 0);
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn is_known(pc: *const u8) -> bool {
    unsafe extern "C" {
        fn _Unwind_Find_FDE(pc: *const u8, bases: *mut [usize; 3]) -> *const u8;
    }
    let mut bases = [0; 3];
    // SAFETY: it writes the three addresses of its `struct dwarf_eh_bases`.
    !unsafe { _Unwind_Find_FDE(pc, &raw mut bases) }.is_null()
}

/// Of two unwinders, and of arenas that were freed without an event, as in a forked child, one
/// entry for an address is left.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn an_address_is_registered_once() {
    use super::native::Tables;
    use crate::{BlockInfo, Published, Reservation, UnwindInfo, WxMode};

    let memory = vec![0_u8; 256];
    let at = |offset: usize| memory.as_ptr().wrapping_add(offset);
    let of = |first, len| Info { first, len, ..Info::default() }.bytes();
    let (whole, part) = (of(0, 64), of(8, 16));
    let publish = |tables: &Tables, offset, frame| {
        let block = BlockInfo { start: at(offset), len: 64, tag: 0 };
        tables.publish(&[Published::pretended(block, Some(UnwindInfo::EhFrame(frame)))], |_, why| panic!("{why}"));
        block
    };
    for make in [|| Tables::new().unwrap(), Tables::alone] {
        let (first, second) = (make(), make());
        publish(&first, 0, &whole);
        let block = publish(&second, 0, &part);
        assert_eq!((first.len(), second.len()), (0, 1));
        assert!(is_known(at(8)) && !is_known(at(32)), "what was there before");
        // Both unwinders get the event.
        first.free(&block);
        assert!(!is_known(at(8)));
        second.free(&block);
        publish(&first, 0, &whole);
        publish(&first, 64, &whole);
        // No event says that the arena is gone, and there is another arena in its place.
        drop(first);
        let space = Reservation { start: at(0), len: 128, mode: WxMode::Flip };
        second.reserved(&space);
        assert!(!is_known(at(0)) && !is_known(at(64)));
        assert_eq!(second.len(), 0);
    }
}

/// Both ways of registration, independent of this machine's unwinder.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn what_is_registered_is_found_until_it_is_freed() {
    use super::native::Tables;
    use crate::{BlockInfo, Published, UnwindInfo};

    // The functions lie in memory without code, across several windows.
    let memory = vec![0_u8; 64 << 10];
    let frame = Info { first: 8, ..Info::default() }.bytes();
    let functions: Vec<Published<'_>> = (0..1000)
        .map(|n| {
            let block = BlockInfo { start: memory.as_ptr().wrapping_add(64 * n), len: 64, tag: 0 };
            Published::pretended(block, Some(UnwindInfo::EhFrame(&frame)))
        })
        .collect();
    for tables in [Tables::new().unwrap(), Tables::alone()] {
        let mut live: Vec<&Published<'_>> = Vec::new();
        let mut random = fastrand::Rng::with_seed(5);
        for batch in functions.chunks(100) {
            tables.publish(batch, |block, why| panic!("{block:?}: {why}"));
            // Published again, as if attached twice.
            tables.publish(&batch[..3], |block, why| panic!("{block:?}: {why}"));
            live.extend(batch);
            random.shuffle(&mut live);
            for gone in live.split_off(live.len() - 60) {
                tables.free(&gone.block);
                tables.free(&gone.block);
                assert!(!is_known(gone.block.start.wrapping_add(8)));
            }
            assert_eq!(tables.len(), live.len());
            for function in &live {
                let start = function.block.start;
                assert!(is_known(start.wrapping_add(8)) && is_known(start.wrapping_add(23)));
                assert!(!is_known(start.wrapping_add(7)) && !is_known(start.wrapping_add(24)));
            }
        }
        let space = crate::Reservation { start: memory.as_ptr(), len: memory.len(), mode: crate::WxMode::Flip };
        tables.released(&space);
        assert_eq!(tables.len(), 0);
        assert!(functions.iter().all(|function| !is_known(function.block.start.wrapping_add(8))));
    }
}
