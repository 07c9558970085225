//! A file of names by address, for `perf`.
//!
//! Each publication becomes a line in a [`Sink`]: start and length in hexadecimal, and the name, as
//! in `tools/perf/Documentation/jit-interface.txt` of the Linux sources. [`super::claim`] decides
//! who may write the file.
//!
//! ```text
//! 7f12a4c01000 2f my_function
//! ```
//!
//! The format knows no end of a function. A reader takes the last line that covers an address. So
//! the map is right as long as no address is used again; a jitdump is right beyond that.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::Path;

use super::claim::Kind;
use super::name;
use super::sink::Sink;
use crate::sync::thread_number;
use crate::{Error, Observer, Published};

/// An observer that writes `/tmp/perf-PID.map`, from which `perf report` and other profilers read
/// the names of functions.
///
/// The file has a line `START SIZE NAME` for each published function, with numbers in hexadecimal.
/// Only its owner can read it. Nothing removes it. A name of one or two bytes is followed by
/// blanks, because `perf` skips such lines otherwise.
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
/// perf record -e cpu-clock ./program
/// perf report
/// ```
///
/// # Limits of the format
///
/// A map has no times and no removals. If two functions use an address one after the other, both
/// have a line, and `perf` shows one of the names for the samples of both. This is the name that it
/// finds first in a search tree, usually the older one. If code is recycled, use
/// [`Jitdump`](super::Jitdump).
///
/// Some readers let the last line win. For these, the lines of one thread are in the order of
/// publication. Lines of several threads are in that order to about a tenth of a second.
///
/// # Modes
///
/// `perf` reads the map only for code in memory without a file.
#[doc = include_str!("perf_modes.md")]
///
/// # Several writers
///
/// Other runtimes of the process may write to the same file. For example, `cranelift-jit` does if
/// `PERF_BUILDID_DIR` is set.
///
/// - Whole lines are appended, each by one call.
/// - A file that was written to in this process's lifetime is neither removed nor truncated.
/// - If other code removes the file, it is created again with all its content.
/// - If other code truncates the file when it starts, the lines written before are
///   [counted as lost](PerfMap::lost). Make the map after such code.
///
/// Two processes in containers that share `/tmp` may have the same number. The second
/// [`PerfMap::new`] then returns an error. Use [`PerfMap::in_directory`] there, and copy the file
/// to the right place, or pass it to a profiler that reads other paths.
///
/// # Fork
///
/// `perf` looks for a map by the number of the process. A child writes nothing to its parent's map.
/// [`PerfMap::for_child`] makes a map for the child, with the names of all inherited functions.
///
/// # When it is written
///
/// Lines are collected in memory. They are written
///
/// - every tenth of a second, by a thread that receives no signals,
/// - by [`flush`](PerfMap::flush),
/// - when the map is dropped, which its arenas hold.
///
/// A process that is killed, or that calls [`std::process::exit`] while the map lives, loses the
/// functions of the last tenth of a second. Errors, such as a full disk, do not disturb the
/// publication. Functions that are missing in the file are [counted](PerfMap::lost). If other code
/// closes the file's descriptor, the file is opened again. Nothing is written to another file that
/// gets the descriptor's number.
///
/// # Signal safety
///
/// No call is safe in a signal handler, because each takes a lock.
pub struct PerfMap {
    sink: Sink,
}

impl PerfMap {
    /// Creates the file in `/tmp`, where `perf` looks for it.
    ///
    /// A file that an earlier process of the same number left is removed first. Links are not
    /// followed.
    ///
    /// [`PerfMap`] has an example.
    ///
    /// # Errors
    /// - [`Error::Unsupported`] if this process has a map already, because one map serves all
    ///   arenas. Also if another process of the same number writes the file, in a container that
    ///   shares `/tmp`.
    /// - [`Error::OperatingSystem`], with the path, if the file cannot be created: the name belongs
    ///   to another user's file, there is no `/tmp`, or it is read-only. Without a path, if no
    ///   thread can be started.
    pub fn new() -> Result<Self, Error> {
        Self::in_directory("/tmp")
    }

    /// Creates the file in another directory, under the same name. `perf` looks in `/tmp` only, so
    /// bind the file there, or copy it.
    ///
    /// ```
    /// # #[cfg(not(miri))] {
    /// use std::sync::Arc;
    /// use gaia_jit::{Code, CodeArena, observe::PerfMap};
    ///
    /// let map = Arc::new(PerfMap::in_directory(std::env::temp_dir())?);
    /// let arena = CodeArena::builder().capacity(1 << 20).observer(map.clone()).build()?;
    /// let block = arena.publish(Code::new(&[0xc3]).name("nothing"))?;
    /// map.flush()?;
    /// assert!(std::fs::read_to_string(map.path())?.ends_with(" nothing\n"));
    /// # std::fs::remove_file(map.path())?;
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::Unsupported`] if this process, or another one of the same number, writes a file
    ///   of this name in the directory.
    /// - [`Error::OperatingSystem`] if the file cannot be created, the path cannot be made
    ///   absolute, or no thread can be started.
    pub fn in_directory(directory: impl AsRef<Path>) -> Result<Self, Error> {
        let directory = std::path::absolute(directory).map_err(|source| Error::system("getcwd", source))?;
        let path = directory.join(format!("perf-{}.map", std::process::id()));
        let (sink, _) = Sink::create("a second PerfMap", path, Kind::Lines, &[])?;
        Ok(Self { sink })
    }

    /// Creates the map of a forked child, in the same directory. Call it in the child.
    ///
    /// The new map begins with all functions that the parent had published when it forked.
    /// Functions that another thread of the parent was publishing at that moment may be missing.
    ///
    /// Pass the new map to the arenas that the child builds. The old map still belongs to the
    /// parent.
    ///
    /// ```
    /// # #[cfg(not(miri))] {
    /// use std::sync::Arc;
    /// use gaia_jit::{CodeArena, observe::PerfMap};
    ///
    /// fn work(inherited: &PerfMap) -> Result<(), gaia_jit::Error> {
    ///     // In a worker, after `fork`. In the parent, as here, it returns an error.
    ///     let map = Arc::new(inherited.for_child()?);
    ///     let _arena = CodeArena::builder().capacity(1 << 20).observer(map).build()?;
    ///     Ok(())
    /// }
    ///
    /// let map = PerfMap::in_directory(std::env::temp_dir())?;
    /// assert!(work(&map).is_err());
    /// # std::fs::remove_file(map.path())?;
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::Unsupported`] in the process that made this map, if this process has a map of
    ///   this name already, or if another process of the same number writes it.
    /// - [`Error::OperatingSystem`] if the parent's records cannot be read, the file cannot be
    ///   created, or no thread can be started.
    pub fn for_child(&self) -> Result<Self, Error> {
        if self.sink.is_own() {
            return Err(Error::unsupported(
                "a map for a child",
                "this process made the map itself; call it in a forked child",
            ));
        }
        let inherited = self.sink.inherited().map_err(|source| Error::of_file("read", self.path(), source))?;
        let path = self.path().with_file_name(format!("perf-{}.map", std::process::id()));
        let (sink, _) = Sink::create("a second PerfMap", path, Kind::Lines, &inherited)?;
        Ok(Self { sink })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        self.sink.path()
    }

    /// Writes all functions that were published before the call.
    ///
    /// [`PerfMap::in_directory`] has an example.
    ///
    /// # Errors
    /// - [`Error::OperatingSystem`] if some of them cannot be written. These are lost.
    /// - [`Error::Unsupported`] in a forked child.
    pub fn flush(&self) -> Result<(), Error> {
        self.sink.flush()
    }

    /// Returns the number of functions that are missing in the file for good: they could not be
    /// written because the disk was full, or the file was removed or truncated after that.
    pub fn lost(&self) -> u64 {
        self.sink.lost()
    }
}

impl Observer for PerfMap {
    fn published(&self, functions: &[Published<'_>]) {
        // Two numbers, two spaces and a line end.
        let len = functions.iter().map(|function| 2 * 16 + 3 + name::most(function).max(3)).sum();
        // One buffer for each thread, so that threads do not wait for each other, and the end of a
        // buffer is in its core's cache. (With buffers by address, which would keep all lines of an
        // address in order, a publication cost 160 ns more than without a map, instead of 90.)
        self.sink.append(thread_number(), len, functions.len(), |out| {
            for function in functions {
                name::push_hex(out, function.block.start.addr());
                out.push(b' ');
                name::push_hex(out, function.block.len);
                out.push(b' ');
                name::push_for_map(out, function);
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
