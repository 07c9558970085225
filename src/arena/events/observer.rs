//! Listening to an arena: what profilers, debuggers and unwinders need to know.

use std::borrow::Cow;
use std::fmt;

use crate::arena::WxMode;
use crate::arena::code::UnwindInfo;
use crate::arena::lookup::BlockInfo;
use crate::modes::{CodeMemory, Readers};

/// Hears of what happens in an arena. Registered with
/// [`ArenaBuilder::observer`](crate::ArenaBuilder::observer).
///
/// The calls come on the thread that publishes, drops or trims, without any lock held; calls of
/// different threads overlap. An observer may use the arena. A forked child's arena tells nobody
/// anything. If an observer panics, the further ones hear of the event as well; then the panic goes
/// on to whoever called the arena, and nothing is lost.
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
    /// An arena was built: all of its code will lie in this address space.
    fn reserved(&self, space: &Reservation) {
        let _ = space;
    }

    /// Functions can be run from now on, those of one batch together; the publishing call has not
    /// returned yet, and their bytes can be read here ([`Published::code`]).
    fn published(&self, functions: &[Published<'_>]) {
        let _ = functions;
    }

    /// `block` was dropped; its space is not used again before this returns. Threads that hold a
    /// guard may still run it.
    fn retired(&self, block: &BlockInfo) {
        let _ = block;
    }

    /// The space of a block that was dropped is about to be used again: no guard is left that could
    /// keep a thread in it. Without guards this comes right after [`retired`](Self::retired), else
    /// on whatever thread finds that they are gone. For blocks that still wait when the arena goes
    /// it does not come.
    ///
    /// Unlike elsewhere, an observer must not use the arena here, and a panic ends here. It can
    /// come within any call into the arena but `pin` and `lookup`, and makes other such calls wait;
    /// so a lock that is taken here must not be held, by an observer or anybody else, while the
    /// arena is called.
    fn freed(&self, block: &BlockInfo) {
        let _ = block;
    }

    /// Space of dropped blocks that had waited for guards came free; told at the next occasion
    /// without a lock.
    fn reclaimed(&self, blocks: u64, bytes: u64) {
        let _ = (blocks, bytes);
    }

    /// [`CodeArena::trim`](crate::CodeArena::trim) gave so many bytes back to the system.
    fn trimmed(&self, bytes: usize) {
        let _ = bytes;
    }

    /// The arena is gone: all of its blocks were retired, and its address space is about to be
    /// given up.
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
    /// Bytes of code there can be.
    pub len: usize,
    /// How the arena keeps W^X.
    pub mode: WxMode,
}

// SAFETY: an address and a number; to follow the pointer takes `unsafe` code of its own.
unsafe impl Send for Reservation {}
// SAFETY: as for `Send`.
unsafe impl Sync for Reservation {}

/// A function as it was published.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Published<'a> {
    /// Where it is, and its tag.
    pub block: BlockInfo,
    /// What [`Code::name`](crate::Code::name) said.
    pub name: Option<&'a str>,
    /// What [`Code::unwind`](crate::Code::unwind) said.
    pub unwind: Option<UnwindInfo<'a>>,
    /// Where its bytes are. Not what `block` says: whoever has a copy of this can write another
    /// address there.
    pub(in crate::arena) code: Live<'a>,
}

impl<'a> Published<'a> {
    /// Its code; a copy in [`PerThread`](WxMode::PerThread), where threads differ in what they may
    /// read.
    pub fn code(&self) -> Cow<'a, [u8]> {
        self.code.bytes()
    }

    /// As [`Published::code`], without a copy.
    #[cfg_attr(not(all(feature = "perf", target_os = "linux")), allow(dead_code, reason = "for `perf`"))]
    pub(crate) fn with_code<T>(&self, read: impl FnOnce(&[u8]) -> T) -> T {
        self.code.with_bytes(read)
    }

    /// As if published, for bytes that are no code.
    #[cfg(test)]
    #[allow(dead_code, reason = "for tests of `unwind`")]
    pub(crate) fn pretended(block: BlockInfo, unwind: Option<UnwindInfo<'a>>) -> Self {
        Self { block, name: None, unwind, code: Live { memory: None, start: 0, len: 0 } }
    }
}

/// The bytes of a block that stays published for as long as this lives.
#[derive(Clone, Copy)]
pub(in crate::arena) struct Live<'a> {
    /// `None`: there are no bytes, in a test.
    memory: Option<&'a CodeMemory>,
    start: usize,
    len: usize,
}

impl<'a> Live<'a> {
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
            // The parent of a forked child may drop its block and write another into memory that
            // both share: these are the bytes that are there now, and no slice of them is made.
            Some(memory) if memory.rules().readers == Readers::SharedWithParent && !memory.is_own() => {
                let start = memory.address(self.start);
                // SAFETY: mapped and readable; volatile, as another process may write there.
                Cow::Owned((0..self.len).map(|at| unsafe { start.wrapping_add(at).read_volatile() }).collect())
            }
            // Another thread may have no right to read them, and could be sent the slice.
            Some(memory) if memory.rules().readers == Readers::EachThreadByItself => {
                Cow::Owned(self.readable().to_vec())
            }
            _ => Cow::Borrowed(self.readable()),
        }
    }

    /// For this thread alone.
    fn readable(self) -> &'a [u8] {
        let Some(memory) = self.memory else { return &[] };
        memory.let_read();
        // SAFETY: published bytes are mapped, readable by this thread and initialised, and in the
        // process they belong to they stay as they are while the block lives; `CodeBlock::patch`,
        // which changes them, is unsafe and forbids it while such a slice is in use.
        unsafe { std::slice::from_raw_parts(memory.address(self.start), self.len) }
    }
}

impl fmt::Debug for Live<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}
