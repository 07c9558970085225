//! Many functions, one publication.
//!
//! In `DualMap` a slot's bytes go straight to the second view. In `Flip` there are two ways in, and
//! a batch starts with the first and goes over to the second as it grows: small batches are
//! *staged* in ordinary memory and written by the kernel into holes of pages that are executable
//! already, contiguous slots in one call; from [`STAGED`] bytes on, the batch opens *runs* of whole
//! empty pages, writes in place, and seals each run once. (Measured: up to 64 KiB a kernel write is
//! cheaper than opening and sealing, from there on dearer.) Without the kernel write all goes to
//! runs.
//!
//! In `PerThread` pushed bytes are written to their place at once, and what is still to be changed
//! is staged: so pages are writable while the crate copies, and never while the caller's code runs.

mod branches;
mod cut;
mod data;
mod ends;
pub(in crate::arena) mod notes;
pub(in crate::arena) mod open_run;
mod pieces;
mod place;
mod publish;
pub(in crate::arena) mod room;
mod stubs;

use crate::Error;

use crate::arena::code::{Code, UnwindInfo};
use crate::arena::core::bytes_of;
use crate::arena::handle::Handle;
use crate::arena::lookup::Entry;
use crate::icache;
use crate::modes::WayIn;
use crate::reloc::HighPart;
use crate::sync::{Arc, AtomicU64, Ordering};
pub use data::DataSlot;
use data::PlacedData;
use notes::Notes;
use open_run::OpenRun;
use pieces::Source;
use room::MakeRoom;
use stubs::Stubs;

/// Bytes that a `Flip` batch stages before it opens pages.
pub(in crate::arena) const STAGED: usize = 64 << 10;
/// The longest run of pages that a batch opens ahead of its needs.
pub(in crate::arena) const LONGEST_RUN: usize = 2 << 20;

/// A place in a batch, and in the list of blocks that [`Batch::publish`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    batch: u64,
    index: usize,
}

impl Slot {
    /// Its place in the order of the slots, from 0.
    pub fn index(self) -> usize {
        self.index
    }
}

/// Functions that are published together: all of them or none. Made by
/// [`CodeArena::batch`](crate::CodeArena::batch).
///
/// Every slot's final address is known before its bytes are, so functions can call each other. A
/// batch that is dropped gives everything back. It may be sent to another thread, which goes on
/// with it.
///
/// ```
/// # #[cfg(target_arch = "x86_64")] {
/// use gaia_jit::{Reloc, Target};
///
/// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
/// let mut batch = arena.batch();
/// let seven = batch.push(&[0xb8, 7, 0, 0, 0, 0xc3])?; // mov eax, 7; ret
/// let caller = batch.push(&[0xe9, 0, 0, 0, 0])?; // jmp
/// batch.link(caller, 1, Reloc::X86Call32, Target::Slot(seven), -4)?;
/// let blocks = batch.publish()?;
/// // SAFETY: the code takes nothing and returns a number.
/// let call = unsafe { blocks[caller.index()].as_fn::<unsafe extern "C" fn() -> i32>() };
/// // SAFETY: the block is alive.
/// assert_eq!(unsafe { call() }, 7);
/// # }
/// # Ok::<(), gaia_jit::Error>(())
/// ```
pub struct Batch {
    core: Arc<Handle>,
    id: u64,
    /// By slot.
    entries: Vec<Entry>,
    sources: Vec<Source>,
    notes: Notes,
    /// By slot, of those that have any.
    pub(in crate::arena) stubs: Vec<Stubs>,
    staging: Vec<u8>,
    runs: Vec<OpenRun>,
    data: PlacedData,
    /// High parts of addresses that were linked, on RISC-V.
    pub(crate) highs: Vec<HighPart>,
    /// What was staged has been written, or some of it.
    written: bool,
    /// There were no whole pages to open: not asked for again.
    no_pages: bool,
    /// Bytes that this batch will come to, as far as the last ones tell.
    expected: usize,
    /// There will be one function: no more pages are opened than it needs.
    single: bool,
    /// It goes to pages of its own, whatever holes there are.
    in_pages: bool,
    /// Whom to ask for room when the arena is full.
    on_full: Option<Arc<dyn MakeRoom>>,
}

// Another thread may go on with a batch and publish it: no mode has a window open for one thread
// between two calls.
const _: () = {
    const fn is_sent_and_shared<T: Send + Sync>() {}
    is_sent_and_shared::<Batch>();
};

impl Batch {
    pub(crate) fn new(core: Arc<Handle>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let recent = core.recent.load(Ordering::Relaxed);
        // The smaller of the last two, so that one large batch among small ones deceives nobody.
        let expected = (recent >> 32).min(recent & u64::from(u32::MAX)) as usize;
        Self {
            core,
            id,
            entries: Vec::new(),
            sources: Vec::new(),
            notes: Notes::default(),
            stubs: Vec::new(),
            staging: Vec::new(),
            runs: Vec::new(),
            data: PlacedData::default(),
            highs: Vec::new(),
            written: false,
            no_pages: false,
            expected,
            single: false,
            in_pages: false,
            on_full: None,
        }
    }

    /// For one function.
    pub(in crate::arena) fn single(core: Arc<Handle>) -> Self {
        let mut batch = Self::new(core);
        batch.single = true;
        batch
    }

    /// For one function in pages of its own.
    pub(in crate::arena) fn in_pages(core: Arc<Handle>) -> Self {
        let mut batch = Self::single(core);
        batch.in_pages = true;
        batch
    }

    /// Adds a function. Its bytes can still be changed until the batch is published.
    ///
    /// # Errors
    /// [`Error::ZeroSize`], [`Error::TooLarge`], [`Error::BadAlignment`], [`Error::ArenaFull`],
    /// [`Error::OperatingSystem`], [`Error::Forked`]; the batch is then as it was before.
    pub fn push<'c>(&mut self, code: impl Into<Code<'c>>) -> Result<Slot, Error> {
        let code = code.into();
        let slot = self.add(code.bytes.len(), code.align, code.tag, Some(code.bytes))?;
        if !matches!(self.sources[slot.index], Source::Written) {
            let granules = self.granules_mut(slot);
            // The code first: stores that go forward are prefetched, and the padding's cache line
            // is then at hand.
            let (code_bytes, padding) = granules.split_at_mut(code.bytes.len());
            code_bytes.copy_from_slice(code.bytes);
            icache::fill_with_traps(padding);
        }
        if let Some(name) = code.name {
            self.set_name(slot, name);
        }
        if let Some(info) = code.unwind {
            self.set_unwind(slot, info);
        }
        Ok(slot)
    }

    /// Adds a function of `len` bytes whose code comes later; until then it is filled with traps.
    ///
    /// # Errors
    /// As for [`Batch::push`].
    pub fn reserve(&mut self, len: usize, align: usize) -> Result<Slot, Error> {
        let slot = self.add(len, align, 0, None)?;
        icache::fill_with_traps(self.granules_mut(slot));
        Ok(slot)
    }

    /// Sets the tag of a slot; without effect on a slot of another batch.
    pub fn set_tag(&mut self, slot: Slot, tag: u64) {
        if let Some(entry) = self.entries.get_mut(slot.index).filter(|_| slot.batch == self.id) {
            entry.tag = tag;
        }
    }

    /// Sets the name of a slot, for the arena's [`Observer`](crate::Observer); without effect on a
    /// slot of another batch.
    pub fn set_name(&mut self, slot: Slot, name: &str) {
        if self.is_noted(slot) {
            self.notes.name(slot.index, name);
        }
    }

    /// Sets how to unwind through a slot, as [`Code::unwind`](crate::Code::unwind) does; without
    /// effect on a slot of another batch.
    pub fn set_unwind(&mut self, slot: Slot, info: UnwindInfo<'_>) {
        if self.is_noted(slot) {
            self.notes.unwind(slot.index, info);
        }
    }

    /// Whether it is a slot of this batch, and somebody is there to be told of it, or may come.
    fn is_noted(&self, slot: Slot) -> bool {
        self.entry(slot).is_some() && (self.core.kept.is_some() || !self.core.observers.is_empty())
    }

    /// The address at which the slot's code will run; null for a slot of another batch.
    pub fn address(&self, slot: Slot) -> *const u8 {
        match self.entry(slot) {
            Some(entry) => self.core.memory.address(bytes_of(entry.run()).start),
            None => std::ptr::null(),
        }
    }

    /// The slot's bytes, to write to; empty for a slot of another batch, and in a forked child,
    /// which cannot publish.
    pub fn bytes_mut(&mut self, slot: Slot) -> &mut [u8] {
        let len = self.entry(slot).map_or(0, |entry| entry.len as usize);
        self.granules_mut(slot).get_mut(..len).unwrap_or_default()
    }

    /// The slot's bytes and the padding behind them.
    fn granules_mut(&mut self, slot: Slot) -> &mut [u8] {
        let (Some(entry), Some(source)) = (self.entry(slot).copied(), self.sources.get_mut(slot.index)) else {
            return &mut [];
        };
        let at = bytes_of(entry.run());
        if *source == Source::Written {
            // Written a second time when the batch is published.
            *source = Source::Staged(self.staging.len() as u32);
            self.core.memory.let_read();
            // SAFETY: mapped and readable, and nobody writes there while this batch has the place.
            let written = unsafe { std::slice::from_raw_parts(self.core.memory.address(at.start), at.len()) };
            if self.staging.try_reserve(written.len()).is_err() {
                *source = Source::Written;
                return &mut [];
            }
            self.staging.extend_from_slice(written);
        }
        let source = *source;
        match source {
            Source::Staged(from) => &mut self.staging[from as usize..from as usize + at.len()],
            // The writable view was not inherited.
            Source::View if !self.core.memory.is_own() => &mut [],
            Source::View | Source::Run | Source::Written => {
                let start = self.core.memory.writable(at.start);
                // SAFETY: the granules were placed for this batch alone and are not published, so
                // no other reference to them exists; the view (or the open page) is mapped,
                // writable and initialised, at the least to zeros. `&mut self` makes the slice the
                // only one.
                unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), at.len()) }
            }
        }
    }

    /// The slots that come next, before they are there.
    #[cfg(feature = "cranelift")]
    pub(crate) fn next_slots(&self, count: usize) -> Vec<Slot> {
        (self.entries.len()..self.entries.len() + count).map(|index| Slot { batch: self.id, index }).collect()
    }

    /// Whether a direct branch reaches from all of the arena to `address`.
    #[cfg(feature = "cranelift")]
    pub(crate) fn reaches(&self, address: *const u8) -> bool {
        self.core.reaches(address)
    }

    /// Slots so far.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no slots yet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn entry(&self, slot: Slot) -> Option<&Entry> {
        self.entries.get(slot.index).filter(|_| slot.batch == self.id)
    }

    fn add(&mut self, len: usize, align: usize, tag: u64, code: Option<&[u8]>) -> Result<Slot, Error> {
        self.core.memory.check_own("publish")?;
        let granules = self.core.granules(len)?;
        let align = self.core.align(align)?;
        let more = self.entries.try_reserve(1).and_then(|()| self.sources.try_reserve(1));
        more.map_err(|_| Error::out_of_memory())?;
        let (run, source) = loop {
            let placed = match code {
                Some(code) if self.core.memory.rules().way_in == WayIn::WriteAtOnce => {
                    self.write(granules, align, code)
                }
                _ => self.find(granules, align),
            };
            match placed {
                Err(full) => self.make_room(full)?,
                Ok(placed) => break placed,
            }
        };
        self.entries.push(Entry::new(run.start, len as u32, tag));
        self.sources.push(source);
        Ok(Slot { batch: self.id, index: self.entries.len() - 1 })
    }
}
