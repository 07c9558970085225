//! Tests of memory that somebody else mapped: shared with a writable alias, or with a function that
//! writes; at odd alignments; and in a process that is ended if it maps, unmaps, protects or
//! advises one of these addresses.
//!
//! | File | What is in it |
//! |---|---|
//! | `places` | where the memory may begin and end |
//! | `calls` | filters that end the process at a forbidden system call |
//! | `life` | traps, observers, threads, forked children, the release |
//! | `refusals` | memory that is not accepted, and a writing function that fails |
//!
//! This file has the helpers. `Views` maps one file twice. `check_works` tries every kind of call,
//! `check_cycles` fills the arena to the last granule, and `check_sums` adds up all figures. The
//! tests need Linux. They need a system on which two views of one memory show the same code, and
//! otherwise print `NOT RUN`.

mod calls;
mod life;
mod places;
mod refusals;

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::{self, asm, call, call_at, child, fork::fork, sandbox};
use gaia_jit::{ArenaBuilder, BlockInfo, Code, CodeArena, Error, GivenMemory, GivenWriter, Observer, WxMode};

/// The trap of each architecture that the tests run on, if it is one byte repeated.
const TRAP: Option<u8> = if cfg!(any(target_arch = "x86", target_arch = "x86_64")) { Some(0xcc) } else { None };

/// Returns whether bytes that are written to one view run in the other, and prints a message if
/// not: user-mode emulators run code that they translated before.
fn has_two_views(test: &str) -> bool {
    let has = common::modes().any(|mode| mode == WxMode::DualMap);
    if !has {
        common::not_run(test, "what is written to a second view does not run here");
    }
    has
}

/// Two views of one memory. The drop unmaps them.
struct Views {
    executable: NonNull<u8>,
    alias: NonNull<u8>,
    len: usize,
}

// SAFETY: these are addresses. Only the code that has the arena uses the memory.
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
        // SAFETY: the descriptor is this test's own, and is not used any more.
        unsafe { libc::close(file) };
        views
    }

    fn at(start: NonNull<u8>, offset: usize) -> NonNull<u8> {
        NonNull::new(start.as_ptr().wrapping_add(offset)).unwrap()
    }

    /// Returns `len` bytes from `from` on, to be given to an arena. With `with_function` a function
    /// writes them instead of the alias.
    fn part(self: &Arc<Self>, from: usize, len: usize, with_function: bool) -> GivenMemory {
        assert!(from + len <= self.len);
        let views = Arc::clone(self);
        let writer = if with_function {
            GivenWriter::Copy(Box::new(move |offset, bytes: &[u8]| {
                assert!(offset + bytes.len() <= len, "outside of what was given");
                let to = Self::at(views.alias, from + offset);
                // SAFETY: the range is inside of the view, and the arena owns the bytes.
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

    /// Returns the bytes of the view.
    fn bytes(&self, range: std::ops::Range<usize>) -> Vec<u8> {
        assert!(range.end <= self.len);
        // SAFETY: the range is inside of the view, and no other thread writes there.
        range.map(|at| unsafe { self.executable.as_ptr().wrapping_add(at).read_volatile() }).collect()
    }
}

impl Drop for Views {
    fn drop(&mut self) {
        for start in [self.executable, self.alias] {
            // SAFETY: `new` mapped it, and nobody uses it any more.
            assert_eq!(unsafe { libc::munmap(start.as_ptr().cast(), self.len) }, 0);
        }
    }
}

fn build(memory: GivenMemory) -> Result<CodeArena, Error> {
    build_with(CodeArena::builder(), memory)
}

fn build_with(builder: ArenaBuilder, memory: GivenMemory) -> Result<CodeArena, Error> {
    // SAFETY: these are views of one memory. They stay until `release` was called, and only the
    // arena uses them.
    unsafe { builder.build_over(memory) }
}

/// Checks that all figures add up, and that nothing is taken.
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

/// Checks that everything works: single functions, a batch, a patch, guards, lookup. Nothing is
/// left taken.
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

/// Fills the arena, empties it, and fills it again, with single functions of all sizes: every
/// granule is used.
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
