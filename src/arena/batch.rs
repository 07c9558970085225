//! Many functions, one publication.
//!
//! In `DualMap` a slot's bytes go straight to the second view. In `Flip` there are two ways in, and a batch starts with
//! the first and goes over to the second as it grows: small batches are *staged* in ordinary memory and written by the
//! kernel into holes of pages that are executable already, contiguous slots in one call; from [`STAGED`] bytes on, the
//! batch opens *runs* of whole empty pages, writes in place, and seals each run once. (Measured: up to 64 KiB a kernel
//! write is cheaper than opening and sealing, from there on dearer.) Without the kernel write all goes to runs.

use std::fmt;
use std::marker::PhantomData;

use super::block::CodeBlock;
use super::code::Code;
use super::core::{Core, bytes_of, run_of};
use super::lookup::Entry;
use crate::Error;
use crate::icache;
use crate::region::Region;
use crate::space::Run;
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::units::{GRANULE, align_granules, round_up};

/// Bytes that a `Flip` batch stages before it opens pages.
pub(super) const STAGED: usize = 64 << 10;
/// The longest run of pages that a batch opens ahead of its needs.
const LONGEST_RUN: usize = 2 << 20;

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
/// gives everything back.
///
/// ```
/// # #[cfg(target_arch = "x86_64")] {
/// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
/// let mut batch = arena.batch();
/// let seven = batch.push(&[0xb8, 7, 0, 0, 0, 0xc3])?; // mov eax, 7; ret
/// let caller = batch.reserve(5, 16)?;
/// let distance = (batch.address(seven) as isize - (batch.address(caller) as isize + 5)) as i32;
/// let code = batch.bytes_mut(caller);
/// code[0] = 0xe9; // jmp seven
/// code[1..].copy_from_slice(&distance.to_le_bytes());
/// let blocks = batch.publish()?;
/// // SAFETY: the code takes nothing and returns a number.
/// let call = unsafe { blocks[caller.index()].as_fn::<unsafe extern "C" fn() -> i32>() };
/// // SAFETY: the block is alive.
/// assert_eq!(unsafe { call() }, 7);
/// # }
/// # Ok::<(), gaia_jit::Error>(())
/// ```
pub struct Batch {
    core: Arc<Core>,
    id: u64,
    items: Vec<Item>,
    staging: Vec<u8>,
    runs: Vec<OpenRun>,
    /// `PerThread` opens a window for one thread.
    _not_send: PhantomData<*mut ()>,
}

struct Item {
    run: Run,
    len: u32,
    tag: u64,
    name: Option<Box<str>>,
    home: Home,
}

/// Where an item's bytes are until they are published.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Home {
    /// In the second view.
    View,
    /// In a run of open pages.
    Run,
    /// At this offset of the staging memory.
    Staged(usize),
}

/// Whole pages, open for writing.
struct OpenRun {
    run: Run,
    /// The first granule not handed out.
    next: u32,
    /// Skipped for alignment.
    gaps: Vec<Run>,
    sealed: bool,
}

impl Batch {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { core, id, items: Vec::new(), staging: Vec::new(), runs: Vec::new(), _not_send: PhantomData }
    }

    /// Adds a function. Its bytes can still be changed until the batch is published.
    ///
    /// # Errors
    /// [`Error::ZeroSize`], [`Error::TooLarge`], [`Error::BadAlignment`], [`Error::ArenaFull`],
    /// [`Error::OperatingSystem`], [`Error::Forked`]; the batch is then as it was before.
    pub fn push<'c>(&mut self, code: impl Into<Code<'c>>) -> Result<Slot, Error> {
        let code = code.into();
        let slot = self.add(code.bytes.len(), code.align)?;
        self.bytes_mut(slot).copy_from_slice(code.bytes);
        if let Some(item) = self.items.last_mut() {
            (item.tag, item.name) = (code.tag, code.name.map(Box::from));
        }
        Ok(slot)
    }

    /// Adds a function of `len` bytes whose code comes later; until then it is filled with traps.
    ///
    /// # Errors
    /// As for [`Batch::push`].
    pub fn reserve(&mut self, len: usize, align: usize) -> Result<Slot, Error> {
        let slot = self.add(len, align)?;
        icache::fill_with_traps(self.bytes_mut(slot));
        Ok(slot)
    }

    /// Sets the tag of a slot; without effect on a slot of another batch.
    pub fn set_tag(&mut self, slot: Slot, tag: u64) {
        if let Some(item) = self.item_mut(slot) {
            item.tag = tag;
        }
    }

    /// Sets the name of a slot, for the arena's [`Observer`](crate::Observer); without effect on a slot of another batch.
    pub fn set_name(&mut self, slot: Slot, name: &str) {
        if let Some(item) = self.item_mut(slot) {
            item.name = Some(name.into());
        }
    }

    /// The address at which the slot's code will run; null for a slot of another batch.
    pub fn address(&self, slot: Slot) -> *const u8 {
        match self.items.get(slot.index) {
            Some(item) if slot.batch == self.id => self.core.region.address(bytes_of(item.run).start),
            _ => std::ptr::null(),
        }
    }

    /// The slot's bytes, to write to; empty for a slot of another batch.
    pub fn bytes_mut(&mut self, slot: Slot) -> &mut [u8] {
        let Some(item) = self.items.get(slot.index).filter(|_| slot.batch == self.id) else { return &mut [] };
        let (len, start) = (item.len as usize, bytes_of(item.run).start);
        match item.home {
            Home::Staged(at) => &mut self.staging[at..at + len],
            Home::View | Home::Run => {
                let at = self.core.region.writable(start);
                // SAFETY: the granules were placed for this batch alone and are not published, so no other reference
                // to them exists; the view (or the open page) is mapped, writable and initialised, at the least to
                // zeros. `&mut self` makes the slice the only one.
                unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), len) }
            }
        }
    }

    /// Slots so far.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are no slots yet.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn item_mut(&mut self, slot: Slot) -> Option<&mut Item> {
        self.items.get_mut(slot.index).filter(|_| slot.batch == self.id)
    }

    fn add(&mut self, len: usize, align: usize) -> Result<Slot, Error> {
        self.core.region.check_own("publish")?;
        let granules = self.core.granules(len)?;
        let align = align_granules(align)?;
        let (run, home) = if self.core.region.is_dual() {
            (self.place(granules, align)?, Home::View)
        } else if self.core.region.fills_holes() && self.staging.len() + len <= STAGED {
            self.stage(granules, align)?
        } else {
            match self.open(granules, align) {
                // No room for whole pages, or the system is at its limit of mappings: holes may still do.
                Err(Error::ArenaFull { .. } | Error::OperatingSystem { .. }) if self.core.region.fills_holes() => {
                    self.stage(granules, align)?
                }
                opened => (opened?, Home::Run),
            }
        };
        let item = Item { run, len: len as u32, tag: 0, name: None, home };
        self.items.push(item);
        self.pad();
        Ok(Slot { batch: self.id, index: self.items.len() - 1 })
    }

    /// Fills the rest of the last item's last granule with traps.
    fn pad(&mut self) {
        let Some(item) = self.items.last() else { return };
        let (from, padding) = (item.len as usize, Region::padding(item.len as usize));
        let start = bytes_of(item.run).start;
        let rest = match item.home {
            Home::Staged(at) => &mut self.staging[at + from..at + from + padding],
            Home::View | Home::Run => {
                let at = self.core.region.writable(start + from);
                // SAFETY: as in `bytes_mut`; the padding is part of the item's granules.
                unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), padding) }
            }
        };
        icache::fill_with_traps(rest);
    }

    fn place(&self, granules: u32, align: u32) -> Result<Run, Error> {
        let run = self.core.place(granules, align, |_, _| ())?;
        self.core.grow_to(run).inspect_err(|_| self.core.release([run]))?;
        Ok(run)
    }

    fn stage(&mut self, granules: u32, align: u32) -> Result<(Run, Home), Error> {
        let run = self.place(granules, align)?;
        let at = self.staging.len();
        self.staging.resize(at + bytes_of(run).len(), 0);
        Ok((run, Home::Staged(at)))
    }

    /// Takes granules from the last open run, or opens another.
    fn open(&mut self, granules: u32, align: u32) -> Result<Run, Error> {
        if let Some(run) = self.runs.last_mut().and_then(|open| open.take(granules, align)) {
            return Ok(run);
        }
        let page = self.core.region.page_size();
        let full = |_| Error::TooLarge { asked: usize::MAX, limit: self.core.region.len() };
        let least = round_up(granules as usize * GRANULE, page).ok_or(()).map_err(full)?;
        // Twice the last run: few flips for many functions, little opened in vain for few.
        let ahead = self.runs.last().map_or(STAGED, |last| 2 * bytes_of(last.run).len()).min(LONGEST_RUN);
        let align = align.max((page / GRANULE) as u32);
        let bytes = |bytes: usize| self.place((bytes / GRANULE) as u32, align);
        let run = match bytes(least.max(round_up(ahead, page).unwrap_or(least))) {
            Err(Error::ArenaFull { .. }) => bytes(least)?,
            placed => placed?,
        };
        // SAFETY: whole pages placed for this batch alone, so without live code.
        unsafe { self.core.region.open(bytes_of(run)) }.inspect_err(|_| self.core.release([run]))?;
        let mut open = OpenRun { run, next: run.start, gaps: Vec::new(), sealed: false };
        let taken = open.take(granules, 1);
        self.runs.push(open);
        taken.ok_or(()).map_err(full)
    }

    /// Makes all functions executable and returns their blocks, in the order of the slots.
    ///
    /// # Errors
    /// [`Error::OperatingSystem`], [`Error::Forked`]; then nothing is published and everything is given back.
    pub fn publish(mut self) -> Result<Vec<CodeBlock>, Error> {
        let core = Arc::clone(&self.core);
        core.region.check_own("publish")?;
        if self.items.is_empty() {
            return Ok(Vec::new());
        }
        let entries = self.claim()?;
        if let Err(error) = self.make_executable() {
            for entry in entries {
                core.lookup.unclaim(entry.start, entry.slot);
            }
            return Err(error);
        }
        // From here on nothing fails.
        let items = std::mem::take(&mut self.items);
        let runs = std::mem::take(&mut self.runs);
        core.settle(&items, &runs);
        for (entry, item) in entries.iter().zip(&items) {
            core.enter(*entry, item.name.as_deref());
        }
        Ok(entries.into_iter().map(|entry| CodeBlock::new(Arc::clone(&core), entry)).collect())
    }

    /// A slot in the lookup tables for every item, or none for any.
    fn claim(&self) -> Result<Vec<Entry>, Error> {
        let mut entries: Vec<Entry> = Vec::with_capacity(self.items.len());
        for &Item { run, len, tag, .. } in &self.items {
            match self.core.lookup.claim(run.start) {
                Ok(slot) => entries.push(Entry { start: run.start, len, tag, slot }),
                Err(error) => {
                    for entry in entries {
                        self.core.lookup.unclaim(entry.start, entry.slot);
                    }
                    return Err(error);
                }
            }
        }
        Ok(entries)
    }

    fn make_executable(&mut self) -> Result<(), Error> {
        for open in &mut self.runs {
            // SAFETY: opened by this batch; it writes no more, as it is being published.
            unsafe { self.core.region.seal(bytes_of(open.run))? };
            open.sealed = true;
        }
        for stretch in self.stretches() {
            let at = bytes_of(stretch.run);
            if let Some(from) = stretch.staged {
                // SAFETY: granules placed for this batch alone, not published yet.
                unsafe { self.core.region.write(at.start, &self.staging[from..from + at.len()])? };
            }
            self.core.region.flush(at);
        }
        self.core.region.sync_cores();
        Ok(())
    }

    /// Items that lie one after another, in the arena and in the staging memory, taken together.
    fn stretches(&self) -> Vec<Stretch> {
        let mut stretches: Vec<Stretch> = Vec::new();
        for item in &self.items {
            let staged = if let Home::Staged(at) = item.home { Some(at) } else { None };
            match stretches.last_mut() {
                Some(last) if last.run.end == item.run.start && last.end_in_staging() == staged => {
                    last.run.end = item.run.end;
                }
                _ => stretches.push(Stretch { run: item.run, staged }),
            }
        }
        stretches
    }
}

struct Stretch {
    run: Run,
    staged: Option<usize>,
}

impl Stretch {
    fn end_in_staging(&self) -> Option<usize> {
        self.staged.map(|from| from + bytes_of(self.run).len())
    }
}

impl OpenRun {
    fn take(&mut self, granules: u32, align: u32) -> Option<Run> {
        let start = self.next.checked_next_multiple_of(align)?;
        let end = start.checked_add(granules).filter(|end| *end <= self.run.end)?;
        if start > self.next {
            self.gaps.push(Run { start: self.next, end: start });
        }
        self.next = end;
        Some(Run { start, end })
    }

    /// What no item took.
    fn rest(&self) -> impl Iterator<Item = Run> {
        let tail = Run { start: self.next, end: self.run.end };
        self.gaps.iter().copied().chain((tail.len() > 0).then_some(tail))
    }
}

impl Core {
    /// The items are live; what their runs have left is free.
    fn settle(&self, items: &[Item], runs: &[OpenRun]) {
        let mut books = self.books();
        for item in items {
            books.live.add(item.run, item.len);
        }
        for run in runs.iter().flat_map(OpenRun::rest) {
            self.give_back(&mut books, run);
        }
        for item in items.iter().filter(|item| item.home == Home::Run) {
            self.lookup.occupy(item.run);
        }
    }

    /// The block can be found from now on.
    pub(super) fn enter(&self, entry: Entry, name: Option<&str>) {
        self.lookup.enter(entry);
        if let Some(observer) = &self.observer {
            observer.published(&self.info(entry), name);
        }
    }

    /// Publishes one function.
    pub(super) fn publish(self: &Arc<Self>, code: Code<'_>) -> Result<CodeBlock, Error> {
        let private = !self.region.is_dual();
        if private && (code.bytes.len() > STAGED || !self.region.fills_holes()) {
            let mut batch = Batch::new(Arc::clone(self));
            batch.push(code)?;
            return batch.publish()?.pop().ok_or(Error::ZeroSize);
        }
        self.region.check_own("publish")?;
        let (granules, align) = (self.granules(code.bytes.len())?, align_granules(code.align)?);
        let len = code.bytes.len() as u32;
        let run = self.place(granules, align, |books, run| books.live.add(run, len))?;
        let placed = self.fill(run, code.bytes);
        let entry = match placed.and_then(|()| self.lookup.claim(run.start)) {
            Ok(slot) => Entry { start: run.start, len, tag: code.tag, slot },
            Err(error) => {
                let mut books = self.books();
                books.live.sub(run_of(run.start, len), len);
                self.give_back(&mut books, run);
                return Err(error);
            }
        };
        self.enter(entry, code.name);
        Ok(CodeBlock::new(Arc::clone(self), entry))
    }

    /// Writes a function to granules placed for it.
    fn fill(&self, run: Run, code: &[u8]) -> Result<(), Error> {
        self.grow_to(run)?;
        let at = bytes_of(run);
        // SAFETY: granules placed for this call alone, not published yet.
        unsafe { self.region.write(at.start, code)? };
        if self.region.is_dual() {
            let mut traps = [0; GRANULE];
            icache::fill_with_traps(&mut traps);
            let padding = &traps[GRANULE - Region::padding(code.len())..];
            // SAFETY: the rest of the last of these granules.
            unsafe { self.region.write(at.start + code.len(), padding)? };
        }
        self.region.flush(at);
        self.region.sync_cores();
        Ok(())
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.core.region.is_own() {
            return;
        }
        let mut free: Vec<Run> = self.items.iter().filter(|item| item.home != Home::Run).map(|item| item.run).collect();
        for open in &self.runs {
            // SAFETY: opened by this batch, which writes no more; nothing in them was published.
            if open.sealed || unsafe { self.core.region.seal(bytes_of(open.run)) }.is_ok() {
                free.push(open.run);
            } else {
                self.core.strand(open.run);
            }
        }
        if !free.is_empty() {
            self.core.release(free);
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("len", &self.len()).finish_non_exhaustive()
    }
}
