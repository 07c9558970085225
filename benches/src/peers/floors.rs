//! The floors: bare system calls, and copying into memory that is there already.
//!
//! A floor does the least work that makes the same bytes executable. It neither searches for space
//! nor notes which space is free.
//!
//! | type | memory | measured part |
//! |---|---|---|
//! | `Syscalls` | one mapping for each function | mmap, copy, mprotect, munmap |
//! | `PopulatedCopy` | huge pages, populated before | all copies, then one mprotect |
//! | `CopyInBatches` | the same | for each batch mprotect, copies, mprotect |
//! | `PopulatedCopy` in `Fresh` | huge pages, populated in each round | mmap, madvise, copies, mprotect |
//!
//! `PopulatedCopy` is a `Store` as well, for rows that only call code. Then it is filled once,
//! because it cannot publish one function. A refusal of huge pages is ignored, so these floors are
//! slower on such a kernel. `Mapping` is the memory of all of them. Its callers make it writable
//! before `write`.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use anyhow::{Context, Result, bail, ensure};

use super::{BATCH, Bulk, Store};

pub const SYSCALLS: &str = "bare mmap per function";
pub const COPY_WARM: &str = "floor: copy to populated huge pages, mprotect";
pub const HUGE_PAGES: &str = "floor: populated huge pages";
pub const COPY_BATCHES: &str = "floor: copy to populated huge pages, flipped by batch";
pub const COPY_FRESH: &str = "floor: mmap, populate huge pages, copy, mprotect";

const HUGE: usize = 2 << 20;
pub const READ_WRITE: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;
pub const READ_EXECUTE: libc::c_int = libc::PROT_READ | libc::PROT_EXEC;

pub fn page_size() -> usize {
    // SAFETY: a question without side effects.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

fn check(result: libc::c_int, call: &'static str) -> Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()).context(call) }
}

/// Private anonymous memory, unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    pub fn new(len: usize, protection: libc::c_int) -> Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the system's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("mmap");
        }
        Ok(Self { start: NonNull::new(start.cast()).context("mmap returned null")?, len })
    }

    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub fn protect(&self, protection: libc::c_int) -> Result<()> {
        // SAFETY: a whole mapping of our own, whose users know of the change.
        check(unsafe { libc::mprotect(self.as_ptr().cast(), self.len, protection) }, "mprotect")
    }

    fn protect_some(&self, bytes: Range<usize>, protection: libc::c_int) -> Result<()> {
        ensure!(bytes.end <= self.len, "past the end of a mapping");
        // SAFETY: whole pages of a mapping of our own, as just checked, whose users know of the
        // change.
        check(
            unsafe { libc::mprotect(self.as_ptr().wrapping_add(bytes.start).cast(), bytes.len(), protection) },
            "mprotect",
        )
    }

    fn advise(&self, advice: libc::c_int, call: &'static str) -> Result<()> {
        // SAFETY: as for `protect`.
        check(unsafe { libc::madvise(self.as_ptr().cast(), self.len, advice) }, call)
    }

    /// Writes `code` at `offset`; the memory is writable.
    #[inline]
    pub fn write(&mut self, offset: usize, code: &[u8]) {
        assert!(offset + code.len() <= self.len, "past the end of a mapping");
        // SAFETY: inside the mapping, as just checked.
        let to = unsafe { self.start.add(offset) };
        // SAFETY: inside the mapping, which this `&mut` alone uses, and `code` is elsewhere.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(code).cast(), code.len()) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: a mapping of our own that nobody uses any more. A failure leaks memory of a
        // benchmark.
        let _ = unsafe { libc::munmap(self.as_ptr().cast(), self.len) };
    }
}

/// A mapping for each function: mmap, copy, mprotect; munmap.
#[derive(Clone, Copy, Debug, Default)]
pub struct Syscalls;

impl Store for Syscalls {
    type Block = Mapping;

    fn publish(&mut self, code: &[u8]) -> Result<Mapping> {
        let mut block = Mapping::new(code.len().next_multiple_of(4096), READ_WRITE)?;
        block.write(0, code);
        block.protect(READ_EXECUTE)?;
        Ok(block)
    }

    fn retire(&mut self, block: Mapping) -> Result<()> {
        drop(block);
        Ok(())
    }

    fn address(&self, block: &Mapping) -> *const u8 {
        block.as_ptr()
    }
}

/// Copies all functions into populated huge pages, 16-byte aligned, and makes them executable with
/// one call.
pub struct PopulatedCopy {
    memory: Mapping,
    start: usize,
}

impl PopulatedCopy {
    pub fn new(sizes: &[u16]) -> Result<Self> {
        let len = sizes.iter().map(|&size| usize::from(size).next_multiple_of(16)).sum::<usize>();
        // Batches that begin a page each take a little more.
        let len = len + sizes.len().div_ceil(BATCH) * page_size();
        let memory = Mapping::new(len.next_multiple_of(HUGE) + HUGE, READ_WRITE)?;
        // A kernel without huge pages has a slower floor.
        let _ = memory.advise(libc::MADV_HUGEPAGE, "madvise(MADV_HUGEPAGE)");
        memory.advise(libc::MADV_POPULATE_WRITE, "madvise(MADV_POPULATE_WRITE)")?;
        let start = memory.as_ptr().align_offset(HUGE);
        Ok(Self { memory, start })
    }
}

impl Bulk for PopulatedCopy {
    fn load(&mut self, sizes: &[u16], source: &[u8]) -> Result<()> {
        let mut at = self.start;
        for &size in sizes {
            self.memory.write(at, &source[..usize::from(size)]);
            at += usize::from(size).next_multiple_of(16);
        }
        self.memory.protect(READ_EXECUTE)
    }

    fn empty(&mut self) -> Result<()> {
        self.memory.protect(READ_WRITE)
    }
}

/// The same, but the pages of each batch are made writable before it is copied, and executable
/// after it.
pub struct CopyInBatches(PopulatedCopy);

impl CopyInBatches {
    pub fn new(sizes: &[u16]) -> Result<Self> {
        let memory = PopulatedCopy::new(sizes)?;
        memory.memory.protect(READ_EXECUTE)?;
        Ok(Self(memory))
    }
}

impl Bulk for CopyInBatches {
    fn load(&mut self, sizes: &[u16], source: &[u8]) -> Result<()> {
        let mut at = self.0.start;
        for sizes in sizes.chunks(BATCH) {
            let len = sizes.iter().map(|&size| usize::from(size).next_multiple_of(16)).sum::<usize>();
            let pages = at..at + len.next_multiple_of(page_size());
            self.0.memory.protect_some(pages.clone(), READ_WRITE)?;
            for &size in sizes {
                self.0.memory.write(at, &source[..usize::from(size)]);
                at += usize::from(size).next_multiple_of(16);
            }
            self.0.memory.protect_some(pages.clone(), READ_EXECUTE)?;
            at = pages.end;
        }
        Ok(())
    }

    fn empty(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The same memory as a store, filled once: code that surely lies in huge pages.
impl Store for PopulatedCopy {
    type Block = *const u8;

    fn publish(&mut self, _: &[u8]) -> Result<*const u8> {
        bail!("filled as a whole")
    }

    fn retire(&mut self, _: *const u8) -> Result<()> {
        Ok(())
    }

    fn address(&self, block: &*const u8) -> *const u8 {
        *block
    }

    fn fill(&mut self, sizes: &[u16], source: &[u8]) -> Result<Vec<*const u8>> {
        self.load(sizes, source)?;
        let mut at = self.start;
        let next = |&size: &u16| {
            let start = self.memory.as_ptr().wrapping_add(at).cast_const();
            at += usize::from(size).next_multiple_of(16);
            start
        };
        Ok(sizes.iter().map(next).collect())
    }
}
