//! Many functions, one publication.
//!
//! In `DualMap` a slot's bytes go straight to the second view. In `Flip` there are two ways in, and a batch starts with
//! the first and goes over to the second as it grows: small batches are *staged* in ordinary memory and written by the
//! kernel into holes of pages that are executable already, contiguous slots in one call; from [`STAGED`] bytes on, the
//! batch opens *runs* of whole empty pages, writes in place, and seals each run once. (Measured: up to 64 KiB a kernel
//! write is cheaper than opening and sealing, from there on dearer.) Without the kernel write all goes to runs.
//!
//! In `PerThread` pushed bytes are written to their place at once, and what is still to be changed is staged: so pages
//! are writable while the crate copies, and never while the caller's code runs.

mod branches;
mod cut;
mod data;
mod ends;
pub(in crate::arena) mod notes;
pub(in crate::arena) mod open_run;
mod pieces;
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
use crate::space::Run;
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::units::{GRANULE, MAX_ALIGN};
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

/// Functions that are published together: all of them or none. Made by [`CodeArena::batch`](crate::CodeArena::batch).
///
/// Every slot's final address is known before its bytes are, so functions can call each other. A batch that is dropped
/// gives everything back. It may be sent to another thread, which goes on with it.
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

// Another thread may go on with a batch and publish it: no mode has a window open for one thread between two calls.
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
            // The code first: stores that go forward are prefetched, and the padding's cache line is then at hand.
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

    /// Sets the name of a slot, for the arena's [`Observer`](crate::Observer); without effect on a slot of another batch.
    pub fn set_name(&mut self, slot: Slot, name: &str) {
        if self.is_noted(slot) {
            self.notes.name(slot.index, name);
        }
    }

    /// Sets how to unwind through a slot, as [`Code::unwind`](crate::Code::unwind) does; without effect on a slot of
    /// another batch.
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

    /// The slot's bytes, to write to; empty for a slot of another batch, and in a forked child, which cannot publish.
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
                // SAFETY: the granules were placed for this batch alone and are not published, so no other reference
                // to them exists; the view (or the open page) is mapped, writable and initialised, at the least to
                // zeros. `&mut self` makes the slice the only one.
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

    fn find(&mut self, granules: u32, align: u32) -> Result<(Run, Source), Error> {
        if let Some(run) = self.runs.last_mut().and_then(|open| open.take(granules, align)) {
            return Ok((run, Source::Run));
        }
        let memory = &self.core.memory;
        if memory.rules().way_in == WayIn::Stores {
            let run = self.place(granules, align)?;
            self.core.memory.back(bytes_of(run)).inspect_err(|_| self.core.release([run]))?;
            return Ok((run, Source::View));
        }
        let staged = self.staging.len() + granules as usize * GRANULE;
        let few = self.no_pages || self.expected.max(staged) <= STAGED;
        if !memory.opens_pages() || !self.in_pages && few && memory.fills_holes() {
            return self.stage(granules, align);
        }
        if !self.in_pages && few && memory.may_fill_hole() {
            if let Ok(placed) = self.stage_tried(granules, align) {
                return Ok(placed);
            }
        }
        match self.open(granules, align) {
            // No room for whole pages, or the system is at its limit of mappings: holes may still do.
            Err(error @ (Error::ArenaFull { .. } | Error::OperatingSystem { .. }))
                if self.core.memory.filled_holes() && !self.in_pages =>
            {
                let no_pages = matches!(error, Error::ArenaFull { .. });
                if self.core.memory.fills_holes() {
                    self.no_pages = no_pages;
                    return self.stage(granules, align);
                }
                // What refused to fill them may have passed. If not, pages are what is missing, and room for them may be made.
                let placed = self.stage_tried(granules, align).map_err(|_| error)?;
                self.no_pages = no_pages;
                Ok(placed)
            }
            opened => Ok((opened?, Source::Run)),
        }
    }

    /// Granules of this batch's own, in pages that will hold memory.
    fn place(&self, granules: u32, align: u32) -> Result<Run, Error> {
        self.core.place(granules, align, |heap, run| {
            heap.space.touch(&self.core.heaps.tables, run);
            Ok(run)
        })
    }

    /// Writes code to its place at once.
    fn write(&mut self, granules: u32, align: u32, code: &[u8]) -> Result<(Run, Source), Error> {
        let run = self.place(granules, align)?;
        let padding = icache::padding_of(code.len());
        // SAFETY: granules placed for this batch alone, not published yet.
        match unsafe { self.core.memory.fill(bytes_of(run).start, code, padding) } {
            Ok(()) => Ok((run, Source::Written)),
            Err(error) => {
                self.core.release([run]);
                Err(error)
            }
        }
    }

    fn stage(&mut self, granules: u32, align: u32) -> Result<(Run, Source), Error> {
        let (at, len) = (self.staging.len(), granules as usize * GRANULE);
        self.staging.try_reserve(len).map_err(|_| Error::out_of_memory())?;
        // Its pages hold memory once it is written.
        let run = self.core.place(granules, align, |_, run| Ok(run))?;
        self.staging.resize(at + len, 0);
        Ok((run, Source::Staged(at as u32)))
    }

    /// As [`Batch::stage`], if a write to that place is not refused now. Where it was refused before, a batch would learn of it when it
    /// is published, and its addresses would be known by then.
    #[cold]
    fn stage_tried(&mut self, granules: u32, align: u32) -> Result<(Run, Source), Error> {
        let staged = self.staging.len();
        let (run, source) = self.stage(granules, align)?;
        // SAFETY: granules placed for this batch alone, not published yet.
        match unsafe { self.core.memory.write(bytes_of(run).start, &icache::TRAPS) } {
            Ok(()) => {
                // Its page holds memory from here on, whatever becomes of the batch.
                self.core.note_resident(Run::new(run.start, 1));
                Ok((run, source))
            }
            Err(refused) => {
                self.staging.truncate(staged);
                self.core.release([run]);
                Err(refused)
            }
        }
    }

    /// Opens another run and takes granules from it.
    fn open(&mut self, granules: u32, align: u32) -> Result<Run, Error> {
        let page = (self.core.memory.page_size() / GRANULE) as u32;
        let least = granules.next_multiple_of(page);
        // Twice the last run: few flips for many functions, little opened in vain for few.
        let ahead = match self.runs.last() {
            Some(last) => 2 * last.run.len() as usize,
            // A little more than expected: it is opened for nothing, but a second run would be dearer.
            None if !self.single => (self.expected + self.expected / 32).max(STAGED) / GRANULE,
            None => 0,
        };
        let ahead = (ahead.min(LONGEST_RUN / GRANULE) as u32).next_multiple_of(page);
        let huge = (MAX_ALIGN / GRANULE) as u32;
        // Which of the pages come to hold memory is known when the batch is published.
        let place = |len: u32| {
            self.core.place_pages(len, align.max(page), |_, run| {
                let granules = self.core.heaps.granules();
                let resident = granules.all_resident(Run::new(run.start, page));
                Ok((run, resident, granules.is_free(run.end, run.end + 2 * huge)))
            })
        };
        let placed = match place(least.max(ahead)) {
            Err(Error::ArenaFull { .. }) if ahead > least => place(least),
            placed => placed,
        };
        let run = match placed {
            // Earlier runs may have room left that was too small for what came then.
            Err(full) => {
                let rest = self.runs.iter_mut().rev().find_map(|open| open.take(granules, align));
                return rest.ok_or(full.of_asked(granules as usize * GRANULE));
            }
            Ok(placed) => placed,
        };
        let (mut run, resident, wide) = run;
        let fresh = !resident && self.runs.is_empty() && self.expected > 0;
        if fresh && wide && self.core.memory.wants_huge_pages() && bytes_of(run).len() < MAX_ALIGN {
            // On fresh memory a whole huge page, if one can be had; what this batch leaves of it serves the next ones,
            // and so does what lies before it: only where there is much room is a huge page begun.
            if let Ok(whole) = self.core.place_pages(huge, huge, |_, run| Ok(run)) {
                self.core.release([std::mem::replace(&mut run, whole)]);
            }
        }
        let mut open = OpenRun::new(run);
        open.populated = self.core.memory.commits();
        // SAFETY: whole pages placed for this batch alone, so without live code.
        if let Err(error) = unsafe { self.core.memory.open(bytes_of(run)) } {
            // Some of the pages may be open.
            self.core.close(&open);
            return Err(error);
        }
        if fresh && !self.core.memory.bars() {
            // One call, where each page would take a fault of its own.
            open.populated |= self.core.memory.populate(bytes_of(run));
        }
        let taken = open.take(granules, 1);
        self.runs.push(open);
        taken.ok_or(Error::ZeroSize)
    }
}
