//! Names, code and times for `perf inject --jit`.
//!
//! # The format
//!
//! Version 1, as in `tools/perf/Documentation/jitdump-specification.txt` of the Linux sources: a
//! header, then records. All numbers are in the byte order of the machine. A function is one
//! `JIT_CODE_LOAD`; `JIT_CODE_CLOSE` ends the file.
//!
//! `perf record` learns of the file by an executable mapping of its first page. That page holds
//! nothing but the header and a record without content, which fills it up: copies of code, in a
//! file that this process can write to, must not be executable, not even at an address that nobody
//! uses. (A larger header would do as well, but `perf` up to 6.1 and beyond gives up on headers of
//! over 80 bytes: it reads what follows with a length of 0.) The record is of the kind
//! `JIT_CODE_DEBUG_INFO`, of no lines, which every reader knows.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapOptions};

use super::claim::Kind;
use super::machine::MACHINE;
use super::name;
use super::sink::Sink;
use crate::sync::{AtomicU64, Ordering, thread_number};
use crate::sys::generation;
use crate::{Error, Observer, Published};

const MAGIC: u32 = 0x4a69_5444;
const VERSION: u32 = 1;
const HEADER: u32 = 40;
const CODE_LOAD: u32 = 0;
const DEBUG_INFO: u32 = 2;
const CODE_CLOSE: u32 = 3;
/// What every record begins with: its kind, its length, and when it was written.
const PREFIX: usize = 16;
/// A `JIT_CODE_LOAD` without name and code.
const LOAD: usize = PREFIX + 40;

/// Writes `jit-PID.dump`, from which `perf inject --jit` makes an object file for every function.
///
/// Unlike in a [`PerfMap`](super::PerfMap), an address can be used again, as functions carry the
/// time of their publication, and `perf annotate` shows their instructions. The price is a copy of
/// all code in the file, and a file for each function when it is read. Only the owner can read it,
/// and nothing removes it.
///
/// ```
/// use std::sync::Arc;
/// use gaia_jit::{Code, CodeArena, observe::Jitdump};
///
/// let dump = Arc::new(Jitdump::in_directory(std::env::temp_dir())?);
/// let arena = CodeArena::builder().capacity(1 << 20).observer(dump.clone()).build()?;
/// let block = arena.publish(Code::new(&[0xc3]).name("nothing"))?;
/// dump.flush()?; // or drop the dump and the arena
/// assert!(std::fs::metadata(dump.path())?.len() > 0);
/// # std::fs::remove_file(dump.path())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// ```text
/// perf record -k mono -e cycles ./program
/// perf inject --jit -i perf.data -o perf.jit.data
/// perf report -i perf.jit.data
/// ```
///
/// It works in all modes. On Apple's systems times are those of `mach_absolute_time`, which samply
/// expects there; that was never run.
///
/// When it is written, and what is lost when the process dies, is as with
/// [`PerfMap`](super::PerfMap#when-it-is-written). A retired function is not told of: the format
/// has nothing for that. Samples that fall where it was go to its name until another function is
/// published there.
pub struct Jitdump {
    sink: Sink,
    process: u32,
    /// The number of the next function: `perf` names its files by it.
    next: AtomicU64,
    /// The page by which `perf record` learns of the file, and, if it is attached later, the proof
    /// that it is used.
    _marker: Mmap,
}

impl Jitdump {
    /// Makes the file in the directory that the environment variable `JITDUMPDIR` names, else in
    /// the current one.
    ///
    /// # Errors
    /// As for [`Jitdump::in_directory`].
    pub fn new() -> Result<Self, Error> {
        let directory = std::env::var_os("JITDUMPDIR").filter(|name| !name.is_empty());
        Self::in_directory(directory.unwrap_or_else(|| ".".into()))
    }

    /// Makes the file in a directory. One that is left of an earlier process of the same number is
    /// removed first; a link is not followed. `perf inject` puts its own files next to it.
    ///
    /// # Errors
    /// - [`Error::Unsupported`] if this process writes the file already: one serves all arenas.
    ///   Also if other code of the process writes it, or another process of the same number (in a
    ///   container that shares the directory): take another directory.
    /// - [`Error::OperatingSystem`], with the path, if it cannot be made, or cannot be mapped
    ///   executable: its file system is mounted `noexec`.
    pub fn in_directory(directory: impl AsRef<Path>) -> Result<Self, Error> {
        let Some(machine) = MACHINE else {
            return Err(Error::unsupported("Jitdump", "ELF has no name for this architecture"));
        };
        // Absolute, as perf may be run elsewhere.
        let directory = std::path::absolute(directory);
        let directory = directory.map_err(|source| Error::system("getcwd", source))?;
        let process = std::process::id();
        let path: PathBuf = directory.join(format!("jit-{process}.dump"));
        let (sink, file) = Sink::create("a second Jitdump", path, Kind::Alone, &first_page(machine, process))?;
        let marker = marker(&file, sink.path()).inspect_err(|_| drop(std::fs::remove_file(sink.path())))?;
        Ok(Self { sink, process, next: AtomicU64::new(0), _marker: marker })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.sink.path()
    }

    /// Writes all that was published before the call.
    ///
    /// # Errors
    /// [`Error::OperatingSystem`] if it cannot be written; it is then lost. [`Error::Unsupported`]
    /// in a forked child.
    pub fn flush(&self) -> Result<(), Error> {
        self.sink.flush()
    }

    /// Functions that could not be written, and never will be: the disk was full, or the file was
    /// removed.
    pub fn lost(&self) -> u64 {
        self.sink.lost()
    }

    fn load(&self, out: &mut Vec<u8>, function: &Published<'_>, time: u64, thread: u32, index: u64) {
        let (from, block) = (out.len(), function.block);
        // The length comes when it is known.
        prefix(out, CODE_LOAD, 0, time);
        out.extend_from_slice(&self.process.to_ne_bytes());
        out.extend_from_slice(&thread.to_ne_bytes());
        let address = block.start.addr() as u64;
        // Not as `block` says, which may be of somebody's own invention: what is read is the block
        // itself.
        let len = function.with_code(<[u8]>::len) as u64;
        for number in [address, address, len, index] {
            out.extend_from_slice(&number.to_ne_bytes());
        }
        name::push(out, function);
        out.push(0);
        function.with_code(|code| out.extend_from_slice(code));
        match u32::try_from(out.len() - from) {
            Ok(len) => out[from + 4..from + 8].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => {
                out.truncate(from);
                self.sink.lose(1);
            }
        }
    }
}

impl Observer for Jitdump {
    fn published(&self, functions: &[Published<'_>]) {
        let (time, thread) = (now(), thread_id());
        let first = self.next.fetch_add(functions.len() as u64, Ordering::Relaxed);
        let len =
            functions.iter().map(|function| LOAD + name::most(function) + 1 + function.with_code(<[u8]>::len)).sum();
        // The records carry their times, so their order does not matter: each thread has a buffer
        // of its own.
        self.sink.append(thread_number(), len, functions.len(), |out| {
            for (function, index) in functions.iter().zip(first..) {
                self.load(out, function, time, thread, index);
            }
        });
    }
}

impl Drop for Jitdump {
    fn drop(&mut self) {
        if self.sink.is_own() {
            // Behind all others.
            let _ = self.sink.flush();
            self.sink.append(0, PREFIX, 0, |out| prefix(out, CODE_CLOSE, PREFIX as u32, now()));
        }
    }
}

impl fmt::Debug for Jitdump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jitdump").field("path", &self.path()).field("lost", &self.lost()).finish_non_exhaustive()
    }
}

/// The header, and a record that fills up the rest of the page.
fn first_page(machine: u16, process: u32) -> Vec<u8> {
    let page = region::page::size();
    let (mut out, time) = (Vec::with_capacity(page), now());
    for number in [MAGIC, VERSION, HEADER, u32::from(machine), 0, process] {
        out.extend_from_slice(&number.to_ne_bytes());
    }
    let flags = 0_u64;
    out.extend_from_slice(&time.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    let rest = page as u32 - HEADER;
    prefix(&mut out, DEBUG_INFO, rest, time);
    out.resize(page, 0);
    out
}

fn prefix(out: &mut Vec<u8>, kind: u32, len: u32, time: u64) {
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&len.to_ne_bytes());
    out.extend_from_slice(&time.to_ne_bytes());
}

fn marker(file: &File, path: &Path) -> Result<Mmap, Error> {
    let mut options = MmapOptions::new();
    options.len(region::page::size());
    // Apple's systems refuse to map a file executable that nobody signed, and profilers there see
    // that it was opened.
    let mapped = if cfg!(target_vendor = "apple") {
        // SAFETY: nobody reads or runs anything through this mapping, so it does not matter what
        // becomes of the file.
        unsafe { options.map(file) }
    } else {
        // SAFETY: as above.
        unsafe { options.map_exec(file) }
    };
    mapped.map_err(|source| Error::of_file("mmap", path, source))
}

/// The time, by the clock that profilers of the system stamp their samples with:
///
/// | | clock | unit |
/// |---|---|---|
/// | Apple's systems | `mach_absolute_time` (samply) | the machine's own ticks, not nanoseconds |
/// | others | `CLOCK_MONOTONIC` (`perf record -k mono`) | nanoseconds |
///
/// That of Apple's systems was never run.
fn now() -> u64 {
    #[cfg(target_vendor = "apple")]
    {
        unsafe extern "C" {
            safe fn mach_absolute_time() -> u64;
        }
        mach_absolute_time()
    }
    #[cfg(not(target_vendor = "apple"))]
    {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is valid for the call to write to; the clock exists on every such system.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }
}

/// Asks the system for its number of this thread.
fn ask_thread_id() -> u32 {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // SAFETY: has no requirements.
    let id = unsafe { libc::gettid() };
    #[cfg(target_os = "freebsd")]
    // SAFETY: has no requirements.
    let id = unsafe { libc::pthread_getthreadid_np() };
    #[cfg(target_os = "netbsd")]
    // SAFETY: has no requirements.
    let id = unsafe { libc::_lwp_self() };
    #[cfg(target_os = "openbsd")]
    // SAFETY: has no requirements.
    let id = unsafe { libc::getthrid() };
    #[cfg(target_vendor = "apple")]
    let id = {
        let mut id = 0_u64;
        // SAFETY: the thread that calls, and a number to write to.
        unsafe { libc::pthread_threadid_np(0, &raw mut id) };
        id
    };
    #[cfg(not(any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd",
        target_vendor = "apple"
    )))]
    let id = std::process::id();
    id as u32
}

/// The kernel's number of this thread, asked for once in each process it has been in.
#[allow(clippy::missing_const_for_thread_local, reason = "it is const; on OpenBSD clippy looks into the macro")]
fn thread_id() -> u32 {
    thread_local!(static KNOWN: Cell<(u64, u32)> = const { Cell::new((0, 0)) });
    let known = KNOWN.try_with(|known| {
        if known.get().0 != generation() {
            known.set((generation(), ask_thread_id()));
        }
        known.get().1
    });
    // The thread is ending and has nothing of its own any more.
    known.unwrap_or_else(|_| ask_thread_id())
}
