//! A file to which many threads append records.
//!
//! # Structure
//!
//! ```text
//! thread 1 -> buffer 0 --.
//! thread 2 -> buffer 1 --+-- full (16 KiB), or every 0.1 s --> queue --> the sink's thread --> file
//! ...                    |                                       \-- over 8 MiB: the publishing thread
//! thread n -> buffer 15 -'
//! ```
//!
//! - A record is appended to one of sixteen buffers. Each buffer has a lock, which is held for one
//!   append. The caller chooses the buffer.
//! - A full buffer is added to the end of a queue. A thread of the sink writes the queue to the
//!   file. So a thread that publishes does not wait for the file system, unless the queue holds 8
//!   MiB already.
//! - Buffers that are not full are queued every tenth of a second, so a program that is killed
//!   loses no more than that.
//!
//! Two other designs were tried:
//!
//! - Full buffers of 64 KiB, written by the threads that fill them. These threads waited for the
//!   disk and for each other. Eight threads that publish one function at a time took 1.8 times as
//!   long as without a map, instead of 1.6; with batches 1.4 instead of 1.3.
//! - No thread. A program that published fifty functions and was interrupted left an empty file.
//!
//! # Order and locks
//!
//! A buffer is queued while its own lock is held. One thread at a time empties the queue, and holds
//! the lock of the file. So the records of one buffer reach the file in the order in which they
//! were appended. The order of locks is: a buffer, then the queue; or the file, then the queue.
//!
//! [`super::output`] describes what happens when a write fails.
//!
//! # Fork
//!
//! Each call that takes a lock first checks that it is in the process that made the sink.
//! [`Sink::inherited`] is for a child. It only tries the locks.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::claim::{self, Id, Kind};
use super::output::Output;
use crate::Error;
use crate::sync::{Arc, AtomicU64, AtomicUsize, Mutex, Ordering};
use crate::sys::generation;
use crate::sys::process_lock::ProcessLock;

/// The number of buffers.
pub(super) const SHARDS: usize = 16;
/// The size in bytes at which a buffer is queued. All buffers together fit into the second level of
/// caches.
const FULL: usize = 16 << 10;
/// The number of empty buffers that are kept: as many as the thread finds when it is woken.
const SPARE: usize = WORTH / FULL;
/// The number of bytes in the queue at which the thread is woken early.
const WORTH: usize = 1 << 20;
/// The number of bytes in the queue at which a publishing thread writes the queue itself.
const BEHIND: usize = 8 << 20;
/// The time after which a buffer is queued that is not full.
const INTERVAL: Duration = Duration::from_millis(100);

/// The files that sinks of this program write.
static OPEN: ProcessLock<Vec<Open>> = ProcessLock::new(Vec::new());

struct Open {
    /// The process it belongs to.
    generation: u64,
    path: PathBuf,
    id: Id,
}

/// A file with its buffers. The drop writes the buffers. In a forked child it does nothing.
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
    /// Empty buffers with memory, which replace full ones. The last one that was written is used
    /// first.
    spare: Vec<Vec<u8>>,
}

impl Sink {
    /// Creates a file, or joins its writers if its kind allows that, and writes `head`.
    pub(super) fn create(what: &'static str, path: PathBuf, kind: Kind, head: &[u8]) -> Result<(Self, File), Error> {
        let generation = generation();
        let Some(mut open) = OPEN.lock() else {
            return Err(Error::unsupported(
                what,
                "this process was forked while another thread made such a file; fork at another moment",
            ));
        };
        let there = claim::id_at(&path);
        let is_it = |other: &Open| other.path == path || there == Some(other.id);
        if open.iter().any(|other| other.generation == generation && is_it(other)) {
            return Err(Error::unsupported(
                what,
                format!("this process writes {} already; share the existing observer between arenas", path.display()),
            ));
        }
        let (file, is_new) = claim::claim(what, &path, kind)?;
        let made = Self::begin(generation, &path, kind, head, file);
        let (sink, other, id) = made.inspect_err(|_| drop(is_new.then(|| std::fs::remove_file(&path))))?;
        open.push(Open { generation, path, id });
        Ok((sink, other))
    }

    fn begin(generation: u64, path: &Path, kind: Kind, head: &[u8], file: File) -> Result<(Self, File, Id), Error> {
        let id = claim::id(&file).map_err(|source| Error::of_file("fstat", path, source))?;
        let other = file.try_clone().map_err(|source| Error::of_file("dup", path, source))?;
        let mut output = Output::new(file, id, path.into(), kind);
        output.begin(head).map_err(|source| Error::of_file("write", path, source))?;
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

    /// Appends `records` records to a buffer. `write` appends at most `len` bytes, for which room
    /// is reserved before.
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

    /// Writes everything in the buffers to the file.
    pub(super) fn flush(&self) -> Result<(), Error> {
        if !self.is_own() {
            return Err(Error::unsupported("flush", "the file belongs to the parent of this process"));
        }
        self.shared.drain().map_err(|source| Error::of_file("write", &self.shared.path, source))
    }

    /// Counts records as lost, because they will never be written.
    pub(super) fn lose(&self, records: u64) {
        self.shared.lost.fetch_add(records, Ordering::Relaxed);
    }

    pub(super) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    pub(super) fn is_own(&self) -> bool {
        self.shared.generation == generation()
    }

    /// Returns, in a forked child, the records that its parent had appended when it forked, as far
    /// as they can be read.
    ///
    /// The locks that are taken here stay locked. Nobody uses them in this process, and an unlock
    /// may try to wake a thread that does not exist here.
    pub(super) fn inherited(&self) -> io::Result<Vec<u8>> {
        let mut all = match self.shared.output.try_lock() {
            Some(output) => {
                let written = output.written();
                mem::forget(output);
                written?
            }
            // The parent was writing to the file. It has finished by now.
            None => std::fs::read(&self.shared.path)?,
        };
        if let Some(queue) = self.shared.queue.try_lock() {
            queue.full.iter().for_each(|buffer| all.extend_from_slice(&buffer.bytes));
            mem::forget(queue);
        }
        for shard in &self.shared.shards {
            if let Some(buffer) = shard.0.try_lock() {
                all.extend_from_slice(&buffer.bytes);
                mem::forget(buffer);
            }
        }
        Ok(all)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let thread = self.thread.take();
        if !self.is_own() {
            // Only the parent has that thread, and the data behind the locks may be in the middle
            // of a change.
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
    /// Adds a buffer to the end of the queue, and returns the number of bytes in the queue. The
    /// caller holds the buffer's lock.
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

    /// Writes the whole queue, even if some write fails.
    fn write_queued(&self) -> io::Result<()> {
        let mut output = self.output.lock();
        let mut result = Ok(());
        loop {
            let mut queue = self.queue.lock();
            let next = queue.full.pop_front();
            queue.bytes -= next.as_ref().map_or(0, |buffer| buffer.bytes.len());
            drop(queue);
            if next.as_ref().is_none_or(|buffer| !output.has_room(&buffer.bytes)) {
                output.write_staged().unwrap_or_else(|error| result = Err(error));
            }
            let Some(buffer) = next else { break };
            if output.has_room(&buffer.bytes) {
                output.stage(&buffer.bytes, buffer.records);
            } else {
                output.append(&buffer.bytes, buffer.records).unwrap_or_else(|error| result = Err(error));
            }
            // Neither a large record nor a long queue keeps its memory for ever.
            let mut bytes = buffer.bytes;
            let mut queue = self.queue.lock();
            if bytes.capacity() <= 4 * FULL && queue.spare.len() < SPARE {
                bytes.clear();
                queue.spare.push(bytes);
            }
        }
        self.lost.fetch_add(output.take_lost(), Ordering::Relaxed);
        result
    }
}

/// Starts the thread that writes the queue. All signals are blocked in it, because the program's
/// handlers would otherwise run on a thread that the program does not know.
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
            // The thread was woken for a full queue, or the interval is over.
            if last.elapsed() < INTERVAL {
                let _ = shared.write_queued();
            } else {
                last = Instant::now();
                let _ = shared.drain();
            }
        }
    });
    if blocked {
        // SAFETY: the set was written by the call above, and a null pointer asks for no old set.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), std::ptr::null_mut()) };
    }
    thread
}
