//! A file that many threads append records to.
//!
//! # Structure
//!
//! Records are put together in one of sixteen buffers, each behind a lock of its own that is held
//! for one append. A full buffer goes to the end of a queue, from which a thread of the sink's own
//! writes it: a thread that publishes does not wait for the file system, unless the queue holds 8
//! MiB already. What does not fill a buffer is queued every tenth of a second, so that a program
//! that is killed loses no more than that. (Tried: full buffers written by whoever fills them, 64
//! KiB each: the writers waited for the disk and for each other, and eight threads that publish one
//! function at a time took 1.8 times as long as without a map, not 1.6; of batches, 1.4 and not
//! 1.3. And without the thread, a program that publishes fifty functions and is interrupted left an
//! empty file.)
//!
//! A buffer is queued while its own lock is held, and the queue is emptied by one thread at a time,
//! which holds the lock of the file. So the records of one buffer reach the file in the order they
//! were appended. Which buffer a record goes to is the caller's choice.
//!
//! What becomes of a write that fails is said in [`super::output`].
//!
//! # Forked children
//!
//! Each call that takes a lock looks first whether it is in the process that made the sink.
//! [`Sink::inherited`] is for a child: it tries the locks, and takes none.

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

/// How many buffers there are.
pub(super) const SHARDS: usize = 16;
/// Bytes from which on a buffer is queued. All buffers together fit into the second level of
/// caches.
const FULL: usize = 16 << 10;
/// Empty buffers that are kept: as many as the thread finds when it is woken.
const SPARE: usize = WORTH / FULL;
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

/// The file; what is in its buffers is written when it is dropped. In a forked child it does
/// nothing.
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
    /// Empty, but with room: what full ones are exchanged with. The last that was written is the
    /// first to be used again.
    spare: Vec<Vec<u8>>,
}

impl Sink {
    /// Makes a file, or takes part in it if its kind allows that, and writes `head` at its
    /// beginning.
    pub(super) fn create(what: &'static str, path: PathBuf, kind: Kind, head: &[u8]) -> Result<(Self, File), Error> {
        let generation = generation();
        let Some(mut open) = OPEN.lock() else {
            return Err(Error::unsupported(what, "this process was forked while another thread made such a file"));
        };
        let there = claim::id_at(&path);
        let is_it = |other: &Open| other.path == path || there == Some(other.id);
        if open.iter().any(|other| other.generation == generation && is_it(other)) {
            return Err(Error::unsupported(what, format!("this process is writing {} already", path.display())));
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

    /// Appends records to a buffer, which has room for `len` more bytes: `write` says how many
    /// there were.
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
        self.shared.drain().map_err(|source| Error::of_file("write", &self.shared.path, source))
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

    /// In a forked child: what its parent had appended when it forked, as far as that can be had.
    /// The locks that are tried here stay locked, because nobody uses them in this process, and to
    /// unlock one may mean to wake a thread that is not here.
    pub(super) fn inherited(&self) -> io::Result<Vec<u8>> {
        let mut all = match self.shared.output.try_lock() {
            Some(output) => {
                let written = output.written();
                mem::forget(output);
                written?
            }
            // It was being written to. By now that is done.
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
            // Only the parent has that thread, and what the locks guard may have been in the middle
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
    /// Puts a buffer, whose lock the caller holds, at the end of the queue; how many bytes are in
    /// there then.
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
            if next.as_ref().is_none_or(|buffer| !output.has_room(&buffer.bytes)) {
                output.write_staged().unwrap_or_else(|error| result = Err(error));
            }
            let Some(buffer) = next else { break };
            if output.has_room(&buffer.bytes) {
                output.stage(&buffer.bytes, buffer.records);
            } else {
                output.append(&buffer.bytes, buffer.records).unwrap_or_else(|error| result = Err(error));
            }
            // One large record must not cost its memory for ever, nor a long queue.
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

/// The thread that writes what does not fill a buffer. No signal is delivered to it: handlers of
/// the program's own would run on a thread that the program does not know.
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
