//! Names for `perf`, by address.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::{Path, PathBuf};

use super::name;
use super::sink::Sink;
use crate::sync::thread_number;
use crate::{Error, Observer, Published};

/// Writes `/tmp/perf-PID.map`, in which `perf report` and other profilers find the names of functions.
///
/// The file has a line `START SIZE NAME` for each function published, in hexadecimal. It can be read by its owner only,
/// and nothing removes it.
///
/// ```
/// use std::sync::Arc;
/// use gaia_jit::{Code, CodeArena, observe::PerfMap};
///
/// let map = Arc::new(PerfMap::new()?);
/// let arena = CodeArena::builder().capacity(1 << 20).observer(map.clone()).build()?;
/// let block = arena.publish(Code::new(&[0xc3]).name("nothing"))?;
/// map.flush()?; // or drop the map and the arena
/// let written = std::fs::read_to_string(map.path())?;
/// assert_eq!(written, format!("{:x} 1 nothing\n", block.as_ptr().addr()));
/// # std::fs::remove_file(map.path())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// ```text
/// perf record -e cycles ./program
/// perf report
/// ```
///
/// # What it cannot say
///
/// When a function was there. A map has no times and no removals: once an address has been used by two functions, both
/// have a line, and `perf` shows one of the two names for the samples of both (the one it comes upon first in a search
/// tree, as a rule the older). Lines of one thread are in the order of publication, those of several within a tenth
/// of a second or so, for readers that let the last one win. Where code is recycled, use [`Jitdump`](super::Jitdump).
///
/// # Modes
///
/// `perf` asks for the map only where the code lies in memory without a file.
#[doc = include_str!("perf_modes.md")]
///
/// # When it is written
///
/// Lines are collected, and written every tenth of a second by a thread of its own, which takes no signals; on
/// [`flush`](PerfMap::flush); and when the map is dropped (its arenas hold it). So what a process loses that is killed, or
/// that ends by [`std::process::exit`] with the map alive, is the functions of the last tenth of a second. A forked child
/// writes nothing; it may have a map of its own. Errors, a full disk for one, do not disturb the publication: functions that
/// are missing in the file are [counted](PerfMap::lost).
pub struct PerfMap {
    sink: Sink,
}

impl PerfMap {
    /// Makes the file. One that is left of an earlier process of the same number is removed first; a link is not followed.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if this process has a map already: one serves all arenas. [`Error::OperatingSystem`] if the
    /// file cannot be made: somebody else's has that name, there is no `/tmp`, or no thread can be had.
    pub fn new() -> Result<Self, Error> {
        let path = PathBuf::from(format!("/tmp/perf-{}.map", std::process::id()));
        let (sink, _) = Sink::create("a second PerfMap", path, &[])?;
        Ok(Self { sink })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.sink.path()
    }

    /// Writes all that was published before the call.
    ///
    /// # Errors
    /// [`Error::OperatingSystem`] if it cannot be written; it is then lost. [`Error::Unsupported`] in a forked child.
    pub fn flush(&self) -> Result<(), Error> {
        self.sink.flush()
    }

    /// Functions that could not be written, and never will be.
    pub fn lost(&self) -> u64 {
        self.sink.lost()
    }
}

impl Observer for PerfMap {
    fn published(&self, functions: &[Published<'_>]) {
        // Two numbers, two spaces and a line end.
        let len = functions.iter().map(|function| 2 * 16 + 3 + name::most(function)).sum();
        // By thread: threads do not meet, and the end of a thread's buffer is in its core's cache. (By address, which would keep
        // all lines of an address in their order, a publication cost 160 ns more than without a map, instead of 90.)
        self.sink.append(thread_number(), len, functions.len(), |out| {
            for function in functions {
                name::push_hex(out, function.block.start.addr());
                out.push(b' ');
                name::push_hex(out, function.block.len);
                out.push(b' ');
                name::push(out, function);
                out.push(b'\n');
            }
        });
    }
}

impl fmt::Debug for PerfMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerfMap").field("path", &self.path()).field("lost", &self.lost()).finish_non_exhaustive()
    }
}
