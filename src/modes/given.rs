//! `Given`: memory that somebody else mapped and continues to own.
//!
//! ```text
//! 2 MiB boundary          first granule                         last granule
//! | offset 0 (never used) | code: executable, at the giver's address |
//!                           alias: writable, or the giver's function     written by the arena
//! ```
//!
//! - *Reserved*: nothing. The arena uses whole granules of the given memory, which may begin and
//!   end anywhere. Offsets are counted from the multiple of 2 MiB before it, so that an aligned
//!   offset is an aligned address.
//! - *Writing*: by stores to a writable alias, or by a function of the embedder, which is called
//!   for a batch when it is published.
//! - *Returning memory*: never. `trim` fills free pages with traps.
//! - *Forked children*: a child may share the memory, and may inherit the alias. The arena writes
//!   to neither in a child.
//!
//! No system call names the memory ([`Region::is_given`]). When the arena is freed, `release` is
//! called.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use super::memory::CodeMemory;
use super::mode::Mode;
use super::probe;
use super::rules::{Readers, Rules, Trims, WayIn};
use super::wx_mode::WxMode;
use crate::Error;
use crate::icache;
use crate::region::Region;
use crate::sys::{self, Os, Refused, Span};
use crate::units::{BRANCH_REACH, DATA_REACH, GRANULE};

/// Memory that somebody else mapped, for
/// [`ArenaBuilder::build_over`](crate::ArenaBuilder::build_over).
///
/// It is for systems on which only the embedder may map code: consoles, sandboxes, iOS with its
/// trusted execution monitor. The arena never maps, protects, advises or unmaps this memory.
///
/// An example is at [`ArenaBuilder::build_over`](crate::ArenaBuilder::build_over).
pub struct GivenMemory {
    /// The memory where code runs: readable and executable. It may begin and end anywhere. The
    /// whole granules of 16 bytes inside it are the capacity of the arena. The limit is the range
    /// of direct branches: 2 GiB on x86-64, 128 MiB on AArch64.
    pub executable: NonNull<[u8]>,
    /// The way by which bytes are written there.
    pub writer: GivenWriter,
    /// Memory for data: readable, writable, and not executable. Whole pages inside it are used.
    /// Their content does not matter. [`CodeArena::data`](crate::CodeArena::data) is placed there.
    /// Modules of Cranelift are refused over given memory. Code and data together are limited by
    /// the reach of references: see [`ArenaBuilder::data`](crate::ArenaBuilder::data).
    ///
    /// Constants stay writable, because protections never change.
    pub data: Option<NonNull<[u8]>>,
    /// A function that is called once, when the last handle, block, batch and guard of the arena
    /// was dropped and nobody uses the memory any more. It is also called if no arena could be
    /// built. If it panics, the panic continues in the thread that dropped the last of these.
    pub release: Option<Box<dyn FnOnce() + Send>>,
}

/// The way by which bytes are written to [`GivenMemory`].
#[non_exhaustive]
pub enum GivenWriter {
    /// Stores to a second mapping of the same memory. This is the address in it of the first
    /// executable byte. It is readable and writable for the same number of bytes.
    Alias(NonNull<u8>),
    /// A function that copies bytes to an offset from the first executable byte. Several threads
    /// call it at the same time, for different bytes.
    ///
    /// If it returns an error or panics, the call that published or patched returns
    /// [`Error::OperatingSystem`], and no code is published. It must not call the arena.
    Copy(Box<GivenCopy>),
}

/// A function that copies bytes to an offset from the first executable byte of [`GivenMemory`].
pub type GivenCopy = dyn Fn(usize, &[u8]) -> io::Result<()> + Send + Sync;

impl fmt::Debug for GivenWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alias(start) => f.debug_tuple("Alias").field(start).finish(),
            Self::Copy(_) => f.debug_tuple("Copy").finish_non_exhaustive(),
        }
    }
}

impl fmt::Debug for GivenMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GivenMemory")
            .field("executable", &self.executable)
            .field("writer", &self.writer)
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}

/// Given memory. `release` is called when it is dropped.
pub(crate) struct Taken {
    memory: GivenMemory,
    release: Release,
}

impl Taken {
    pub(crate) fn new(mut memory: GivenMemory) -> Self {
        let release = Release(Mutex::new(memory.release.take()));
        Self { memory, release }
    }
}

/// Calls `release` once, when it is dropped. (The lock is never taken. It makes the closure `Sync`,
/// although threads share it without using it.)
struct Release(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Drop for Release {
    fn drop(&mut self) {
        if let Some(release) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            release();
        }
    }
}

struct Given {
    writer: Writer,
    /// Dropped with the mode, which is the last part of an arena's memory.
    _release: Release,
}

/// The way by which bytes are written to the first granule and behind it.
enum Writer {
    /// The writable alias of the granules.
    Alias(Span),
    /// The function, and the offset of the first granule from the first given byte.
    Copy(Box<GivenCopy>, usize),
}

/// Builds memory over given memory.
///
/// # Safety
/// - As for [`ArenaBuilder::build_over`](crate::ArenaBuilder::build_over).
pub(super) unsafe fn build(os: &'static dyn Os, taken: Taken) -> Result<CodeMemory, Error> {
    // In this order, so that the user of the memory is dropped before `release` is called.
    let Taken { release, memory } = taken;
    let all = span(memory.executable)?;
    let code = inside(all, GRANULE).ok_or(Error::ZeroSize)?;
    if code.len > BRANCH_REACH {
        return Err(Error::TooLarge { asked: code.len, limit: BRANCH_REACH });
    }
    let data = match memory.data {
        Some(data) => usable_data(span(data)?, all, os.page_size())?,
        None => Span { start: code.start, len: 0 },
    };
    let skipped = code.address() - all.address();
    let writer = match memory.writer {
        GivenWriter::Alias(start) => {
            let alias = span(NonNull::slice_from_raw_parts(start, all.len))?;
            for (what, other) in [("executable memory", all), ("data", data)] {
                if overlap(alias, other) {
                    return Err(Error::unsupported(
                        "the alias",
                        format!("{alias:?} lies in the {what}, {other:?}: no page may be both"),
                    ));
                }
            }
            // SAFETY: inside the alias, which is as long as the executable memory.
            Writer::Alias(Span { start: unsafe { start.add(skipped) }, len: code.len })
        }
        GivenWriter::Copy(copy) => Writer::Copy(copy, skipped),
    };
    let memory = CodeMemory::new(Region::given(os, code, data), Box::new(Given { writer, _release: release }));
    let probed = probe::rewriting(&memory, "build_over");
    // SAFETY: the first granule, which nobody knows yet.
    unsafe { memory.write(memory.first(), &icache::TRAPS)? };
    memory.flush(memory.first()..memory.first() + GRANULE)?;
    probed?;
    Ok(memory)
}

/// Returns the bytes as a span that ends before the address space does.
fn span(bytes: NonNull<[u8]>) -> Result<Span, Error> {
    let span = Span { start: bytes.cast(), len: bytes.len() };
    match span.address().checked_add(span.len) {
        Some(_) => Ok(span),
        None => Err(Error::TooLarge { asked: span.len, limit: usize::MAX - span.address() }),
    }
}

/// Returns the part of a span between multiples of `unit`, a power of two, or `None` if it is
/// empty.
fn inside(span: Span, unit: usize) -> Option<Span> {
    let skip = span.address().wrapping_neg() & (unit - 1);
    let len = span.len.checked_sub(skip)? & !(unit - 1);
    if len == 0 {
        return None;
    }
    // SAFETY: inside the span, as the subtraction shows.
    Some(Span { start: unsafe { span.start.add(skip) }, len })
}

fn overlap(one: Span, other: Span) -> bool {
    one.address() < other.address() + other.len && other.address() < one.address() + one.len
}

/// Returns the whole pages of the data, if code reaches them.
fn usable_data(all: Span, code: Span, page: usize) -> Result<Span, Error> {
    let refused = |why: String| Error::unsupported("the data", why);
    let data = inside(all, page)
        .ok_or_else(|| refused(format!("there is no whole page of {page} bytes in {} bytes", all.len)))?;
    if overlap(all, code) {
        return Err(refused(format!("{all:?} lies in the executable memory, {code:?}: no page may be both")));
    }
    let start = code.address().min(data.address());
    let extent = (code.address() + code.len).max(data.address() + data.len) - start;
    if extent > DATA_REACH {
        return Err(refused(format!("code and data extend over {extent} bytes, and references reach {DATA_REACH}")));
    }
    Ok(data)
}

impl Writer {
    /// Returns the writable address of an offset, if there is an alias.
    fn alias(&self, region: &Region, offset: usize) -> Option<NonNull<u8>> {
        let Self::Alias(alias) = self else { return None };
        debug_assert!(offset - region.first() <= alias.len);
        // SAFETY: inside the alias, which is as long as the region.
        Some(unsafe { alias.start.add(offset - region.first()) })
    }
}

impl Mode for Given {
    fn mode(&self) -> WxMode {
        WxMode::Given
    }

    fn rules(&self, _region: &Region) -> Rules {
        Rules {
            fills_holes: true,
            opens_pages: false,
            way_in: match self.writer {
                Writer::Alias(_) => WayIn::Stores,
                Writer::Copy(..) => WayIn::WriteAtLast,
            },
            trims: Trims::WithTraps,
            collapses_in_steps: false,
            prefaults: false,
            readers: Readers::SharedWithParent,
        }
    }

    unsafe fn write(&self, region: &Region, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        const CALL: &str = "GivenWriter::Copy";
        match &self.writer {
            Writer::Alias(_) => {
                let Some(at) = self.writer.alias(region, offset) else { return Ok(()) };
                // SAFETY: inside the alias. The caller promises that nobody else uses the bytes.
                unsafe { at.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
                Ok(())
            }
            Writer::Copy(copy, skipped) => {
                // A panic is caught, because it is the embedder's, and the callers have to free
                // their space.
                let copied = catch_unwind(AssertUnwindSafe(|| copy(skipped + (offset - region.first()), bytes)));
                let copied = copied.unwrap_or_else(|payload| {
                    // Dropping the payload may panic again.
                    std::mem::forget(payload);
                    Err(io::Error::other("the function panicked"))
                });
                copied.map_err(|source| Error::system(CALL, source))
            }
        }
    }

    unsafe fn fill(&self, region: &Region, offset: usize, code: &[u8], padding: &[u8]) -> Result<(), Error> {
        let padding = match self.writer {
            Writer::Copy(..) if !region.poisons() => &[],
            _ => padding,
        };
        // SAFETY: passed on to the caller.
        unsafe { self.write(region, offset, code)? };
        if padding.is_empty() {
            return Ok(());
        }
        // SAFETY: passed on to the caller.
        unsafe { self.write(region, offset + code.len(), padding) }
    }

    fn writable(&self, region: &Region, offset: usize) -> NonNull<u8> {
        self.writer.alias(region, offset).unwrap_or_else(|| region.span(offset..offset).start)
    }

    unsafe fn decommit(&self, _region: &Region, _range: std::ops::Range<usize>) -> sys::Result<()> {
        Err(Refused::new("giving memory back", io::ErrorKind::Unsupported.into()))
    }

    /// Does nothing, because the owner releases the memory after `release` is called.
    unsafe fn release(&mut self, _region: &Region) {}
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn at(address: usize, len: usize) -> Span {
        Span { start: NonNull::new(std::ptr::without_provenance_mut(address)).unwrap(), len }
    }

    #[test]
    fn whole_units_are_used() {
        let used = |address, len, unit| inside(at(address, len), unit).map(|span| (span.address(), span.len));
        assert_eq!(used(64, 48, 16), Some((64, 48)));
        assert_eq!(used(63, 48, 16), Some((64, 32)));
        assert_eq!(used(65, 31, 16), Some((80, 16)));
        assert_eq!(used(65, 30, 16), None);
        assert_eq!(used(65, 3, 16), None);
        assert_eq!(used(64, 0, 16), None);
        assert_eq!(used(4097, 8191, 4096), Some((8192, 4096)));
    }

    #[test]
    fn data_lies_in_reach_and_beside_the_code() {
        let code = at(1 << 20, 1 << 20);
        let data = |address, len| usable_data(at(address, len), code, 4096).map(|span| (span.address(), span.len));
        assert_eq!(data((2 << 20) + 1, 8192).unwrap(), ((2 << 20) + 4096, 4096));
        assert_eq!(data(65536, 65536).unwrap(), (65536, 65536));
        for (address, len) in [((2 << 20) - 4096, 8192), ((1 << 20) - 4096, 4097), ((2 << 20) + 1, 4096)] {
            assert!(matches!(data(address, len), Err(Error::Unsupported { what: "the data", .. })));
        }
        #[cfg(target_pointer_width = "64")]
        assert!(matches!(data((1 << 20) + DATA_REACH, 4096), Err(Error::Unsupported { what: "the data", .. })));
    }
}
