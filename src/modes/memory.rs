//! A region with its mode, as the arena uses it.
//!
//! ```text
//! arena --> CodeMemory: checks, counters, withdrawn calls --> Mode: how bytes get in --> Region: pages
//! ```
//!
//! Calls that only some modes support are checked here, and so are calls that the system began to
//! refuse since the memory was built. So neither the arena nor a mode has to check them.
//!
//! The type dereferences to [`Region`], because reading, flushing and counting are the same in
//! every mode. There is no lock here: the arena owns the granules that it passes. The end of the
//! used part (for core dumps) is an atomic number that only grows, until a trim lowers it under the
//! arena's lock.

use std::ops::{Deref, Range};
use std::ptr::NonNull;

use super::mode::Mode;
use super::rules::{Readers, Rules, Trims};
use super::withdrawn::Withdrawn;
use super::wx_mode::{Unfilled, WxMode};
use crate::Error;
use crate::icache;
use crate::region::{Plan, Region, refusal};
use crate::sync::{AtomicUsize, Ordering};
use crate::sys::{KernelWriter, Span, Word};
use crate::units::MAX_ALIGN;

/// A region with its mode.
pub(crate) struct CodeMemory {
    pub(super) region: Region,
    rules: Rules,
    pub(super) mode: Box<dyn Mode>,
    pub(super) withdrawn: Withdrawn,
    /// Whether a page without memory is not executable.
    pub(super) bars: bool,
    /// The part of the code, from its start, that is included in core dumps, in bytes.
    dumped: AtomicUsize,
}

impl CodeMemory {
    pub(super) fn new(region: Region, mode: Box<dyn Mode>) -> Self {
        Self {
            rules: mode.rules(&region),
            region,
            mode,
            withdrawn: Withdrawn::default(),
            bars: false,
            dumped: AtomicUsize::new(usize::MAX),
        }
    }

    /// Sets whether each publication makes every core serialise, even if the architecture does not
    /// require it.
    pub(crate) fn set_serializes(&mut self, yes: bool) {
        self.region.set_serializes(yes);
    }

    /// Sets whether everything that is not code is filled with traps, even if that takes a further
    /// call.
    pub(crate) fn set_poisons(&mut self, yes: bool) {
        self.region.set_poisons(yes);
    }

    pub(super) fn set_mode(&mut self, mode: Box<dyn Mode>) {
        self.rules = mode.rules(&self.region);
        self.mode = mode;
    }

    /// Gives advice to the system. If it is refused, pages stay small or mappings have no name.
    pub(super) fn advise(&self, plan: &Plan) {
        for span in std::iter::once(self.span(0..self.len())).chain(self.mode.second_view()) {
            if plan.huge_pages {
                // SAFETY: whole pages of a view.
                let _ = unsafe { self.os().advise_huge(span) };
            }
            if let Some(name) = &plan.name {
                // SAFETY: as above.
                let _ = unsafe { self.os().name(span, name) };
            }
        }
        if let (Some(name), 1..) = (&plan.name, self.data_len()) {
            self.name_data(name);
        }
    }

    /// Excludes all of the code from core dumps and snapshots, as long as it is empty, because they
    /// would get memory for every page of shared memory, in both views. Used parts are included
    /// later, a little ahead, so that the view is two mappings at most.
    pub(super) fn leave_out_of_dumps(&mut self) {
        if let Some(second) = self.mode.second_view() {
            // The second view shows the same memory.
            // SAFETY: whole pages of a view.
            let _ = unsafe { self.os().set_dumped(second, false) };
        }
        // SAFETY: as above.
        if unsafe { self.os().set_dumped(self.span(0..self.len()), false) }.is_ok() {
            self.dumped = AtomicUsize::new(0);
        }
    }

    /// Includes everything before `end` in core dumps. It is called before code is placed there.
    #[inline]
    pub(crate) fn use_up_to(&self, end: usize) {
        if end > self.dumped.load(Ordering::Relaxed) {
            self.dump_up_to(end);
        }
    }

    /// Returns the unit of the part in core dumps. A mapping ends at its end, so no huge page may
    /// lie across it.
    fn dump_step(&self) -> usize {
        if self.wants_huge_pages() { MAX_ALIGN } else { (64 << 10).max(self.page_size()) }
    }

    #[cold]
    fn dump_up_to(&self, end: usize) {
        // An eighth more each time, so that there are few calls in the life of an arena.
        let new = (end + end / 8).next_multiple_of(self.dump_step()).min(self.len());
        let old = self.dumped.fetch_max(new, Ordering::Relaxed);
        if old < new {
            // SAFETY: whole pages of the view.
            let _ = unsafe { self.os().set_dumped(self.span(old..new), true) };
        }
    }

    /// Excludes everything from `end` on, where nothing is in use. Nobody places anything there
    /// meanwhile.
    pub(crate) fn unused_from(&self, end: usize) {
        let old = self.dumped.load(Ordering::Relaxed);
        let end = end.next_multiple_of(self.dump_step());
        if end < old && old != usize::MAX {
            self.dumped.store(end, Ordering::Relaxed);
            // SAFETY: whole pages of the view.
            let _ = unsafe { self.os().set_dumped(self.span(end..old), false) };
        }
    }

    /// Seals the mappings: the system refuses every later change of their protection.
    pub(super) fn freeze(&mut self) -> Result<(), Error> {
        for span in [Some(self.region.to_freeze()), self.mode.second_view()].into_iter().flatten() {
            // SAFETY: whole mappings of this region. `drop` leaves frozen ones mapped.
            let frozen = unsafe { self.os().freeze(span) };
            if frozen.is_ok() {
                // The first mapping may be frozen when the second is refused.
                self.region.set_frozen();
                self.rules = self.mode.rules(&self.region);
            }
            frozen.map_err(refusal("seal"))?;
        }
        Ok(())
    }

    /// Returns the mode.
    pub(crate) fn mode(&self) -> WxMode {
        self.mode.mode()
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Returns whether bytes can be placed in pages that are already executable.
    pub(crate) fn fills_holes(&self) -> bool {
        self.rules.fills_holes && !(self.withdrawn.kernel_write() && self.opens_pages())
    }

    /// Returns whether whole pages without live code can be opened, written in their place, and
    /// sealed again.
    pub(crate) fn opens_pages(&self) -> bool {
        self.rules.opens_pages && !(self.withdrawn.flips() && self.rules.fills_holes)
    }

    /// Returns whether this mode opens pages at all, even if the system refuses it by now.
    #[cfg_attr(not(feature = "cranelift"), allow(dead_code, reason = "for modules that are written in place"))]
    pub(crate) fn opened_pages(&self) -> bool {
        self.rules.opens_pages
    }

    /// Returns whether holes were filled when the memory was built. A later refusal may have
    /// passed.
    pub(crate) fn filled_holes(&self) -> bool {
        self.rules.fills_holes
    }

    /// Returns whether to try a hole for a function that can also be published in another way. A
    /// refused write is tried again now and then.
    #[inline]
    pub(crate) fn may_fill_hole(&self) -> bool {
        self.fills_holes() || self.rules.fills_holes && self.withdrawn.is_time_to_try()
    }

    /// Returns the reason why holes in pages with live code are not filled, if they are not.
    pub(crate) fn unfilled(&self) -> Option<Unfilled> {
        self.mode.unfilled().or_else(|| (!self.fills_holes()).then_some(Unfilled::NotWritten))
    }

    /// Returns the writer to read-only pages through the kernel, if the mode keeps it open.
    pub(crate) fn kernel_writer(&self) -> Option<&KernelWriter> {
        self.mode.kernel_writer()
    }

    /// Gives this thread the right to read code, in modes where threads differ in rights.
    pub(crate) fn let_read(&self) {
        if self.rules.readers == Readers::EachThreadByItself {
            self.mode.let_read();
        }
    }

    /// Returns the address for stores to the bytes at `offset`: in the second view, or in place
    /// after the pages were opened.
    pub(crate) fn writable(&self, offset: usize) -> NonNull<u8> {
        self.mode.writable(&self.region, offset)
    }

    /// Makes sure that bytes behind [`CodeMemory::writable`] have memory.
    pub(crate) fn back(&self, bytes: Range<usize>) -> Result<(), Error> {
        self.mode.back(&self.region, bytes)
    }

    /// Writes `bytes` at `offset` of pages that are executable. No thread is disturbed.
    ///
    /// A forked child is refused. (The callers refuse it too.) The inherited memory is shared with
    /// the parent, or is not mapped.
    ///
    /// # Safety
    /// - The caller owns the bytes. They lie inside the region. Nobody runs, reads or writes them
    ///   meanwhile.
    pub(crate) unsafe fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        self.check_own("write")?;
        // SAFETY: passed on to the caller.
        self.note_write(unsafe { self.mode.write(&self.region, offset, bytes) })
    }

    /// Notes whether a write succeeded, if there is another way to write.
    #[inline]
    fn note_write(&self, written: Result<(), Error>) -> Result<(), Error> {
        if self.rules.opens_pages {
            match &written {
                Ok(()) => self.withdrawn.note_written(),
                Err(error) => self.withdrawn.note_write(error),
            }
        }
        written
    }

    /// Stores a word by one store, if the mode writes by stores.
    ///
    /// # Safety
    /// - `offset` is a multiple of the word's length. The caller owns the bytes, and they lie
    ///   inside the region. Others may run them meanwhile.
    pub(crate) unsafe fn write_word(&self, offset: usize, word: Word) -> Result<(), Error> {
        self.check_own("write")?;
        // SAFETY: passed on to the caller.
        unsafe { self.mode.write_word(&self.region, offset, word) }
    }

    /// Writes a function as [`CodeMemory::write`] does, and perhaps `padding` behind it.
    ///
    /// # Safety
    /// - As for [`CodeMemory::write`], also for the padding.
    #[inline]
    pub(crate) unsafe fn fill(&self, offset: usize, code: &[u8], padding: &[u8]) -> Result<(), Error> {
        self.check_own("write")?;
        // SAFETY: passed on to the caller.
        self.note_write(unsafe { self.mode.fill(&self.region, offset, code, padding) })
    }

    /// Opens whole pages for writing. After an error some of them may be open. Seal them before
    /// they are used for anything else.
    ///
    /// # Safety
    /// - The pages contain no live code. The caller owns them until they are sealed.
    pub(crate) unsafe fn open(&self, range: Range<usize>) -> Result<(), Error> {
        if self.withdrawn.flips() && !self.rules.fills_holes {
            // These pages could not be made executable again, so nobody could use them.
            return Err(Error::system("making pages executable again", std::io::ErrorKind::PermissionDenied.into()));
        }
        // SAFETY: passed on to the caller.
        unsafe { self.region.open(range) }.inspect_err(|refused| {
            self.withdrawn.note_flip(refused);
        })
    }

    /// Makes opened pages executable. Their first `written` bytes have to stay as they are.
    ///
    /// If the system began to refuse that, fresh pages that were never writable replace them, and
    /// the bytes are written to these through the kernel. If that fails too, the bytes may be lost,
    /// and the pages must not be sealed again to be published.
    ///
    /// # Safety
    /// - The caller opened the pages and owns them. Nobody writes to them any more.
    pub(crate) unsafe fn seal(&self, range: Range<usize>, written: usize) -> Result<(), Error> {
        // SAFETY: passed on to the caller.
        let Err(refused) = (unsafe { self.region.seal(range.clone()) }) else {
            self.withdrawn.note_flipped();
            return Ok(());
        };
        if !self.withdrawn.note_flip(&refused) {
            return Err(refused);
        }
        if written == 0 && self.os().is_executable(self.span(range.clone())) {
            // They could not be opened either, so they are executable.
            return Ok(());
        }
        if written > 0 && !self.rules.fills_holes {
            // The bytes could not be written again.
            return Err(refused);
        }
        // SAFETY: passed on to the caller.
        unsafe { self.replace(range, written) }.map_err(|_| refused)
    }

    /// Replaces pages by fresh executable ones with the same first `written` bytes.
    ///
    /// # Safety
    /// - As for [`CodeMemory::seal`].
    #[cold]
    unsafe fn replace(&self, range: Range<usize>, written: usize) -> Result<(), Error> {
        let span = self.span(range.clone());
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(written).map_err(|_| Error::out_of_memory())?;
        // SAFETY: the caller's pages, mapped and readable whether they are open or not. Nobody
        // writes there.
        bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(span.start.as_ptr(), written) });
        // SAFETY: whole private pages of the caller. Their contents were copied.
        unsafe { self.region.replace(range.clone(), true)? };
        // Fresh pages are zeros already.
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if end > 0 {
            // SAFETY: the caller owns the pages.
            let written = unsafe { self.write(range.start, &bytes[..end]) };
            if written.is_err() && self.bars {
                // Zeros must not be executable.
                // SAFETY: as above. Their contents are lost.
                let _ = unsafe { self.region.replace(range, false) };
            }
            return written;
        }
        Ok(())
    }

    /// Overwrites code with traps. After an error some of it may be overwritten.
    ///
    /// # Safety
    /// - The caller owns the bytes. They are whole granules of executable pages. Nobody runs or
    ///   reads them.
    pub(crate) unsafe fn fill_with_traps(&self, range: Range<usize>) -> Result<(), Error> {
        const PIECE: usize = 4096;
        let mut traps = [0; PIECE];
        icache::fill_with_traps(&mut traps);
        let mut pieces = range.clone().step_by(PIECE);
        let written = pieces.try_for_each(|at| {
            let piece = &traps[..PIECE.min(range.end - at)];
            // SAFETY: passed on to the caller.
            unsafe { self.write(at, piece) }
        });
        self.counters.flushed.add(range.len() as u64);
        written.and(self.flush(range))
    }

    /// Treats empty pages as [`Rules::trims`] says. Returns whether their memory was returned to
    /// the system.
    ///
    /// # Safety
    /// - As for [`CodeMemory::decommit`].
    pub(crate) unsafe fn trim(&self, range: Range<usize>) -> Result<bool, Error> {
        if self.rules.trims == Trims::WithTraps {
            // SAFETY: passed on to the caller.
            unsafe { self.fill_with_traps(range)? };
            // If other cores cannot be synchronised, the traps become visible late. The next
            // publication there is refused in any case.
            let _ = self.sync_cores();
            return Ok(false);
        }
        // SAFETY: passed on to the caller.
        unsafe { self.decommit(range)? };
        Ok(true)
    }

    /// Gives the memory of whole pages back to the system. They can be written to as before:
    /// private ones after they were opened, or through the kernel.
    ///
    /// # Safety
    /// - The caller owns the pages, and nobody needs their content.
    pub(crate) unsafe fn decommit(&self, range: Range<usize>) -> Result<(), Error> {
        if self.is_sealed() {
            return Err(Error::unsupported(
                "giving memory back",
                "the arena's mappings are sealed: build it without `seal`",
            ));
        }
        self.counters.decommits.add(1);
        // SAFETY: passed on to the caller.
        Ok(unsafe { self.mode.decommit(&self.region, range) }?)
    }

    /// Returns whether no memory can be given back, because the arena's mappings are sealed.
    fn is_sealed(&self) -> bool {
        self.is_frozen() && self.rules.trims == Trims::UnlessSealed
    }

    /// Returns whether memory can be given back while the arena lives.
    pub(crate) fn can_shrink(&self) -> bool {
        matches!(self.rules.trims, Trims::UnlessSealed | Trims::Always) && !self.is_sealed()
    }

    /// Moves the memory of whole pages into huge pages.
    pub(crate) fn collapse(&self, range: Range<usize>) -> Result<(), Error> {
        self.check_not_given("collapse")?;
        // The system does not collapse across the end of the part in core dumps.
        self.use_up_to(range.end);
        if self.mode.second_view().is_some() {
            let second = Span { start: self.writable(range.start), len: range.len() };
            // SAFETY: whole pages of the view.
            unsafe { self.os().collapse(second)? };
        }
        // SAFETY: whole pages of the view.
        unsafe { self.os().collapse(self.span(range))? };
        Ok(())
    }
}

impl Deref for CodeMemory {
    type Target = Region;

    fn deref(&self) -> &Region {
        &self.region
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        if self.region.is_frozen() {
            // SAFETY: nobody uses it any more, and this is the last call.
            unsafe { self.mode.abandon(&self.region) };
            // SAFETY: as above.
            unsafe { self.region.abandon_data() };
        } else {
            // SAFETY: as above.
            unsafe { self.mode.release(&self.region) };
        }
    }
}
