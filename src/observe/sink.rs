//! A file that many threads append records to.
//!
//! # Structure
//!
//! Records are put together in one of sixteen buffers, each behind a lock of its own that is held for one append. A full
//! buffer goes to the end of a queue, from which a thread of the sink's own writes it: a thread that publishes does not
//! wait for the file system, unless the queue holds 8 MiB already. What does not fill a buffer is queued every tenth of
//! a second, so that a program that is killed loses no more than that. (Tried: full buffers written by whoever fills
//! them, 64 KiB each: the writers waited for the disk and for each other, and eight threads that publish one function at
//! a time took 1.8 times as long as without a map, not 1.6; of batches, 1.4 and not 1.3. And without the thread,
//! a program that publishes fifty functions and is interrupted left an empty file.)
//!
//! A buffer is queued while its own lock is held, and the queue is emptied by one thread at a time, which holds the lock of the
//! file. So the records of one buffer reach the file in the order they were appended. Which buffer a record goes to is
//! the caller's choice.
//!
//! # Failures
//!
//! A write that fails, or that would run into `RLIMIT_FSIZE` and have the process killed by `SIGXFSZ`, is undone as far
//! as it got, so that the file always ends with a whole record, and its records are counted as lost. The next write is
//! tried all the same: a disk may come to have room again.

use std::collections::VecDeque;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::mem;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Error;
use crate::sync::{Arc, AtomicU64, AtomicUsize, Mutex, Ordering};
use crate::sys::generation;
use crate::sys::process_lock::ProcessLock;

/// How many buffers there are.
pub(super) const SHARDS: usize = 16;
/// Bytes from which on a buffer is queued. All buffers together fit into the second level of caches.
const FULL: usize = 16 << 10;
/// Empty buffers that are kept: as many as the thread finds when it is woken.
const SPARE: usize = WORTH / FULL;
/// Bytes that are written by one call, put together from so many buffers at most. A file system that is given a megabyte
/// takes a third of the time, line by line, that it takes for 16 KiB, as it gets memory in larger pieces (ext4 of Linux
/// 6.18: 12 ns of 36 for a line of a perf map).
const TOGETHER: usize = 1 << 20;
const PIECES: usize = 256;
/// Bytes in the queue from which on the thread is woken before its time.
const WORTH: usize = 1 << 20;
/// Bytes in the queue from which on those who publish wait.
const BEHIND: usize = 8 << 20;
/// How long a record stays in a buffer that does not fill.
const INTERVAL: Duration = Duration::from_millis(100);

/// Files that sinks of this program write.
static OPEN: ProcessLock<Vec<Open>> = ProcessLock::new(Vec::new());

struct Open {
    /// The process it belongs to.
    generation: u64,
    path: PathBuf,
    id: Id,
}

/// Device and number: a file may have several paths.
type Id = (u64, u64);

/// The file; what is in its buffers is written when it is dropped. In a forked child it does nothing.
pub(super) struct Sink {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// The process the file belongs to.
    generation: u64,
    path: PathBuf,
    shards: [Shard; SHARDS],
    queue: Mutex<Queue>,
    output: Mutex<Output>,
    lost: AtomicU64,
    stop: AtomicUsize,
}

#[derive(Default)]
#[repr(align(128))]
struct Shard(Mutex<Buffer>);

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    records: u64,
}

#[derive(Default)]
struct Queue {
    full: VecDeque<Buffer>,
    bytes: usize,
    /// Empty, but with room: what full ones are exchanged with. The last that was written is the first to be used again.
    spare: Vec<Vec<u8>>,
}

struct Output {
    file: File,
    len: u64,
    /// Put together from several buffers to be written, with the length and the records of each; no more than there was
    /// room for from the beginning.
    staged: Vec<u8>,
    pieces: Vec<(usize, u64)>,
    /// Records that could not be written, and were not counted yet.
    lost: u64,
}

impl Sink {
    /// Makes a new file of which `head` is the beginning. Whatever had that name before is removed, not written to.
    pub(super) fn create(what: &'static str, path: PathBuf, head: &[u8]) -> Result<(Self, File), Error> {
        let generation = generation();
        let Some(mut open) = OPEN.lock() else {
            return Err(Error::unsupported(what, "this process was forked while another thread made such a file"));
        };
        let there = std::fs::symlink_metadata(&path).ok().map(|there| id(&there));
        let is_it = |other: &Open| other.path == path || there == Some(other.id);
        if open.iter().any(|other| other.generation == generation && is_it(other)) {
            return Err(Error::unsupported(what, format!("this process is writing {} already", path.display())));
        }
        let file = create(&path)?;
        let made = Self::begin(generation, &path, head, file).inspect_err(|_| drop(std::fs::remove_file(&path)));
        let (sink, other, id) = made?;
        open.push(Open { generation, path, id });
        Ok((sink, other))
    }

    /// Begins a file that is new.
    fn begin(generation: u64, path: &Path, head: &[u8], file: File) -> Result<(Self, File, Id), Error> {
        let id = id(&file.metadata().map_err(|source| Error::system("fstat", source))?);
        let other = file.try_clone().map_err(|source| Error::system("dup", source))?;
        let mut output = Output { file, len: 0, staged: Vec::new(), pieces: Vec::with_capacity(PIECES), lost: 0 };
        // Without that memory buffers are written one by one.
        let _ = output.staged.try_reserve_exact(TOGETHER);
        output.append(head).map_err(|source| Error::system("pwrite", source))?;
        let shared = Arc::new(Shared {
            generation,
            path: path.into(),
            shards: Default::default(),
            queue: Mutex::default(),
            output: Mutex::new(output),
            lost: AtomicU64::new(0),
            stop: AtomicUsize::new(0),
        });
        let thread = start(Arc::clone(&shared)).map_err(|source| Error::system("pthread_create", source))?;
        Ok((Self { shared, thread: Some(thread) }, other, id))
    }

    pub(super) fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Appends records to a buffer, which has room for `len` more bytes: `write` says how many there were.
    pub(super) fn append(&self, shard: usize, len: usize, records: usize, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.is_own() {
            return self.lose(records as u64);
        }
        let shard = shard % SHARDS;
        let mut buffer = self.shared.shards[shard].0.lock();
        if buffer.bytes.try_reserve(len).is_err() {
            return self.lose(records as u64);
        }
        write(&mut buffer.bytes);
        buffer.records += records as u64;
        if buffer.bytes.len() < FULL {
            return;
        }
        let queued = self.shared.enqueue(&mut buffer);
        drop(buffer);
        if queued >= BEHIND {
            let _ = self.shared.write_queued();
        } else if queued >= WORTH {
            self.thread.iter().for_each(|thread| thread.thread().unpark());
        }
    }

    /// Writes all that is in the buffers.
    pub(super) fn flush(&self) -> Result<(), Error> {
        if !self.is_own() {
            return Err(Error::unsupported("flush", "the file belongs to the parent of this process"));
        }
        self.shared.drain().map_err(|source| Error::system("pwrite", source))
    }

    /// Counts records that will never be written.
    pub(super) fn lose(&self, records: u64) {
        self.shared.lost.fetch_add(records, Ordering::Relaxed);
    }

    pub(super) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    pub(super) fn is_own(&self) -> bool {
        self.shared.generation == generation()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let thread = self.thread.take();
        if !self.is_own() {
            // Only the parent has that thread, and what the locks guard may have been in the middle of a change.
            mem::forget(thread);
            return;
        }
        self.shared.stop.store(1, Ordering::Relaxed);
        if let Some(thread) = thread {
            thread.thread().unpark();
            let _ = thread.join();
        }
        let _ = self.shared.drain();
        if let Some(mut open) = OPEN.lock() {
            open.retain(|open| (open.generation, &open.path) != (self.shared.generation, &self.shared.path));
        }
    }
}

impl Shared {
    /// Puts a buffer, whose lock the caller holds, at the end of the queue; how many bytes are in there then.
    fn enqueue(&self, buffer: &mut Buffer) -> usize {
        let mut queue = self.queue.lock();
        queue.bytes += buffer.bytes.len();
        let spare = queue.spare.pop().unwrap_or_default();
        let full = Buffer { bytes: mem::replace(&mut buffer.bytes, spare), records: mem::take(&mut buffer.records) };
        queue.full.push_back(full);
        queue.bytes
    }

    fn drain(&self) -> io::Result<()> {
        for shard in &self.shards {
            let mut buffer = shard.0.lock();
            if !buffer.bytes.is_empty() {
                self.enqueue(&mut buffer);
            }
        }
        self.write_queued()
    }

    /// Writes what is in the queue; all of it, whatever becomes of the first.
    fn write_queued(&self) -> io::Result<()> {
        let mut output = self.output.lock();
        let mut result = Ok(());
        loop {
            let mut queue = self.queue.lock();
            let next = queue.full.pop_front();
            queue.bytes -= next.as_ref().map_or(0, |buffer| buffer.bytes.len());
            drop(queue);
            if next.as_ref().is_none_or(|buffer| !output.has_room(buffer)) {
                output.write_staged().unwrap_or_else(|error| result = Err(error));
            }
            let Some(buffer) = next else { break };
            if output.has_room(&buffer) {
                output.stage(&buffer);
            } else {
                output.write(&buffer.bytes, buffer.records).unwrap_or_else(|error| result = Err(error));
            }
            // One large record must not cost its memory for ever, nor a long queue.
            let mut bytes = buffer.bytes;
            let mut queue = self.queue.lock();
            if bytes.capacity() <= 4 * FULL && queue.spare.len() < SPARE {
                bytes.clear();
                queue.spare.push(bytes);
            }
        }
        self.lost.fetch_add(mem::take(&mut output.lost), Ordering::Relaxed);
        result
    }
}

impl Output {
    /// Whether there is memory to put it together with others: little for each, so none for large ones.
    fn has_room(&self, buffer: &Buffer) -> bool {
        buffer.bytes.len() <= self.staged.capacity() - self.staged.len() && self.pieces.len() < self.pieces.capacity()
    }

    fn stage(&mut self, buffer: &Buffer) {
        self.staged.extend_from_slice(&buffer.bytes);
        self.pieces.push((buffer.bytes.len(), buffer.records));
    }

    /// Writes what was put together: at once, or, if not all of it has room, as much as has.
    fn write_staged(&mut self) -> io::Result<()> {
        let (mut staged, mut pieces) = (mem::take(&mut self.staged), mem::take(&mut self.pieces));
        let mut result = self.append(&staged);
        if result.is_err() {
            result = Ok(());
            let mut rest = &staged[..];
            for &(len, records) in &pieces {
                let (piece, behind) = rest.split_at(len);
                self.write(piece, records).unwrap_or_else(|error| result = Err(error));
                rest = behind;
            }
        }
        staged.clear();
        pieces.clear();
        (self.staged, self.pieces) = (staged, pieces);
        result
    }

    /// Appends records, or counts them as lost.
    fn write(&mut self, bytes: &[u8], records: u64) -> io::Result<()> {
        self.append(bytes).inspect_err(|_| self.lost += records)
    }

    /// Appends all of it or nothing.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.len + bytes.len() as u64;
        if end > file_size_limit() {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        match self.file.write_all_at(bytes, self.len) {
            Ok(()) => self.len = end,
            Err(error) => {
                let _ = self.file.set_len(self.len);
                return Err(error);
            }
        }
        Ok(())
    }
}

fn id(file: &Metadata) -> Id {
    (file.dev(), file.ino())
}

/// A new file that only its owner can read, as code and names may tell much. In a directory that everyone can write to,
/// somebody could have put a link there, for this process to overwrite a file of its own: so nothing is opened that is
/// there already. What is left of an earlier process of the same number is removed, which does not follow a link; where
/// the directory is sticky, what belongs to others cannot be removed, and that is an error.
fn create(path: &Path) -> Result<File, Error> {
    let create = || {
        let mut options = OpenOptions::new();
        // `O_CREAT | O_EXCL`, which does not follow a link either; the standard library adds `O_CLOEXEC`.
        options.read(true).write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
    };
    let made = create().or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => std::fs::remove_file(path).and_then(|()| create()),
        _ => Err(error),
    });
    made.map_err(|source| Error::of_file("open", path, source))
}

/// The thread that writes what does not fill a buffer. No signal is delivered to it: handlers of the program's own would
/// run on a thread that the program does not know.
fn start(shared: Arc<Shared>) -> io::Result<JoinHandle<()>> {
    let mut all = mem::MaybeUninit::uninit();
    let mut old = mem::MaybeUninit::uninit();
    // SAFETY: the set is valid for the call to write to.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: a set that was filled, and one to write to.
    let blocked = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr()) } == 0;
    let thread = thread::Builder::new().name("gaia-jit-observe".into()).spawn(move || {
        let mut last = Instant::now();
        while shared.stop.load(Ordering::Relaxed) == 0 {
            thread::park_timeout(INTERVAL);
            // Woken for a full buffer, or because it is time for all.
            if last.elapsed() < INTERVAL {
                let _ = shared.write_queued();
            } else {
                last = Instant::now();
                let _ = shared.drain();
            }
        }
    });
    if blocked {
        // SAFETY: the set that the call above wrote; nothing is asked for back.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), std::ptr::null_mut()) };
    }
    thread
}

fn file_size_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the call to write to.
    let got = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) };
    if got == 0 && limit.rlim_cur != libc::RLIM_INFINITY {
        // The limit's type is 64 bits wide on some targets and as wide as a pointer on others.
        #[allow(clippy::useless_conversion)]
        u64::from(limit.rlim_cur)
    } else {
        u64::MAX
    }
}
