//! A file of names, code and times, for `perf inject --jit`.
//!
//! Each publication becomes records in a [`Sink`]. [`super::claim`] decides who may write the file.
//!
//! # The format
//!
//! Version 1, as in `tools/perf/Documentation/jitdump-specification.txt` of the Linux sources: a
//! header, then records. All numbers are in the byte order of the machine. A function is one
//! `JIT_CODE_LOAD`; `JIT_CODE_CLOSE` ends the file.
//!
//! ```text
//! page 0, mapped executable:  | header, 40 bytes | JIT_CODE_DEBUG_INFO without lines, to the end of the page |
//! from page 1 on:             | JIT_CODE_LOAD: time, thread, address, name, code | ... | JIT_CODE_CLOSE |
//! ```
//!
//! `perf record` learns of the file by an executable mapping of its first page. So that page holds
//! only the header, and a record without content that fills the page. Copies of code, in a file
//! that this process can write to, must not be executable, even at an address that nobody uses. The
//! record is of the kind `JIT_CODE_DEBUG_INFO`, without lines, which every reader knows. (A larger
//! header would fill the page too, but `perf` up to 6.1 and beyond rejects headers of over 80
//! bytes: it reads what follows with a length of 0.)

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
/// The length of the head of each record: its kind, its length, and its time.
const PREFIX: usize = 16;
/// The length of a `JIT_CODE_LOAD` without name and code.
const LOAD: usize = PREFIX + 40;

/// An observer that writes `jit-PID.dump`, from which `perf inject --jit` makes an object file for
/// each function.
///
/// It differs from a [`PerfMap`](super::PerfMap) in these points:
///
/// - An address can be used again, because each function has the time of its publication.
/// - `perf annotate` shows the instructions of functions.
/// - The file holds a copy of all code, and reading it makes a file for each function.
///
/// Only the owner can read the file. Nothing removes it.
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
/// perf record -k mono -e cpu-clock ./program
/// perf inject --jit -i perf.data -o perf.jit.data
/// perf report -i perf.jit.data
/// perf annotate -i perf.jit.data nothing
/// ```
///
/// Without `perf inject`, a report has addresses only. `perf inject` also notes its objects in the
/// folder `~/.debug`.
///
/// It works in all modes. On Apple's systems the times are those of `mach_absolute_time`, which
/// samply expects there. That was never run.
///
/// The file is written at the same times as a [`PerfMap`](super::PerfMap#when-it-is-written), and
/// loses the same functions if the process dies. The format has no record for a retired function.
/// Samples at its address get its name until another function is published there.
///
/// # Fork
///
/// A forked child writes nothing to its parent's file. It makes a `Jitdump` of its own.
///
/// # Signal safety
///
/// No call is safe in a signal handler, because each takes a lock.
pub struct Jitdump {
    sink: Sink,
    process: u32,
    /// The number of the next function. `perf` names its files by it.
    next: AtomicU64,
    /// The mapping of the first page, by which `perf record` learns of the file. If `perf` is
    /// attached later, the mapping proves that the file is in use.
    _marker: Mmap,
}

impl Jitdump {
    /// Creates the file in the directory that the environment variable `JITDUMPDIR` names, or in
    /// the current directory.
    ///
    /// [`Jitdump`] has an example.
    ///
    /// # Errors
    /// As for [`Jitdump::in_directory`].
    pub fn new() -> Result<Self, Error> {
        let directory = std::env::var_os("JITDUMPDIR").filter(|name| !name.is_empty());
        Self::in_directory(directory.unwrap_or_else(|| ".".into()))
    }

    /// Creates the file in a directory.
    ///
    /// A file that an earlier process of the same number left is removed first. Links are not
    /// followed. `perf inject` puts its own files next to it.
    ///
    /// ```
    /// # #[cfg(all(target_os = "linux", target_arch = "x86_64", not(miri)))] {
    /// use std::sync::Arc;
    /// use gaia_jit::{Code, CodeArena, observe::Jitdump};
    ///
    /// let dump = Arc::new(Jitdump::in_directory(std::env::temp_dir())?);
    /// let arena = CodeArena::builder().capacity(1 << 20).observer(dump.clone()).build()?;
    /// let block = arena.publish(Code::new(&[0xc3]).name("nothing"))?;
    /// dump.flush()?;
    /// assert_eq!(dump.lost(), 0);
    /// # std::fs::remove_file(dump.path())?;
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::Unsupported`] if this process writes the file already, because one file serves
    ///   all arenas. Also if other code of the process writes it, or another process of the same
    ///   number, in a container that shares the directory: use another directory. Also on an
    ///   architecture without a number in ELF.
    /// - [`Error::OperatingSystem`], with the path, if the file cannot be created, or cannot be
    ///   mapped executable because its file system is mounted `noexec`.
    pub fn in_directory(directory: impl AsRef<Path>) -> Result<Self, Error> {
        let Some(machine) = MACHINE else {
            return Err(Error::unsupported("Jitdump", "this architecture has no number in ELF"));
        };
        // Absolute, because perf may run in another directory.
        let directory = std::path::absolute(directory);
        let directory = directory.map_err(|source| Error::system("getcwd", source))?;
        let process = std::process::id();
        let path: PathBuf = directory.join(format!("jit-{process}.dump"));
        let (sink, file) = Sink::create("a second Jitdump", path, Kind::Alone, &first_page(machine, process))?;
        let marker = marker(&file, sink.path()).inspect_err(|_| drop(std::fs::remove_file(sink.path())))?;
        Ok(Self { sink, process, next: AtomicU64::new(0), _marker: marker })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        self.sink.path()
    }

    /// Writes all functions that were published before the call.
    ///
    /// [`Jitdump::in_directory`] has an example.
    ///
    /// # Errors
    /// - [`Error::OperatingSystem`] if some of them cannot be written. These are lost.
    /// - [`Error::Unsupported`] in a forked child.
    pub fn flush(&self) -> Result<(), Error> {
        self.sink.flush()
    }

    /// Returns the number of functions that could not be written and never will be, because the
    /// disk was full or the file was removed.
    pub fn lost(&self) -> u64 {
        self.sink.lost()
    }

    /// Appends the record of a function.
    fn load(&self, out: &mut Vec<u8>, function: &Published<'_>, time: u64, thread: u32, index: u64) {
        let (from, block) = (out.len(), function.block);
        // The length is filled in at the end.
        prefix(out, CODE_LOAD, 0, time);
        out.extend_from_slice(&self.process.to_ne_bytes());
        out.extend_from_slice(&thread.to_ne_bytes());
        let address = block.start.addr() as u64;
        // Not `block.len`, because callers of `published` may pass any number: the code that is
        // read is that of the block itself.
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
        // The order of records does not matter, because each has its time. So each thread has a
        // buffer of its own.
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
            // The record of the end comes after all others.
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

/// Returns the header, and a record that fills the rest of the page.
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
    // Apple's systems refuse to map a file executable that is not signed. Profilers there see that
    // it was opened.
    let mapped = if cfg!(target_vendor = "apple") {
        // SAFETY: nobody reads or runs anything through this mapping, so changes of the file do not
        // matter.
        unsafe { options.map(file) }
    } else {
        // SAFETY: nobody reads or runs anything through this mapping, as above.
        unsafe { options.map_exec(file) }
    };
    mapped.map_err(|source| Error::of_file("mmap", path, source))
}

/// Returns the time of the clock that the system's profilers use for their samples:
///
/// | | clock | unit |
/// |---|---|---|
/// | Apple's systems | `mach_absolute_time` (samply) | the machine's own ticks, not nanoseconds |
/// | others | `CLOCK_MONOTONIC` (`perf record -k mono`) | nanoseconds |
///
/// The branch for Apple's systems was never run.
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
        // SAFETY: `time` is valid for the call to write to. The clock exists on all these systems.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }
}

/// Asks the system for the number of this thread.
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
        // SAFETY: zero means the calling thread, and `id` is valid for the call to write to.
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

/// Returns the kernel's number of this thread. It is asked for once in each process.
#[allow(clippy::missing_const_for_thread_local, reason = "it is const; on OpenBSD clippy looks into the macro")]
fn thread_id() -> u32 {
    thread_local!(static KNOWN: Cell<(u64, u32)> = const { Cell::new((0, 0)) });
    let known = KNOWN.try_with(|known| {
        if known.get().0 != generation() {
            known.set((generation(), ask_thread_id()));
        }
        known.get().1
    });
    // The thread is ending, and has no thread-local variables any more.
    known.unwrap_or_else(|_| ask_thread_id())
}
