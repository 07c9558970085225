//! Many functions, one publication.
//!
//! In `DualMap` a slot's bytes go straight to the second view. In `Flip` there are two ways in, and a batch starts with
//! the first and goes over to the second as it grows: small batches are *staged* in ordinary memory and written by the
//! kernel into holes of pages that are executable already, contiguous slots in one call; from [`STAGED`] bytes on, the
//! batch opens *runs* of whole empty pages, writes in place, and seals each run once. (Measured: up to 64 KiB a kernel
//! write is cheaper than opening and sealing, from there on dearer.) Without the kernel write all goes to runs.

use std::fmt;
use std::io;
use std::marker::PhantomData;

use super::block::{CodeBlock, Lease};
use super::code::Code;
use super::core::{Core, bytes_of};
use super::open_run::OpenRun;
use crate::Error;
use crate::icache;
use crate::region::Region;
use crate::space::Run;
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::units::{GRANULE, MAX_ALIGN, align_granules};

/// Bytes that a `Flip` batch stages before it opens pages.
pub(super) const STAGED: usize = 64 << 10;
/// The longest run of pages that a batch opens ahead of its needs.
pub(super) const LONGEST_RUN: usize = 2 << 20;

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
    lease: Arc<Lease>,
    id: u64,
    items: Vec<Item>,
    staging: Vec<u8>,
    runs: Vec<OpenRun>,
    /// There were no whole pages to open: not asked for again.
    no_pages: bool,
    /// Bytes that this batch will come to, as far as the last ones tell.
    expected: usize,
    /// There will be one function: no more pages are opened than it needs.
    single: bool,
    /// `PerThread` opens a window for one thread.
    _not_send: PhantomData<*mut ()>,
}

pub(super) struct Item {
    pub(super) run: Run,
    pub(super) len: u32,
    pub(super) tag: u64,
    name: Option<Box<str>>,
    pub(super) home: Home,
}

/// Where an item's bytes are until they are published.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    /// In the second view.
    View,
    /// In a run of open pages.
    Run,
    /// At this offset of the staging memory.
    Staged(usize),
}

impl Batch {
    pub(crate) fn new(lease: Arc<Lease>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let recent = lease.core().recent.load(Ordering::Relaxed);
        // The smaller of the last two, so that one large batch among small ones deceives nobody.
        let expected = (recent >> 32).min(recent & u64::from(u32::MAX)) as usize;
        Self {
            core: Arc::clone(lease.core()),
            lease,
            id,
            items: Vec::new(),
            staging: Vec::new(),
            runs: Vec::new(),
            no_pages: false,
            expected,
            single: false,
            _not_send: PhantomData,
        }
    }

    /// For one function.
    pub(super) fn single(lease: Arc<Lease>) -> Self {
        let mut batch = Self::new(lease);
        batch.single = true;
        batch
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

    /// The slot's bytes, to write to; empty for a slot of another batch, and in a forked child, which cannot publish.
    pub fn bytes_mut(&mut self, slot: Slot) -> &mut [u8] {
        let Some(item) = self.items.get(slot.index).filter(|_| slot.batch == self.id) else { return &mut [] };
        let (len, start) = (item.len as usize, bytes_of(item.run).start);
        match item.home {
            Home::Staged(at) => &mut self.staging[at..at + len],
            // The writable view was not inherited.
            Home::View if !self.core.region.is_own() => &mut [],
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
        let fills_holes = self.core.region.fills_holes();
        let (run, home) = if self.core.region.is_dual() {
            let run = self.place(granules, align)?;
            self.core.region.back(bytes_of(run)).inspect_err(|_| self.core.release([run]))?;
            (run, Home::View)
        } else if fills_holes && (self.no_pages || self.expected.max(self.staging.len() + len) <= STAGED) {
            self.stage(granules, align)?
        } else {
            match self.open(granules, align) {
                // No room for whole pages, or the system is at its limit of mappings: holes may still do.
                Err(error @ (Error::ArenaFull { .. } | Error::OperatingSystem { .. })) if fills_holes => {
                    self.no_pages = matches!(error, Error::ArenaFull { .. });
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

    /// Granules of this batch's own, in pages that will hold memory.
    fn place(&self, granules: u32, align: u32) -> Result<Run, Error> {
        self.core.place(granules, align, |books, run| {
            books.pages.touch(run);
            run
        })
    }

    fn stage(&mut self, granules: u32, align: u32) -> Result<(Run, Home), Error> {
        let (at, len) = (self.staging.len(), granules as usize * GRANULE);
        let refused = |_| Error::OperatingSystem { call: "malloc", source: io::ErrorKind::OutOfMemory.into() };
        self.staging.try_reserve(len).map_err(refused)?;
        let run = self.place(granules, align)?;
        self.staging.resize(at + len, 0);
        Ok((run, Home::Staged(at)))
    }

    /// Takes granules from an open run, or opens another.
    fn open(&mut self, granules: u32, align: u32) -> Result<Run, Error> {
        if let Some(run) = self.runs.last_mut().and_then(|open| open.take(granules, align)) {
            return Ok(run);
        }
        let page = (self.core.region.page_size() / GRANULE) as u32;
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
            self.core.place(len, align.max(page), |books, run| {
                let resident = books.pages.all_resident(books.pages.of(Run::new(run.start, page)));
                (run, resident, books.space.is_free(run.end, run.end + 2 * huge))
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
        if fresh && wide && self.core.region.wants_huge_pages() && bytes_of(run).len() < MAX_ALIGN {
            // On fresh memory a whole huge page, if one can be had; what this batch leaves of it serves the next ones,
            // and so does what lies before it: only where there is much room is a huge page begun.
            if let Ok(whole) = self.core.place(huge, huge, |_, run| run) {
                self.core.release([std::mem::replace(&mut run, whole)]);
            }
        }
        let mut open = OpenRun::new(run);
        open.populated = self.core.region.commits();
        // SAFETY: whole pages placed for this batch alone, so without live code.
        if let Err(error) = unsafe { self.core.region.open(bytes_of(run)) } {
            // Some of the pages may be open.
            self.core.close(&open);
            return Err(error);
        }
        if fresh {
            // One call, where each page would take a fault of its own.
            open.populated |= self.core.region.populate(bytes_of(run));
        }
        let taken = open.take(granules, 1);
        self.runs.push(open);
        taken.ok_or(Error::ZeroSize)
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
        self.make_executable()?;
        let entries = core.settle(&self.items, &self.runs)?;
        // From here on nothing fails.
        let items = std::mem::take(&mut self.items);
        self.runs.clear();
        core.note_batch(&items);
        // Owned by blocks from here on, whatever an observer does.
        let blocks = entries.iter().map(|entry| CodeBlock::new(Arc::clone(&self.lease), *entry)).collect();
        for (entry, item) in entries.iter().zip(&items) {
            core.announce(*entry, item.name.as_deref());
        }
        Ok(blocks)
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
        self.core.region.sync_cores()
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

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.core.region.is_own() {
            return;
        }
        if self.items.is_empty() {
            return;
        }
        self.core.release(self.items.iter().filter(|item| item.home != Home::Run).map(|item| item.run));
        for open in &self.runs {
            self.core.close(open);
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("len", &self.len()).finish_non_exhaustive()
    }
}
