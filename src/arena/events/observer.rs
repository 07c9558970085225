//! The trait of observers, for profilers, debuggers and unwinders.
//!
//! An observer learns of the reservation, of each publication and of each end of a block, in an
//! order on which it can rely:
//!
//! ```text
//! reserved -> published -> retired -> freed -> ... -> released
//!                             ^          ^ the space may be used again after it returned
//!                             | the lookup does not find the block any more
//! ```
//!
//! All methods have empty bodies, so that an observer implements what it needs. No heap is locked
//! during a call, so an observer may use the arena. It must not keep the arena alive, because the
//! arena keeps it: it holds a [`WeakArena`](crate::WeakArena).

use std::borrow::Cow;
use std::fmt;

use crate::arena::WxMode;
use crate::arena::code::UnwindInfo;
use crate::arena::lookup::BlockInfo;
use crate::modes::{CodeMemory, Readers};

/// A receiver of the events of an arena, registered with
/// [`ArenaBuilder::observer`](crate::ArenaBuilder::observer). Every method does nothing unless it
/// is implemented.
///
/// The methods are called on the thread that publishes, drops or trims, and no lock is held (except
/// for [`freed`](Self::freed)). Calls of different threads overlap. An observer may use the arena.
///
/// # Panics
/// If an observer panics, the other observers are called all the same. Then the panic continues in
/// the caller of the arena. The arena stays valid.
///
/// # Fork
/// In a forked child an inherited arena calls no observer.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use gaia_jit::{Code, CodeArena, Observer, Published};
///
/// #[derive(Default)]
/// struct Names(Mutex<Vec<String>>);
///
/// impl Observer for Names {
///     fn published(&self, functions: &[Published<'_>]) {
///         let described = functions.iter().map(|f| format!("{} of {} bytes", f.name.unwrap_or("?"), f.block.len));
///         self.0.lock().unwrap().extend(described);
///     }
/// }
///
/// let names = Arc::new(Names::default());
/// let arena = CodeArena::builder().capacity(1 << 20).observer(names.clone()).build()?;
/// let block = arena.publish(Code::new(&[0xc3]).name("nothing"))?;
/// assert_eq!(*names.0.lock().unwrap(), ["nothing of 1 bytes"]);
/// # Ok::<(), gaia_jit::Error>(())
/// ```
pub trait Observer: Send + Sync {
    /// Is called when an arena was built. All of its code will lie in this address space.
    fn reserved(&self, space: &Reservation) {
        let _ = space;
    }

    /// Is called when functions can be run, with all functions of a batch at once. The publishing
    /// call has not returned yet. The bytes can be read here ([`Published::code`]).
    fn published(&self, functions: &[Published<'_>]) {
        let _ = functions;
    }

    /// Is called when `block` was dropped. Its space is not used again before this returns. Threads
    /// that hold a guard may still run it.
    fn retired(&self, block: &BlockInfo) {
        let _ = block;
    }

    /// Is called when the space of a dropped block is about to be used again, because no guard is
    /// left that could keep a thread in it. Without guards this call follows
    /// [`retired`](Self::retired) at once. With guards it is made by the thread that finds that the
    /// guards have ended. It is not made for blocks that still wait when the arena is freed.
    ///
    /// An observer must not use the arena in this method, and a panic of this method is discarded.
    /// It can be called within any call of the arena except `pin` and `lookup`, and other such
    /// calls wait for it. So if it takes a lock, no thread may hold that lock while it calls the
    /// arena.
    ///
    /// [`Observer`] has an example.
    fn freed(&self, block: &BlockInfo) {
        let _ = block;
    }

    /// Is called after the space of dropped blocks that waited for guards became free, at the next
    /// moment when no lock is held. `bytes` is their code, without padding.
    fn reclaimed(&self, blocks: u64, bytes: u64) {
        let _ = (blocks, bytes);
    }

    /// Is called after memory was returned to the system, by
    /// [`CodeArena::trim`](crate::CodeArena::trim) or
    /// [`keep_free`](crate::ArenaBuilder::keep_free).
    fn trimmed(&self, bytes: usize) {
        let _ = bytes;
    }

    /// Is called when the last owner of the arena is gone. All of its blocks were retired, and its
    /// address space is about to be released.
    fn released(&self, space: &Reservation) {
        let _ = space;
    }
}

/// The address space of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reservation {
    /// The first byte that can be code.
    pub start: *const u8,
    /// The bytes of address space for code.
    pub len: usize,
    /// The mode of the arena: how it keeps W^X.
    pub mode: WxMode,
}

// SAFETY: an address and a number. Following the pointer takes `unsafe` code elsewhere.
unsafe impl Send for Reservation {}
// SAFETY: as for `Send`.
unsafe impl Sync for Reservation {}

/// A function as it was published.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Published<'a> {
    /// Its address, length and tag.
    pub block: BlockInfo,
    /// The name that [`Code::name`](crate::Code::name) set.
    pub name: Option<&'a str>,
    /// The unwind information that [`Code::unwind`](crate::Code::unwind) set.
    pub unwind: Option<UnwindInfo<'a>>,
    /// The place of its bytes. It is not taken from `block`, because anybody who has a copy of this
    /// struct can store another address there.
    pub(in crate::arena) code: Live<'a>,
}

impl<'a> Published<'a> {
    /// Returns the code. It is a copy in [`PerThread`](WxMode::PerThread), because threads differ
    /// in what they may read.
    pub fn code(&self) -> Cow<'a, [u8]> {
        self.code.bytes()
    }

    /// Reads the code without a copy.
    #[cfg_attr(not(all(feature = "perf", target_os = "linux")), allow(dead_code, reason = "for `perf`"))]
    pub(crate) fn with_code<T>(&self, read: impl FnOnce(&[u8]) -> T) -> T {
        self.code.with_bytes(read)
    }

    /// Makes a description of bytes that are no code and were not published.
    #[cfg(test)]
    #[allow(dead_code, reason = "for tests of `unwind`")]
    pub(crate) fn pretended(block: BlockInfo, unwind: Option<UnwindInfo<'a>>) -> Self {
        Self { block, name: None, unwind, code: Live { memory: None, start: 0, len: 0 } }
    }
}

/// The bytes of a block that stays published as long as this value lives.
#[derive(Clone, Copy)]
pub(in crate::arena) struct Live<'a> {
    /// The memory of the arena. `None` if there are no bytes, in a test.
    memory: Option<&'a CodeMemory>,
    start: usize,
    len: usize,
}

impl<'a> Live<'a> {
    /// Names the bytes of a published block.
    ///
    /// # Safety
    /// - `len` bytes from offset `start` belong to a block that is published, and stays so for
    ///   `'a`.
    pub(in crate::arena) unsafe fn new(memory: &'a CodeMemory, start: usize, len: usize) -> Self {
        Self { memory: Some(memory), start, len }
    }

    fn with_bytes<T>(self, read: impl FnOnce(&[u8]) -> T) -> T {
        read(self.readable())
    }

    pub(in crate::arena) fn bytes(self) -> Cow<'a, [u8]> {
        match self.memory {
            // The parent of a forked child may drop its block and write another one into the memory
            // that both share. The result has the bytes that are there now, and no slice of them is
            // made.
            Some(memory) if memory.rules().readers == Readers::SharedWithParent && !memory.is_own() => {
                let start = memory.address(self.start);
                // SAFETY: mapped and readable. The reads are volatile, because another process may
                // write there.
                Cow::Owned((0..self.len).map(|at| unsafe { start.wrapping_add(at).read_volatile() }).collect())
            }
            // Another thread may have no right to read the bytes, and the slice could be sent to
            // it.
            Some(memory) if memory.rules().readers == Readers::EachThreadByItself => {
                Cow::Owned(self.readable().to_vec())
            }
            _ => Cow::Borrowed(self.readable()),
        }
    }

    /// Returns a slice that only this thread can be sure to read.
    fn readable(self) -> &'a [u8] {
        let Some(memory) = self.memory else { return &[] };
        memory.let_read();
        // SAFETY: published bytes are mapped, readable by this thread and initialised. In their own
        // process they do not change while the block lives. `CodeBlock::patch`, which changes them,
        // is unsafe and forbids that while such a slice is in use.
        unsafe { std::slice::from_raw_parts(memory.address(self.start), self.len) }
    }
}

impl fmt::Debug for Live<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}
