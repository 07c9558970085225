//! A region with its mode: what the arena calls. Calls that only some modes answer, and what the
//! system began to refuse since the memory was built, are looked at here, so that neither the arena
//! nor a mode has to.

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
    /// A page that holds no memory is not executable.
    pub(super) bars: bool,
    /// How much of the code, from its start, is part of core dumps.
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

    /// Whether each publication makes every core serialise, where the architecture does not ask for
    /// it.
    pub(crate) fn set_serializes(&mut self, yes: bool) {
        self.region.set_serializes(yes);
    }

    /// Whether what is not code is to be traps, also where that takes a call of its own.
    pub(crate) fn set_poisons(&mut self, yes: bool) {
        self.region.set_poisons(yes);
    }

    pub(super) fn set_mode(&mut self, mode: Box<dyn Mode>) {
        self.rules = mode.rules(&self.region);
        self.mode = mode;
    }

    /// What the system may do or not: a refusal leaves small pages, or no name.
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

    /// Leaves all of it out of core dumps and snapshots, for as long as nothing is in it. They
    /// would get memory for every page of shared memory, in both views. What is used then is added,
    /// a little ahead, so that it stays one part of two.
    pub(super) fn leave_out_of_dumps(&mut self) {
        if let Some(second) = self.mode.second_view() {
            // It is the same memory.
            // SAFETY: whole pages of a view.
            let _ = unsafe { self.os().set_dumped(second, false) };
        }
        // SAFETY: as above.
        if unsafe { self.os().set_dumped(self.span(0..self.len()), false) }.is_ok() {
            self.dumped = AtomicUsize::new(0);
        }
    }

    /// Before code is placed anywhere in front of `end`.
    #[inline]
    pub(crate) fn use_up_to(&self, end: usize) {
        if end > self.dumped.load(Ordering::Relaxed) {
            self.dump_up_to(end);
        }
    }

    /// What of the code is in core dumps ends at a multiple of that: mappings end there, and no
    /// huge page lies across.
    fn dump_step(&self) -> usize {
        if self.wants_huge_pages() { MAX_ALIGN } else { (64 << 10).max(self.page_size()) }
    }

    #[cold]
    fn dump_up_to(&self, end: usize) {
        // An eighth more each time: few calls in the life of an arena.
        let new = (end + end / 8).next_multiple_of(self.dump_step()).min(self.len());
        let old = self.dumped.fetch_max(new, Ordering::Relaxed);
        if old < new {
            // SAFETY: whole pages of the view.
            let _ = unsafe { self.os().set_dumped(self.span(old..new), true) };
        }
    }

    /// Nothing is in use from `end` on, and nobody places anything there meanwhile.
    pub(crate) fn unused_from(&self, end: usize) {
        let old = self.dumped.load(Ordering::Relaxed);
        let end = end.next_multiple_of(self.dump_step());
        if end < old && old != usize::MAX {
            self.dumped.store(end, Ordering::Relaxed);
            // SAFETY: whole pages of the view.
            let _ = unsafe { self.os().set_dumped(self.span(end..old), false) };
        }
    }

    /// Lets nobody change the protections any more.
    pub(super) fn freeze(&mut self) -> Result<(), Error> {
        for span in [Some(self.region.to_freeze()), self.mode.second_view()].into_iter().flatten() {
            // SAFETY: whole mappings of this region, and `drop` leaves frozen ones where they are.
            let frozen = unsafe { self.os().freeze(span) };
            if frozen.is_ok() {
                // The first may be frozen when the second is refused.
                self.region.set_frozen();
                self.rules = self.mode.rules(&self.region);
            }
            frozen.map_err(refusal("seal"))?;
        }
        Ok(())
    }

    /// How W^X is kept.
    pub(crate) fn mode(&self) -> WxMode {
        self.mode.mode()
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Whether bytes can be placed in pages that are executable already.
    pub(crate) fn fills_holes(&self) -> bool {
        self.rules.fills_holes && !(self.withdrawn.kernel_write() && self.opens_pages())
    }

    /// Whether whole pages without live code can be opened, written to in their place, and sealed
    /// again.
    pub(crate) fn opens_pages(&self) -> bool {
        self.rules.opens_pages && !(self.withdrawn.flips() && self.rules.fills_holes)
    }

    /// Whether pages are opened at all in this mode, whatever became of that since.
    #[cfg_attr(not(feature = "cranelift"), allow(dead_code, reason = "for modules that are written in place"))]
    pub(crate) fn opened_pages(&self) -> bool {
        self.rules.opens_pages
    }

    /// Whether holes were filled when the memory was built. What was refused since may have passed.
    pub(crate) fn filled_holes(&self) -> bool {
        self.rules.fills_holes
    }

    /// As [`CodeMemory::fills_holes`] for a function that can be published otherwise if this was
    /// wrong: what was refused is tried again now and then.
    #[inline]
    pub(crate) fn may_fill_hole(&self) -> bool {
        self.fills_holes() || self.rules.fills_holes && self.withdrawn.is_time_to_try()
    }

    /// Why holes in pages with live code are not filled, if they are not.
    pub(crate) fn unfilled(&self) -> Option<Unfilled> {
        self.mode.unfilled().or_else(|| (!self.fills_holes()).then_some(Unfilled::NotWritten))
    }

    /// What writes to read-only pages through the kernel, if the mode keeps that open.
    pub(crate) fn kernel_writer(&self) -> Option<&KernelWriter> {
        self.mode.kernel_writer()
    }

    /// Before this thread reads code: where rights differ from thread to thread, it may have none
    /// yet.
    pub(crate) fn let_read(&self) {
        if self.rules.readers == Readers::EachThreadByItself {
            self.mode.let_read();
        }
    }

    /// Where the bytes at `offset` are written by stores: in the second view, or in place once the
    /// pages are open.
    pub(crate) fn writable(&self, offset: usize) -> NonNull<u8> {
        self.mode.writable(&self.region, offset)
    }

    /// Sees to it that bytes behind [`CodeMemory::writable`] have memory.
    pub(crate) fn back(&self, bytes: Range<usize>) -> Result<(), Error> {
        self.mode.back(&self.region, bytes)
    }

    /// Writes `bytes` at `offset` of pages that are executable; no thread is disturbed.
    ///
    /// A forked child is refused, here once more than where its calls come in: what it inherited
    /// leads to its parent, or is not there.
    ///
    /// # Safety
    /// - The bytes are the caller's: inside the region, and nobody runs, reads or writes them
    ///   meanwhile.
    pub(crate) unsafe fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        self.check_own("write")?;
        // SAFETY: passed on to the caller.
        self.note_write(unsafe { self.mode.write(&self.region, offset, bytes) })
    }

    /// Where there is another way in, it is remembered whether this one works.
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

    /// Stores a word by one store, where the mode writes by stores.
    ///
    /// # Safety
    /// - `offset` is a multiple of the word's length. The bytes are the caller's, inside the
    ///   region; others may run them meanwhile.
    pub(crate) unsafe fn write_word(&self, offset: usize, word: Word) -> Result<(), Error> {
        self.check_own("write")?;
        // SAFETY: passed on to the caller.
        unsafe { self.mode.write_word(&self.region, offset, word) }
    }

    /// Writes a function as [`CodeMemory::write`] does, and perhaps `padding` behind it.
    ///
    /// # Safety
    /// - As for [`CodeMemory::write`], of the padding too.
    #[inline]
    pub(crate) unsafe fn fill(&self, offset: usize, code: &[u8], padding: &[u8]) -> Result<(), Error> {
        self.check_own("write")?;
        // SAFETY: passed on to the caller.
        self.note_write(unsafe { self.mode.fill(&self.region, offset, code, padding) })
    }

    /// Opens whole pages for writing. When this fails, some of them may be open all the same: seal
    /// them before they are used for anything else.
    ///
    /// # Safety
    /// - The pages hold no live code, and belong to the caller until sealed.
    pub(crate) unsafe fn open(&self, range: Range<usize>) -> Result<(), Error> {
        if self.withdrawn.flips() && !self.rules.fills_holes {
            // They could not be made executable again, and would be of no use to anybody.
            return Err(Error::system("making pages executable again", std::io::ErrorKind::PermissionDenied.into()));
        }
        // SAFETY: passed on to the caller.
        unsafe { self.region.open(range) }.inspect_err(|refused| {
            self.withdrawn.note_flip(refused);
        })
    }

    /// Makes opened pages executable, of which the first `written` bytes are to stay as they are.
    ///
    /// If the system has come to refuse that, pages that were never writable take their place, and
    /// what is to stay is written to them through the kernel. When that fails too, what was there
    /// may be gone: it must not be sealed again to be published.
    ///
    /// # Safety
    /// - The pages are the caller's, opened, and nobody writes to them any more.
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
            // They could not be opened either.
            return Ok(());
        }
        if written > 0 && !self.rules.fills_holes {
            // What is there could not be written again.
            return Err(refused);
        }
        // SAFETY: passed on to the caller.
        unsafe { self.replace(range, written) }.map_err(|_| refused)
    }

    /// # Safety
    /// - As for [`CodeMemory::seal`].
    #[cold]
    unsafe fn replace(&self, range: Range<usize>, written: usize) -> Result<(), Error> {
        let span = self.span(range.clone());
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(written).map_err(|_| Error::out_of_memory())?;
        // SAFETY: the caller's pages, mapped and readable whether they are open or not, and nobody
        // writes there.
        bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(span.start.as_ptr(), written) });
        // SAFETY: whole private pages of the caller's, whose contents were copied.
        unsafe { self.region.replace(range.clone(), true)? };
        // Zeros are there already.
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if end > 0 {
            // SAFETY: the caller's.
            let written = unsafe { self.write(range.start, &bytes[..end]) };
            if written.is_err() && self.bars {
                // Zeros are not to be executable.
                // SAFETY: as above, and what they held is gone.
                let _ = unsafe { self.region.replace(range, false) };
            }
            return written;
        }
        Ok(())
    }

    /// Overwrites code with traps. When this fails, some of it may be.
    ///
    /// # Safety
    /// - The bytes are the caller's, whole granules of executable pages, and nobody runs or reads
    ///   them.
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

    /// Does to empty pages what [`Rules::trims`] says; returns whether their memory went back to
    /// the system.
    ///
    /// # Safety
    /// - As for [`CodeMemory::decommit`].
    pub(crate) unsafe fn trim(&self, range: Range<usize>) -> Result<bool, Error> {
        if self.rules.trims == Trims::WithTraps {
            // SAFETY: passed on to the caller.
            unsafe { self.fill_with_traps(range)? };
            // Where other cores cannot be reached the traps come late; what is published there next
            // is refused anyway.
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
    /// - The pages hold nothing that anybody needs, and belong to the caller.
    pub(crate) unsafe fn decommit(&self, range: Range<usize>) -> Result<(), Error> {
        if self.is_sealed() {
            return Err(Error::unsupported("giving memory back", "the arena's mappings are sealed"));
        }
        self.counters.decommits.add(1);
        // SAFETY: passed on to the caller.
        Ok(unsafe { self.mode.decommit(&self.region, range) }?)
    }

    /// Whether no memory can be given back, because the arena's mappings are sealed.
    fn is_sealed(&self) -> bool {
        self.is_frozen() && self.rules.trims == Trims::UnlessSealed
    }

    /// Whether memory can be given back while the arena lives.
    pub(crate) fn can_shrink(&self) -> bool {
        matches!(self.rules.trims, Trims::UnlessSealed | Trims::Always) && !self.is_sealed()
    }

    /// Puts the memory of whole pages into huge pages.
    pub(crate) fn collapse(&self, range: Range<usize>) -> Result<(), Error> {
        self.check_not_given("collapse")?;
        // The system moves nothing across the end of what is in core dumps.
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
            // SAFETY: nobody is left to use it, and this is the last call.
            unsafe { self.mode.abandon(&self.region) };
            // SAFETY: as above.
            unsafe { self.region.abandon_data() };
        } else {
            // SAFETY: as above.
            unsafe { self.mode.release(&self.region) };
        }
    }
}
