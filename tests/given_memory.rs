//! Memory that somebody else mapped: shared with a writable alias, or with a function that writes; at odd alignments; and in a
//! process that is killed when it maps, unmaps, protects or advises one of these addresses.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::{asm, call, call_at, child, fork::fork, sandbox};
use gaia_jit::{ArenaBuilder, BlockInfo, Code, CodeArena, Error, GivenMemory, GivenWriter, Observer, WxMode};

/// The trap of each architecture that the tests run on, as far as it is one byte repeated.
const TRAP: Option<u8> = if cfg!(any(target_arch = "x86", target_arch = "x86_64")) { Some(0xcc) } else { None };

/// Two views of one memory, unmapped when it is dropped.
struct Views {
    executable: NonNull<u8>,
    alias: NonNull<u8>,
    len: usize,
}

// SAFETY: addresses; what is there is used by whoever has the arena.
unsafe impl Send for Views {}
// SAFETY: as above.
unsafe impl Sync for Views {}

impl Views {
    fn new(len: usize) -> Self {
        // SAFETY: the name is a C string.
        let file = unsafe { libc::memfd_create(c"given".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(file >= 0);
        // SAFETY: takes numbers only.
        assert_eq!(unsafe { libc::ftruncate(file, len as libc::off_t) }, 0);
        let map = |access| {
            // SAFETY: a new mapping, wherever the system likes.
            let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, file, 0) };
            assert_ne!(start, libc::MAP_FAILED);
            NonNull::new(start.cast()).unwrap()
        };
        let views = Self {
            executable: map(libc::PROT_READ | libc::PROT_EXEC),
            alias: map(libc::PROT_READ | libc::PROT_WRITE),
            len,
        };
        // SAFETY: a descriptor of ours that nobody needs any more.
        unsafe { libc::close(file) };
        views
    }

    fn at(start: NonNull<u8>, offset: usize) -> NonNull<u8> {
        NonNull::new(start.as_ptr().wrapping_add(offset)).unwrap()
    }

    /// `len` bytes from `from` on, to be given to an arena. A function writes them instead of the alias, if that is wanted.
    fn part(self: &Arc<Self>, from: usize, len: usize, with_function: bool) -> GivenMemory {
        assert!(from + len <= self.len);
        let views = Arc::clone(self);
        let writer = if with_function {
            GivenWriter::Copy(Box::new(move |offset, bytes: &[u8]| {
                assert!(offset + bytes.len() <= len, "outside of what was given");
                let to = Self::at(views.alias, from + offset);
                // SAFETY: inside of the view; the arena owns the bytes.
                unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
                Ok(())
            }))
        } else {
            GivenWriter::Alias(Self::at(self.alias, from))
        };
        let views = Arc::clone(self);
        GivenMemory {
            executable: NonNull::slice_from_raw_parts(Self::at(self.executable, from), len),
            writer,
            data: None,
            release: Some(Box::new(move || drop(views))),
        }
    }

    /// The bytes as they stand there.
    fn bytes(&self, range: std::ops::Range<usize>) -> Vec<u8> {
        assert!(range.end <= self.len);
        // SAFETY: inside of the view, and no other thread writes there.
        range.map(|at| unsafe { self.executable.as_ptr().wrapping_add(at).read_volatile() }).collect()
    }
}

impl Drop for Views {
    fn drop(&mut self) {
        for start in [self.executable, self.alias] {
            // SAFETY: mapped by `new`; nobody uses it any more.
            assert_eq!(unsafe { libc::munmap(start.as_ptr().cast(), self.len) }, 0);
        }
    }
}

fn build(memory: GivenMemory) -> Result<CodeArena, Error> {
    build_with(CodeArena::builder(), memory)
}

fn build_with(builder: ArenaBuilder, memory: GivenMemory) -> Result<CodeArena, Error> {
    // SAFETY: views of one memory that stay until `release` was called, and that only the arena uses.
    unsafe { builder.build_over(memory) }
}

/// That all figures add up, and that nothing is taken.
fn check_empty(arena: &CodeArena) {
    let stats = arena.stats();
    assert_eq!(
        (stats.live_blocks, stats.live_bytes, stats.pending_blocks, stats.batch_bytes),
        (0, 0, 0, 0),
        "{stats:#}"
    );
    assert_eq!((stats.free_bytes, stats.largest_hole), (arena.capacity(), arena.capacity()), "{stats:#}");
    assert!(stats.resident_bytes <= stats.capacity);
    let map = arena.map();
    assert_eq!((map.holes.len(), map.holes[0].offset, map.holes[0].len), (1, 0, arena.capacity()));
    assert!(map.pages.iter().all(|page| (page.live, page.pending) == (0, 0)));
}

fn check_sums(arena: &CodeArena) {
    let stats = arena.stats();
    let sum = stats.live_bytes + stats.padding_bytes + stats.pending_bytes + stats.batch_bytes + stats.free_bytes;
    assert_eq!(sum, stats.capacity, "{stats:#}");
    let live: usize = arena.map().pages.iter().map(|page| page.live as usize).sum();
    assert_eq!(live, stats.live_bytes + stats.padding_bytes + stats.batch_bytes);
}

/// That everything works: single functions, a batch, a patch, guards, lookup; and that nothing is left taken.
fn check_works(arena: &CodeArena) {
    assert_eq!(arena.mode(), WxMode::Given);
    let block = arena.publish(Code::new(&asm::constant(7)).tag(3)).unwrap();
    // SAFETY: nobody runs it meanwhile.
    unsafe { block.patch(0, &asm::constant(8)) }.unwrap();
    assert_eq!((call(&block), &block.as_bytes()[..]), (8, &asm::constant(8)[..]));
    let found = arena.lookup(block.as_ptr().wrapping_add(1)).unwrap();
    assert_eq!((found.start, found.tag), (block.as_ptr(), 3));
    assert!(arena.contains(block.as_ptr()));
    let mut batch = arena.batch();
    let reserved = batch.reserve(asm::constant(5).len(), 64).unwrap();
    batch.bytes_mut(reserved).copy_from_slice(&asm::constant(5));
    let pushed: Vec<_> = (0..40).map(|n| batch.push(&asm::padded(n, 100 + n as usize)).unwrap()).collect();
    let address = batch.address(pushed[7]);
    check_sums(arena);
    let blocks = batch.publish().unwrap();
    assert_eq!((call(&blocks[0]), call_at(address)), (5, 7));
    assert!((0..).zip(&blocks[1..]).all(|(n, block)| call(block) == n));
    let mut forgotten = arena.batch();
    forgotten.push(&asm::padded(1, 500)).unwrap();
    drop(forgotten);
    let guard = arena.pin();
    drop(blocks);
    assert_eq!((arena.stats().pending_blocks, call_at(address)), (41, 7));
    check_sums(arena);
    drop(guard);
    drop(block);
    check_empty(arena);
}

/// Full, empty, and full again, with single functions of all sizes: every granule is handed out.
fn check_cycles(arena: &CodeArena) {
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..3 {
        let mut blocks = Vec::new();
        for most in [2000, 16] {
            while let Ok(block) = arena.publish(&asm::padded(blocks.len() as u32, rng.usize(16..=most))) {
                assert!(arena.contains(block.as_ptr()));
                blocks.push(block);
            }
        }
        let stats = arena.stats();
        assert_eq!((stats.free_bytes, stats.largest_hole), (0, 0), "{stats:#}");
        check_sums(arena);
        assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n));
        rng.shuffle(&mut blocks);
        drop(blocks);
        check_empty(arena);
    }
    let all = arena.publish(&asm::padded(9, arena.capacity())).unwrap();
    assert_eq!((call(&all), arena.stats().free_bytes), (9, 0));
    let full = arena.publish(&asm::constant(1)).unwrap_err();
    assert!(matches!(full, Error::ArenaFull { free: 0, .. }), "{full:?}");
    let large = arena.publish(&vec![0; arena.capacity() + 1]).unwrap_err();
    assert!(matches!(large, Error::TooLarge { limit, .. } if limit == arena.capacity()), "{large:?}");
    drop(all);
    check_empty(arena);
}

/// Starts and lengths as they come.
const ODD: [(usize, usize); 11] = [
    (0, 1 << 20),
    (0, 64 << 10),
    (1, (300 << 10) + 5),
    (7, (1 << 20) - 100),
    (4096 + 48, (256 << 10) + 1),
    (4095, 200_000),
    (65536 - 16, (64 << 10) + 33),
    (65536 - 17, 128 << 10),
    (200_001, 3 << 20),
    (16, 16_384),
    ((1 << 20) + 13, 9_999),
];

#[test]
fn any_start_and_any_length_will_do() {
    let views = Arc::new(Views::new(4 << 20));
    for with_function in [false, true] {
        for (from, len) in ODD {
            let arena = build(views.part(from, len, with_function)).unwrap();
            let start = views.executable.as_ptr().addr() + from;
            let usable = (start + len) / 16 * 16 - start.next_multiple_of(16);
            assert_eq!(arena.capacity(), usable, "{from} {len}");
            let address = |at: usize| std::ptr::without_provenance(at);
            assert!(!arena.contains(address(start.next_multiple_of(16) - 1)));
            assert!(arena.contains(address(start.next_multiple_of(16))));
            assert!(arena.contains(address(start.next_multiple_of(16) + usable - 1)));
            assert!(!arena.contains(address(start.next_multiple_of(16) + usable)));
            assert!(arena.lookup(address(start - 1)).is_none());
            check_empty(&arena);
            assert_eq!(arena.stats().resident_bytes, 0);
            check_works(&arena);
            if len <= 1 << 20 {
                check_cycles(&arena);
            }
        }
    }
    assert_eq!(Arc::strong_count(&views), 1, "each was released");
}

#[test]
fn bytes_beside_the_memory_stay_as_they_are() {
    let views = Arc::new(Views::new(1 << 20));
    // SAFETY: the whole view, which no arena has yet.
    unsafe { views.alias.as_ptr().write_bytes(0x5a, views.len) };
    let (from, len) = (100_003, 400_000);
    for with_function in [false, true] {
        let arena = build_with(CodeArena::builder().poison(true), views.part(from, len, with_function)).unwrap();
        check_cycles(&arena);
        arena.trim().unwrap();
    }
    assert!(views.bytes(0..from).iter().chain(&views.bytes(from + len..views.len)).all(|byte| *byte == 0x5a));
}

#[test]
fn alignments_are_those_of_addresses() {
    let views = Arc::new(Views::new(12 << 20));
    for (from, len) in
        [(0, 8 << 20), (1, 8 << 20), (4096 + 48, 8 << 20), (65_536 + 7, 8 << 20), ((2 << 20) + 1, 5 << 20)]
    {
        let arena = build(views.part(from, len, from % 2 == 1)).unwrap();
        let mut blocks = Vec::new();
        let mut batch = arena.batch();
        // The largest first: a smaller one may lie where alone a larger one can.
        for align in (0..=21).rev().map(|shift| 1 << shift) {
            let slot = batch.push(Code::new(&asm::constant(3)).align(align)).unwrap();
            let block = arena.publish(Code::new(&asm::padded(4, 50)).align(align)).unwrap();
            assert_eq!((batch.address(slot).addr() % align, block.as_ptr().addr() % align), (0, 0));
            blocks.push(block);
        }
        let published = batch.publish().unwrap();
        assert!(blocks.iter().all(|block| call(block) == 4) && published.iter().all(|block| call(block) == 3));
        drop((blocks, published));
        check_empty(&arena);
    }
}

/// The owner is told once, behind the last of those that use the memory.
#[test]
fn the_owner_is_told_once_when_nobody_is_left() {
    let views = Arc::new(Views::new(1 << 20));
    let told = Arc::new(AtomicUsize::new(0));
    let memory = || {
        let (count, mut memory) = (Arc::clone(&told), views.part(5, 500_000, false));
        let inner = memory.release.take().unwrap();
        memory.release = Some(Box::new(move || {
            inner();
            count.fetch_add(1, Ordering::SeqCst);
        }));
        memory
    };
    let seen = || told.load(Ordering::SeqCst);
    let arena = build(memory()).unwrap();
    let (clone, batch) = (arena.clone(), arena.batch());
    let (block, raw) =
        (arena.publish(&asm::constant(1)).unwrap(), arena.publish(&asm::constant(2)).unwrap().into_raw());
    // SAFETY: it came from `into_raw` of this arena, just now.
    let second = unsafe { arena.from_raw(raw) }.unwrap();
    drop(arena);
    drop(batch);
    drop(clone);
    assert_eq!((seen(), call(&block), call(&second)), (0, 1, 2));
    drop(block);
    assert_eq!((seen(), call(&second)), (0, 2));
    drop(second);
    assert_eq!(seen(), 1);
    // On another thread, with a batch as the last.
    let batch_of = build(memory()).unwrap();
    std::thread::spawn(move || drop(batch_of.batch())).join().unwrap();
    assert_eq!(seen(), 2);
    // What fails tells it as well.
    assert!(build_with(CodeArena::builder().capacity(4096), memory()).is_err());
    let mut short = memory();
    short.executable = NonNull::slice_from_raw_parts(short.executable.cast(), 3);
    assert!(matches!(build(short), Err(Error::ZeroSize)));
    assert_eq!(seen(), 4);
    // One that was never used tells nothing.
    drop(memory());
    assert_eq!(seen(), 4);
    assert_eq!(Arc::strong_count(&views), 1);
}

#[test]
fn settings_of_whoever_maps_are_refused() {
    let views = Arc::new(Views::new(1 << 20));
    let here: *const u8 = views.executable.as_ptr();
    type Set = Box<dyn Fn(ArenaBuilder) -> ArenaBuilder>;
    let settings: [(&str, Set); 9] = [
        ("capacity", Box::new(|builder| builder.capacity(1 << 20))),
        ("data", Box::new(|builder| builder.data(0))),
        ("mode", Box::new(|builder| builder.mode(WxMode::Given))),
        ("mode", Box::new(|builder| builder.modes(&[]))),
        ("huge_pages", Box::new(|builder| builder.huge_pages(true))),
        ("seal", Box::new(|builder| builder.seal(true))),
        ("landing_pads", Box::new(|builder| builder.landing_pads(true))),
        ("near", Box::new(move |builder| builder.near(here))),
        ("name", Box::new(|builder| builder.name("given"))),
    ];
    for (name, set) in settings {
        match build_with(set(CodeArena::builder()), views.part(0, 1 << 20, false)) {
            Err(Error::Unsupported { what, .. }) => assert_eq!(what, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    for mode in [&[WxMode::Given][..], &[WxMode::Given; 2]] {
        let refused = CodeArena::builder().modes(mode).build();
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    }
    let other = CodeArena::builder().capacity(1 << 20).modes(&[WxMode::Given, WxMode::Flip]).build().unwrap();
    assert_eq!((other.mode(), other.refused()[0].0), (WxMode::Flip, WxMode::Given));
    // No hint, no effect.
    let arena = build_with(CodeArena::builder().keep_free(0).huge_pages(false), views.part(0, 1 << 20, false)).unwrap();
    drop(arena.publish(&asm::padded(1, 500_000)).unwrap());
    assert_eq!((arena.stats().decommits, arena.stats().resident_bytes > 0), (0, true));
    assert!(matches!(arena.collapse(), Err(Error::Unsupported { what: "collapse", .. })));
}

#[test]
fn memory_that_cannot_be_used_is_refused() {
    let views = Arc::new(Views::new(1 << 20));
    for (from, len) in [(0, 0), (0, 15), (1, 30), (15, 16)] {
        assert!(matches!(build(views.part(from, len, false)), Err(Error::ZeroSize)), "{from} {len}");
    }
    for (from, len) in [(0, 16), (1, 31), (15, 17)] {
        let arena = build(views.part(from, len, true)).unwrap();
        assert_eq!((arena.capacity(), call(&arena.publish(&asm::constant(6)).unwrap())), (16, 6));
    }
    #[cfg(target_pointer_width = "64")]
    {
        let mut memory = views.part(0, 16, false);
        memory.executable = NonNull::slice_from_raw_parts(memory.executable.cast(), (2 << 30) + 16);
        assert!(matches!(build(memory), Err(Error::TooLarge { .. })));
    }
    let mut memory = views.part(4096, 1 << 19, false);
    memory.writer = GivenWriter::Alias(views.executable);
    assert!(matches!(build(memory), Err(Error::Unsupported { what: "the alias", .. })));
    let mut memory = views.part(4096, 1 << 19, false);
    memory.data = Some(NonNull::slice_from_raw_parts(views.executable, 8192));
    assert!(matches!(build(memory), Err(Error::Unsupported { what: "the data", .. })));
    // A page of which the arena uses nothing is executable all the same.
    let page = region::page::size();
    let mut memory = views.part(page - 8, 1 << 19, false);
    memory.data = Some(NonNull::slice_from_raw_parts(views.executable, page));
    assert!(matches!(build(memory), Err(Error::Unsupported { what: "the data", .. })));
    // Another memory's alias: what is written there does not run.
    let (other, mut memory) = (Views::new(1 << 20), views.part(0, 1 << 20, false));
    // SAFETY: the whole view, which no arena has. A function that returns 3 stands there.
    unsafe {
        views.alias.copy_from_nonoverlapping(NonNull::from(&asm::constant(3)[..]).cast(), asm::constant(3).len());
    };
    memory.writer = GivenWriter::Alias(other.alias);
    let refused = build(memory);
    assert!(matches!(refused, Err(Error::Unsupported { what: "build_over", .. })), "{refused:?}");
    assert_eq!(Arc::strong_count(&views), 1);
}

/// What panics once more when a panic that it came with is forgotten.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

/// Whatever the function that writes does, what fails is an error, and nothing is lost.
#[test]
fn a_function_that_fails_is_an_error() {
    let views = Arc::new(Views::new(1 << 20));
    let fails = Arc::new(AtomicBool::new(true));
    for panics in [false, true] {
        let memory = || {
            let (mut memory, fails) = (views.part(3, 900_000, true), Arc::clone(&fails));
            let GivenWriter::Copy(inner) = memory.writer else { panic!() };
            memory.writer =
                GivenWriter::Copy(Box::new(move |offset, bytes: &[u8]| match fails.load(Ordering::Relaxed) {
                    false => inner(offset, bytes),
                    true if panics => std::panic::panic_any(Bomb),
                    true => Err(io::ErrorKind::PermissionDenied.into()),
                }));
            memory
        };
        let is_system = |error: &Error| matches!(error, Error::OperatingSystem { call: "GivenWriter::Copy", .. });
        fails.store(true, Ordering::Relaxed);
        assert!(is_system(&build(memory()).unwrap_err()));
        fails.store(false, Ordering::Relaxed);
        let arena = build(memory()).unwrap();
        let block = arena.publish(&asm::constant(1)).unwrap();
        let dropped = arena.publish(&asm::padded(1, 50_000)).unwrap();
        fails.store(true, Ordering::Relaxed);
        assert!(is_system(&arena.publish(&asm::constant(2)).unwrap_err()));
        let mut batch = arena.batch();
        batch.push(&asm::constant(3)).unwrap();
        assert!(is_system(&batch.publish().unwrap_err()));
        // SAFETY: nobody runs it meanwhile; the bytes are what is there.
        assert!(is_system(&unsafe { block.patch(0, &asm::constant(1)) }.unwrap_err()));
        drop(dropped);
        assert!(is_system(&arena.trim().unwrap_err()) && call(&block) == 1);
        check_sums(&arena);
        fails.store(false, Ordering::Relaxed);
        assert_eq!(arena.trim().unwrap(), 0);
        drop(block);
        check_empty(&arena);
        check_works(&arena);
    }
    assert_eq!(Arc::strong_count(&views), 1);
}

/// Nothing of what was there is left after a trim, from the first byte to the last, and live code stays.
#[test]
fn trimming_fills_with_traps() {
    let views = Arc::new(Views::new(2 << 20));
    for with_function in [false, true] {
        for (from, len) in ODD.into_iter().filter(|(from, len)| from + len <= 2 << 20 && *len > 16_384) {
            let arena = build(views.part(from, len, with_function)).unwrap();
            drop(arena.publish(&vec![0x77; arena.capacity()]).unwrap());
            assert!(arena.stats().resident_bytes + 2 * region::page::size() > arena.capacity());
            let kept = arena.publish(Code::new(&asm::padded(4, 5000)).align(4096)).unwrap();
            assert_eq!(arena.trim().unwrap(), 0);
            let (at, page) = (kept.as_ptr().addr() - views.executable.as_ptr().addr(), region::page::size());
            assert!(arena.stats().resident_bytes <= (2 * page).max(page + 5000));
            drop(arena.publish(&vec![0x77; 100]).unwrap());
            assert_eq!((arena.trim().unwrap(), call(&kept)), (0, 4));
            // Before it and behind it; what shares its last page was not to be touched.
            let first =
                (views.executable.as_ptr().addr() + from).next_multiple_of(16) - views.executable.as_ptr().addr();
            let (behind, end) = ((at + 5000).next_multiple_of(page), first + arena.capacity());
            let bytes = [views.bytes(first..at / page * page), views.bytes(behind.min(end)..end)].concat();
            match TRAP {
                Some(trap) => assert!(bytes.iter().all(|byte| *byte == trap), "{from} {len}"),
                None => assert!(!bytes.contains(&0x77), "{from} {len}"),
            }
            check_sums(&arena);
            drop(kept);
            assert_eq!((arena.trim().unwrap(), arena.stats().resident_bytes), (0, 0));
            check_cycles(&arena);
        }
    }
}

#[test]
fn dropped_code_is_poisoned_where_that_is_wanted() {
    let views = Arc::new(Views::new(1 << 20));
    for with_function in [false, true] {
        let arena = build_with(CodeArena::builder().poison(true), views.part(9, 300_000, with_function)).unwrap();
        let block = arena.publish(&vec![0x77; 10_000]).unwrap();
        let at = block.as_ptr().addr() - views.executable.as_ptr().addr();
        assert_eq!(views.bytes(at..at + 10_000), vec![0x77; 10_000]);
        drop(block);
        check_empty(&arena);
        let bytes = views.bytes(at..at + 10_000);
        assert!(TRAP.map_or(!bytes.contains(&0x77), |trap| bytes.iter().all(|byte| *byte == trap)));
        check_works(&arena);
    }
}

#[test]
fn observers_hear_of_it() {
    #[derive(Default)]
    struct Heard(Mutex<Vec<(usize, usize, WxMode)>>);
    impl Observer for Heard {
        fn published(&self, functions: &[gaia_jit::Published<'_>]) {
            assert!(functions.iter().all(|function| !function.code().is_empty()));
        }
        fn retired(&self, _block: &BlockInfo) {}
        fn reserved(&self, space: &gaia_jit::Reservation) {
            self.0.lock().unwrap().push((space.start.addr(), space.len, space.mode));
        }
        fn released(&self, space: &gaia_jit::Reservation) {
            self.0.lock().unwrap().push((space.start.addr(), space.len, space.mode));
        }
    }
    let (views, heard) = (Arc::new(Views::new(1 << 20)), Arc::new(Heard::default()));
    let memory = views.part(17, 200_000, false);
    let arena = build_with(CodeArena::builder().observer(Arc::clone(&heard) as Arc<dyn Observer>), memory).unwrap();
    check_works(&arena);
    let space = (views.executable.as_ptr().addr() + 32, arena.capacity(), WxMode::Given);
    drop(arena);
    assert_eq!(*heard.0.lock().unwrap(), [space; 2]);
}

#[test]
fn many_threads_share_it() {
    let views = Arc::new(Views::new(4 << 20));
    for with_function in [false, true] {
        let arena = build(views.part(70_001, 3_000_000, with_function)).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let arena = &arena;
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(thread);
                    let mut live = Vec::new();
                    for n in 0..common::often(5_000) as u32 {
                        if live.len() > 200 {
                            let (expected, block) = live.swap_remove(rng.usize(..live.len()));
                            assert_eq!(call(&block), expected);
                        }
                        live.push((n, arena.publish(&asm::padded(n, rng.usize(16..1_000))).unwrap()));
                        if n % 1_000 == 0 {
                            assert_eq!(arena.trim().unwrap(), 0);
                        }
                    }
                    assert!(live.iter().all(|(expected, block)| call(block) == *expected));
                });
            }
        });
        check_empty(&arena);
    }
}

/// A child runs what it inherited, and writes nothing.
#[test]
fn a_forked_child_writes_nothing() {
    child::run("a_forked_child_writes_nothing", || {
        for with_function in [false, true] {
            let views = Arc::new(Views::new(1 << 20));
            let arena = build(views.part(1, 500_000, with_function)).unwrap();
            let block = arena.publish(&asm::constant(4)).unwrap();
            let mut batch = arena.batch();
            let slot = batch.push(&asm::constant(5)).unwrap();
            let before = views.bytes(0..views.len);
            assert!(fork(|| {
                assert_eq!((call(&block), &block.as_bytes()[..]), (4, &asm::constant(4)[..]));
                assert!(matches!(arena.publish(&asm::constant(1)), Err(Error::Forked { .. })));
                // SAFETY: refused.
                assert!(matches!(unsafe { block.patch(0, &[0]) }, Err(Error::Forked { .. })));
                assert!(matches!(arena.trim(), Err(Error::Forked { .. })));
                if !with_function {
                    assert!(batch.bytes_mut(slot).is_empty());
                }
                assert!(matches!(batch.publish(), Err(Error::Forked { .. })));
                drop((block, arena));
            }));
            assert_eq!(views.bytes(0..views.len), before);
        }
    });
}

/// From now on the process is killed when a call that maps, unmaps, protects or advises names an address in these ranges.
fn kill_when_named(ranges: &[(usize, usize)]) -> bool {
    let mut calls = vec![
        libc::SYS_munmap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_mremap,
        libc::SYS_mlock,
        libc::SYS_msync,
    ];
    #[cfg(target_pointer_width = "64")]
    calls.extend([libc::SYS_mmap, libc::SYS_pkey_mprotect]);
    sandbox::kill_in(&calls, ranges)
}

/// Everything that an arena does with memory.
fn use_all(memory: GivenMemory) {
    let arena = build_with(CodeArena::builder().keep_free(0), memory).unwrap();
    let blocks: Vec<_> = (0..10_000).map(|n| arena.publish(&asm::padded(n, 16 + n as usize % 90)).unwrap()).collect();
    assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n));
    let mut batch = arena.batch();
    (0..1_000).for_each(|n| assert!(batch.push(&asm::padded(n, 300)).is_ok()));
    let published = batch.publish().unwrap();
    assert!((0..).zip(&published).all(|(n, block)| call(block) == n));
    // SAFETY: nobody runs it meanwhile.
    unsafe { published[0].patch(0, &asm::constant(77)) }.unwrap();
    assert_eq!(call(&published[0]), 77);
    drop(blocks);
    assert_eq!(arena.trim().unwrap(), 0);
    assert!(arena.collapse().is_err());
    assert!(arena.stats().live_blocks == 1_000 && arena.map().holes.len() > 1);
    drop(published);
    assert_eq!(arena.trim().unwrap(), 0);
    check_empty(&arena);
    drop(arena);
}

#[test]
fn no_call_names_the_memory() {
    const NAME: &str = "no_call_names_the_memory";
    child::run(NAME, || {
        for with_function in [false, true] {
            assert!(fork(|| {
                let views = Arc::new(Views::new(4 << 20));
                let data = Views::new(1 << 20);
                let ranges = [views.executable, views.alias].map(|start| (start.as_ptr().addr(), views.len));
                let ranges = [ranges[0], ranges[1], (data.alias.as_ptr().addr(), data.len)];
                if !kill_when_named(&ranges) {
                    return common::not_run(NAME, "no filters here");
                }
                let mut memory = views.part(4096 + 48, (3 << 20) + 77, with_function);
                // Elsewhere it may be out of reach of the code.
                if cfg!(target_arch = "x86_64") {
                    memory.data = Some(NonNull::slice_from_raw_parts(data.alias, data.len));
                }
                match memory.data {
                    Some(at) if at.cast::<u8>().as_ptr().addr().abs_diff(ranges[0].0) > 1 << 30 => memory.data = None,
                    _ => {}
                }
                use_all(memory);
                assert_eq!(Arc::strong_count(&views), 1);
                // To unmap them would be the end.
                std::mem::forget((views, data));
            }));
        }
    });
}

#[test]
fn a_call_that_names_the_memory_would_be_seen() {
    const NAME: &str = "a_call_that_names_the_memory_would_be_seen";
    let output = child::output(NAME, || {
        let views = Views::new(4 << 20);
        let page = region::page::size();
        let last = views.executable.as_ptr().wrapping_add(views.len - page);
        if !kill_when_named(&[(views.executable.as_ptr().addr(), views.len)]) {
            println!("no filters here");
            std::process::exit(0);
        }
        println!("filtered");
        // One that names another address passes.
        drop(vec![0_u8; 10 << 20]);
        // SAFETY: a page that nobody uses.
        unsafe { libc::madvise(views.alias.as_ptr().cast(), page, libc::MADV_NORMAL) };
        println!("others pass");
        // SAFETY: as above; it is expected to be the end.
        unsafe { libc::madvise(last.cast(), page, libc::MADV_NORMAL) };
        println!("survived");
    });
    let said = String::from_utf8_lossy(&output.stdout);
    if said.contains("no filters here") {
        return common::not_run(NAME, "no filters here");
    }
    assert!(said.contains("others pass") && !said.contains("survived"), "{said}");
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&output.status),
        Some(libc::SIGSYS),
        "{:?}",
        output.status
    );
}
