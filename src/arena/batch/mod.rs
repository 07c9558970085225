//! Batches: functions that are published together.
//!
//! A function of a batch has its final address as soon as it is reserved. Where its bytes are until
//! the batch is published depends on the mode:
//!
//! ```text
//! DualMap, Given with an alias          View     stored to the second view at once
//! PerThread                             Written  pushed bytes: written to their place at once
//!                                       Staged   bytes that may still change: kept in ordinary memory
//! FileWrite, Given with a function      Staged   written when the batch is published
//! Flip                                  Staged   the first 64 KiB: written by the kernel into holes, one call for adjacent functions
//!                                       Run      the rest: stored into runs of whole empty pages, opened and sealed once each
//! ```
//!
//! In `Flip` a batch stages its first [`STAGED`] bytes and opens pages for the rest. Up to 64 KiB a
//! kernel write is cheaper than opening and sealing pages; for more bytes it costs more. Without
//! the kernel write all functions are placed in runs.
//!
//! In `PerThread` pages are writable for a thread only while the crate copies, and never while code
//! of the caller runs. So bytes that the caller may still change are staged.
//!
//! `place` finds space for a function, `pieces` joins adjacent functions, `publish` writes and
//! seals, and `ends` frees the space of a batch that is not published. `branches` and `stubs` send
//! far branches through stubs. `data` places data with the functions. `room` asks a cache to evict
//! when the arena is full. A batch holds no lock between two calls.

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

/// The bytes that a `Flip` batch stages before it opens pages.
pub(in crate::arena) const STAGED: usize = 64 << 10;
/// The longest run of pages that a batch opens ahead of its needs, in bytes.
pub(in crate::arena) const LONGEST_RUN: usize = 2 << 20;

/// A function of a batch. It is also the index of its block in the list that [`Batch::publish`]
/// returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    batch: u64,
    index: usize,
}

impl Slot {
    /// Returns the number of the slot, counted from 0 in the order in which slots were made.
    pub fn index(self) -> usize {
        self.index
    }
}

/// Functions that are published together: all of them or none. Made by
/// [`CodeArena::batch`](crate::CodeArena::batch).
///
/// The final address of every slot is known before its bytes are, so functions can call each other.
/// A batch that is dropped frees all of its space. A batch may be sent to another thread, which
/// continues it.
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
    /// The functions, by slot.
    entries: Vec<Entry>,
    sources: Vec<Source>,
    notes: Notes,
    /// The stubs of each slot that has any, in the order of the slots.
    pub(in crate::arena) stubs: Vec<Stubs>,
    staging: Vec<u8>,
    runs: Vec<OpenRun>,
    data: PlacedData,
    /// The high parts of addresses that were linked, on RISC-V.
    pub(crate) highs: Vec<HighPart>,
    /// Whether staged bytes were written, all of them or some.
    written: bool,
    /// Whether there were no whole pages to open. They are not asked for again.
    no_pages: bool,
    /// The bytes that this batch will probably come to, judged by the last two batches.
    expected: usize,
    /// Whether the batch will have one function only. Then no more pages are opened than it needs.
    single: bool,
    /// Whether the batch takes pages of its own, even if there are holes.
    in_pages: bool,
    /// The owner of code that can be evicted, which is asked for room when the arena is full.
    on_full: Option<Arc<dyn MakeRoom>>,
}

// Another thread may continue a batch and publish it, because no mode gives one thread a right
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
        // The smaller of the last two, so that one large batch among small ones has no effect.
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

    /// Makes a batch for one function.
    pub(in crate::arena) fn single(core: Arc<Handle>) -> Self {
        let mut batch = Self::new(core);
        batch.single = true;
        batch
    }

    /// Makes a batch for one function in pages of its own.
    pub(in crate::arena) fn in_pages(core: Arc<Handle>) -> Self {
        let mut batch = Self::single(core);
        batch.in_pages = true;
        batch
    }

    /// Adds a function. Its bytes can be changed until the batch is published.
    ///
    /// ```
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let mut batch = arena.batch();
    /// let slot = batch.push(&[0x90, 0xc3])?;
    /// batch.bytes_mut(slot)[0] = 0xc3;
    /// assert_eq!(batch.publish()?[slot.index()].as_bytes()[..], [0xc3, 0xc3]);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// After an error the batch is as it was before the call.
    ///
    /// - [`Error::ArenaFull`] if no hole is large enough.
    /// - [`Error::ZeroSize`] if there are no bytes.
    /// - [`Error::TooLarge`] if the code is larger than the capacity.
    /// - [`Error::BadAlignment`] if the alignment is no power of two, or above the limit of
    ///   [`Code::align`](crate::Code::align).
    /// - [`Error::OperatingSystem`] if a system call fails.
    /// - [`Error::Forked`] in a forked child.
    pub fn push<'c>(&mut self, code: impl Into<Code<'c>>) -> Result<Slot, Error> {
        let code = code.into();
        let slot = self.add(code.bytes.len(), code.align, code.tag, Some(code.bytes))?;
        if !matches!(self.sources[slot.index], Source::Written) {
            let granules = self.granules_mut(slot);
            // The code comes first, because stores in ascending order are prefetched. The cache
            // line of the padding is then present.
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

    /// Adds a function of `len` bytes that are written later. Until then the slot is filled with
    /// traps.
    ///
    /// ```
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let mut batch = arena.batch();
    /// let slot = batch.reserve(2, 16)?;
    /// let address = batch.address(slot); // final, before the bytes are known
    /// batch.bytes_mut(slot).copy_from_slice(&[0x90, 0xc3]);
    /// assert_eq!(batch.publish()?[slot.index()].as_ptr(), address);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Batch::push`].
    pub fn reserve(&mut self, len: usize, align: usize) -> Result<Slot, Error> {
        let slot = self.add(len, align, 0, None)?;
        icache::fill_with_traps(self.granules_mut(slot));
        Ok(slot)
    }

    /// Sets the tag of a slot. It has no effect on a slot of another batch.
    pub fn set_tag(&mut self, slot: Slot, tag: u64) {
        if let Some(entry) = self.entries.get_mut(slot.index).filter(|_| slot.batch == self.id) {
            entry.tag = tag;
        }
    }

    /// Sets the name of a slot, which the arena's [`Observer`](crate::Observer) gets. It has no
    /// effect on a slot of another batch.
    pub fn set_name(&mut self, slot: Slot, name: &str) {
        if self.is_noted(slot) {
            self.notes.name(slot.index, name);
        }
    }

    /// Sets the unwind information of a slot, as [`Code::unwind`](crate::Code::unwind) does. It has
    /// no effect on a slot of another batch.
    pub fn set_unwind(&mut self, slot: Slot, info: UnwindInfo<'_>) {
        if self.is_noted(slot) {
            self.notes.unwind(slot.index, info);
        }
    }

    /// Returns whether this is a slot of this batch, and the arena has observers or may get some
    /// later.
    fn is_noted(&self, slot: Slot) -> bool {
        self.entry(slot).is_some() && (self.core.kept.is_some() || !self.core.observers.is_empty())
    }

    /// Returns the address at which the slot's code will run. It is null for a slot of another
    /// batch.
    pub fn address(&self, slot: Slot) -> *const u8 {
        match self.entry(slot) {
            Some(entry) => self.core.memory.address(bytes_of(entry.run()).start),
            None => std::ptr::null(),
        }
    }

    /// Returns the slot's bytes, to be written to. They usually lie elsewhere until the batch is
    /// published: [`Batch::address`] is the place where they will run. They are empty for a slot of
    /// another batch. In a forked child, which cannot publish, they may be empty too.
    ///
    /// ```
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let mut batch = arena.batch();
    /// let slot = batch.reserve(4, 16)?;
    /// let address = batch.address(slot); // where the bytes will run
    /// batch.bytes_mut(slot).copy_from_slice(&[0x90, 0x90, 0x90, 0xc3]);
    /// let block = batch.publish()?.remove(slot.index());
    /// assert_eq!((block.as_ptr(), &block.as_bytes()[..]), (address, &[0x90, 0x90, 0x90, 0xc3][..]));
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn bytes_mut(&mut self, slot: Slot) -> &mut [u8] {
        let len = self.entry(slot).map_or(0, |entry| entry.len as usize);
        self.granules_mut(slot).get_mut(..len).unwrap_or_default()
    }

    /// Returns the slot's bytes and the padding behind them.
    fn granules_mut(&mut self, slot: Slot) -> &mut [u8] {
        let (Some(entry), Some(source)) = (self.entry(slot).copied(), self.sources.get_mut(slot.index)) else {
            return &mut [];
        };
        let at = bytes_of(entry.run());
        if *source == Source::Written {
            // These bytes are written a second time when the batch is published.
            *source = Source::Staged(self.staging.len() as u32);
            self.core.memory.let_read();
            // SAFETY: mapped and readable, and nobody writes there while this batch has the
            // granules.
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
            // A child does not inherit the writable view.
            Source::View if !self.core.memory.is_own() => &mut [],
            Source::View | Source::Run | Source::Written => {
                let start = self.core.memory.writable(at.start);
                // SAFETY: the granules were placed for this batch alone and are not published, so
                // no other reference to them exists. The view (or the open page) is mapped,
                // writable and initialised, at least to zeros. `&mut self` makes the slice the only
                // one.
                unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), at.len()) }
            }
        }
    }

    /// Returns the slots that will be made next.
    #[cfg(feature = "cranelift")]
    pub(crate) fn next_slots(&self, count: usize) -> Vec<Slot> {
        (self.entries.len()..self.entries.len() + count).map(|index| Slot { batch: self.id, index }).collect()
    }

    /// Returns whether a direct branch reaches from all of the arena to `address`.
    #[cfg(feature = "cranelift")]
    pub(crate) fn reaches(&self, address: *const u8) -> bool {
        self.core.reaches(address)
    }

    /// Returns the number of slots.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether there are no slots.
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
        let mut waited = room::Waited::default();
        let (run, source) = loop {
            let placed = match code {
                Some(code) if self.core.memory.rules().way_in == WayIn::WriteAtOnce => {
                    self.write(granules, align, code)
                }
                _ => self.find(granules, align),
            };
            match placed {
                Err(full) => self.make_room(full, &mut waited)?,
                Ok(placed) => break placed,
            }
        };
        self.entries.push(Entry::new(run.start, len as u32, tag));
        self.sources.push(source);
        Ok(Slot { batch: self.id, index: self.entries.len() - 1 })
    }
}
