//! Names for `perf`, by address.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::Path;

use super::claim::Kind;
use super::name;
use super::sink::Sink;
use crate::sync::thread_number;
use crate::{Error, Observer, Published};

/// Writes `/tmp/perf-PID.map`, in which `perf report` and other profilers find the names of
/// functions.
///
/// The file has a line `START SIZE NAME` for each function published, in hexadecimal. It can be
/// read by its owner only, and nothing removes it. A name of one or two bytes has blanks behind it,
/// because `perf` passes over such lines otherwise.
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
/// When a function was there. A map has no times and no removals: once an address has been used by
/// two functions, both have a line, and `perf` shows one of the two names for the samples of both
/// (the one it comes upon first in a search tree, as a rule the older). Lines of one thread are in
/// the order of publication, those of several within a tenth of a second or so, for readers that
/// let the last one win. Where code is recycled, use [`Jitdump`](super::Jitdump).
///
/// # Modes
///
/// `perf` asks for the map only where the code lies in memory without a file.
#[doc = include_str!("perf_modes.md")]
///
/// # Several writers
///
/// Other runtimes of the process may write the same file, as `cranelift-jit` does where
/// `PERF_BUILDID_DIR` is set. Whole lines are appended, each of them by one call, and a file that
/// was written to in this process's lifetime is neither removed nor cut off. If other code removes
/// the file, it is made anew with all that was in it. If other code cuts it off when it comes, what
/// was written before is [counted](PerfMap::lost): make the map after such code.
///
/// Two processes may have the same number and one `/tmp`: containers that share it. The second
/// [`PerfMap::new`] is then an error, and [`PerfMap::in_directory`] makes a map that other
/// profilers, or a copy to the right place, can be told of.
///
/// # Forked children
///
/// `perf` looks for a map by the number of the process. A child writes nothing to its parent's map,
/// and has none unless it asks: [`PerfMap::for_child`] makes one, with the names of all that it
/// inherited.
///
/// # When it is written
///
/// Lines are collected, and written every tenth of a second by a thread of its own, which takes no
/// signals; on [`flush`](PerfMap::flush); and when the map is dropped (its arenas hold it). So what
/// a process loses that is killed, or that ends by [`std::process::exit`] with the map alive, is
/// the functions of the last tenth of a second. Errors, a full disk for one, do not disturb the
/// publication: functions that are missing in the file are [counted](PerfMap::lost). If other code
/// closes the file's descriptor, the file is opened again; nothing is written to what the
/// descriptor's number leads to then.
pub struct PerfMap {
    sink: Sink,
}

impl PerfMap {
    /// Makes the file in `/tmp`, where `perf` looks for it. One that is left of an earlier process
    /// of the same number is removed first; a link is not followed.
    ///
    /// # Errors
    /// - [`Error::Unsupported`] if this process has a map already: one serves all arenas. Also if
    ///   another process of the same number is writing it, in a container that shares `/tmp`.
    /// - [`Error::OperatingSystem`], with the path, if the file cannot be made: somebody else's has
    ///   that name, or there is no `/tmp`, or it is read-only. Without a path if no thread can be
    ///   had.
    pub fn new() -> Result<Self, Error> {
        Self::in_directory("/tmp")
    }

    /// Makes the file in another directory, under the same name. `perf` itself looks in `/tmp`
    /// only: bind or copy it there.
    ///
    /// # Errors
    /// As for [`PerfMap::new`].
    pub fn in_directory(directory: impl AsRef<Path>) -> Result<Self, Error> {
        let directory = std::path::absolute(directory).map_err(|source| Error::system("getcwd", source))?;
        let path = directory.join(format!("perf-{}.map", std::process::id()));
        let (sink, _) = Sink::create("a second PerfMap", path, Kind::Lines, &[])?;
        Ok(Self { sink })
    }

    /// In a forked child of the process that made this map: makes the child's own, in the same
    /// directory. It begins with all that its parent had published when it forked. What another
    /// thread of the parent was publishing just then may be missing.
    ///
    /// What the child builds has to be told of the new map; the old one stays the parent's.
    ///
    /// ```
    /// # #[cfg(not(miri))] {
    /// use std::sync::Arc;
    /// use gaia_jit::{CodeArena, observe::PerfMap};
    ///
    /// fn work(inherited: &PerfMap) -> Result<(), gaia_jit::Error> {
    ///     // In a worker, after `fork`. An error, here in its parent, is no reason not to work.
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
    /// As for [`PerfMap::new`], and [`Error::Unsupported`] in the process that made this map.
    pub fn for_child(&self) -> Result<Self, Error> {
        if self.sink.is_own() {
            return Err(Error::unsupported("a map for a child", "this process made the map itself"));
        }
        let inherited = self.sink.inherited().map_err(|source| Error::of_file("read", self.path(), source))?;
        let path = self.path().with_file_name(format!("perf-{}.map", std::process::id()));
        let (sink, _) = Sink::create("a second PerfMap", path, Kind::Lines, &inherited)?;
        Ok(Self { sink })
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

    /// Functions that could not be written and never will be, or were written and are gone: the
    /// disk was full, or the file was removed or cut off.
    pub fn lost(&self) -> u64 {
        self.sink.lost()
    }
}

impl Observer for PerfMap {
    fn published(&self, functions: &[Published<'_>]) {
        // Two numbers, two spaces and a line end.
        let len = functions.iter().map(|function| 2 * 16 + 3 + name::most(function).max(3)).sum();
        // By thread: threads do not meet, and the end of a thread's buffer is in its core's cache.
        // (By address, which would keep all lines of an address in their order, a publication cost
        // 160 ns more than without a map, instead of 90.)
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
