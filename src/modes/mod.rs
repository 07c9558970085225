//! The memory of an arena: a region, and the mode that says how bytes get into it without a page that is writable and
//! executable.
//!
//! Each mode is one file that says all of it: what is reserved, how the bytes of one function, of a batch and of a patch get
//! in, how pages come back, and what a forked child may do. The arena knows no mode. It asks [`CodeMemory`], which passes
//! calls on to the mode, and [`Rules`], which say in what a mode differs from others as far as an arena has to know it.
//!
//! ```text
//!             views of the code                  who may write, and when
//! Flip        one                                nobody, but in pages without live code that a batch has open; or the kernel
//! DualMap     one executable, one writable       whoever knows the address of the second view
//! PerThread   one                                the thread that copies code in, while it does
//! FileWrite   one                                the kernel, for who has the descriptor of the file behind it
//! Given       as the embedder mapped it          whoever knows the alias, or the embedder's function
//! ```
//!
//! # To add a mode
//!
//! Write a file with a type that implements [`Mode`] and a function that builds it, and add it to [`WxMode`] and to
//! [`CodeMemory::build`]. `toy`, which exists for a test, is the shortest.

mod backing;
mod bars;
mod dual_map;
mod file_write;
mod flip;
mod given;
mod padded;
mod per_thread;
mod probe;
#[cfg(all(test, not(loom)))]
mod toy;
mod withdrawn;

pub(crate) use given::Taken;
pub use given::{GivenCopy, GivenMemory, GivenWriter};

use std::ops::{Deref, Range};
use std::ptr::NonNull;

use crate::Error;
use crate::icache;
use crate::region::{Plan, Region, refusal};
use crate::sync::{AtomicUsize, Ordering};
use crate::sys::{self, KernelWriter, Os, Span, Word};
use crate::units::MAX_ALIGN;
use withdrawn::Withdrawn;

/// How an arena keeps pages from being writable and executable at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum WxMode {
    /// Private memory, one address. A page is opened for writing only while it is empty; holes in executable pages are
    /// filled through the kernel where the system allows it, and otherwise wait until their page is empty.
    #[default]
    Flip,
    /// Shared memory mapped twice: executable at one address, writable at another that only the arena knows. No system
    /// calls to publish; the writable view exists as long as the arena does.
    ///
    /// A forked child shares the memory: it cannot write to it, but it sees what the parent writes. So it may run a
    /// block that it inherited only as long as the parent does not drop it; guards of a child are unknown to its parent.
    ///
    /// On Windows memory is committed 64 KiB at a time as code comes to lie in it, and stays committed as long as the
    /// arena lives.
    DualMap,
    /// Private memory, one address, writable for the writing thread alone and only while it copies code in: by the
    /// protection keys of x86-64 on Linux, one for each arena (a process has 15). No system calls to publish, no second
    /// address, and no thread's rights change while code of the caller's runs, in a batch neither.
    ///
    /// # Who can read
    ///
    /// Every thread can run the code. To *read* it, a thread needs the right to, as for code that keeps constants among its
    /// instructions. On x86-64 these have it:
    /// - the thread that built the arena, from then on;
    /// - a thread that called [`CodeArena::pin`][pin], [`CodeBlock::as_fn`][as_fn] or [`CodeBlock::as_bytes`][as_bytes], or
    ///   published something, from then on;
    /// - a thread that was spawned by one that had it, however old either is.
    ///
    /// These do not:
    /// - a thread that was there before the arena, and every thread that it spawns, also after the arena was built: the workers of a
    ///   thread pool, as a rule;
    /// - a signal handler, as each begins without rights. A handler may call [`pin`][pin];
    /// - a thread that left a signal handler by a jump (`siglongjmp`), because only the return from a handler restores rights.
    ///
    /// Without the right, reading is `SIGSEGV`. It is not only generated code that reads: an unwinder that finds no unwind
    /// information looks at the instructions (libgcc does, for a panic, an exception or a backtrace), and so does a crash
    /// handler that prints them. So take a guard before you call code, on each thread, and again after a jump out of a handler: for
    /// a thread that has the right this costs no more than the guard.
    ///
    /// ```
    /// use gaia_jit::{CodeArena, WxMode};
    ///
    /// // A pool that is older than the arena.
    /// let (jobs, queue) = std::sync::mpsc::channel::<Box<dyn FnOnce() + Send>>();
    /// let worker = std::thread::spawn(move || queue.into_iter().for_each(|job| job()));
    ///
    /// let arena = CodeArena::builder().capacity(1 << 20).modes(&[WxMode::PerThread, WxMode::Flip]).build()?;
    /// let shared = arena.clone();
    /// jobs.send(Box::new(move || {
    ///     let _guard = shared.pin(); // from here on this worker can read the code
    ///     // ... calls functions of the arena ...
    /// })).unwrap();
    /// drop(jobs);
    /// worker.join().unwrap();
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # What others see
    ///
    /// The system lists the pages as writable and executable (`rwxp` in `/proc/self/maps`), because the list does not know of
    /// keys. A scan for such mappings reports them.
    ///
    /// A thread that other code once gave rights to the very key that this arena was given later keeps them until it makes one of
    /// the calls above: build the arena before other code of the process uses keys. Writes through the kernel
    /// (`process_vm_writev`, `/proc/self/mem`) ask for no key.
    ///
    /// [pin]: crate::CodeArena::pin
    /// [as_fn]: crate::CodeBlock::as_fn
    /// [as_bytes]: crate::CodeBlock::as_bytes
    PerThread,
    /// Shared memory mapped once, for executing: an anonymous file, to which the arena writes through its descriptor (`pwrite`).
    /// Linux and Android. No writable view of code exists at any address at any time, no protection ever changes, and nothing
    /// depends on `/proc/self/mem`, which hardened kernels refuse.
    ///
    /// The descriptor is the right to write: an attacker who makes system calls reaches it through `/proc/self/fd`, and a forked
    /// child inherits it. (It is closed by `execve`, and has a high number.) A forked child shares the memory, as in `DualMap`.
    /// If other code of the process closes the descriptor, nothing is published any more; what was published stays as it is. What
    /// that code opens under the same number may be written to before the arena notices, so do not close descriptors that are not
    /// yours.
    ///
    /// Before each write the arena looks at `RLIMIT_FSIZE`, because a write past that limit is a signal that ends the process. A
    /// process that ignores the signal (`SIGXFSZ`) when the arena is built saves that call, a quarter of the time of a
    /// publication; it has to go on ignoring it.
    FileWrite,
    /// Memory that somebody else mapped, over which [`ArenaBuilder::build_over`](crate::ArenaBuilder::build_over) makes an arena;
    /// no other call does. Bytes get in by stores to a writable alias, or by a function of the embedder's. No call to the system
    /// ever names the memory: it is not mapped, protected, advised or unmapped.
    ///
    /// [`CodeArena::trim`](crate::CodeArena::trim) fills empty pages with traps and returns 0, because the memory stays. Resident
    /// bytes are, as always, those of pages that code was placed in since they were last trimmed.
    /// [`CodeArena::collapse`][collapse] is refused, and [`ArenaBuilder::keep_free`](crate::ArenaBuilder::keep_free) has no
    /// effect.
    ///
    /// A forked child may share the memory with its parent, if that is how it was mapped: what `DualMap` says of children is true
    /// here.
    ///
    /// [collapse]: crate::CodeArena::collapse
    Given,
    /// For a test.
    #[cfg(all(test, not(loom)))]
    #[doc(hidden)]
    Toy,
}

/// Why holes in pages with live code are not filled in `Flip`: what stands in the way of the kernel write.
///
/// A function that is published by itself then takes pages of its own, and a hole waits until its page is empty. Publish in
/// batches, or take another mode ([`ArenaBuilder::modes`](crate::ArenaBuilder::modes)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Unfilled {
    /// This system has no such call.
    NoSuchCall,
    /// `/proc/self/mem` could not be opened: `/proc` is not there, or a policy forbids it.
    NotOpened,
    /// A write to an executable page is refused: by a filter of system calls, or by the kernel (`proc_mem.force_override`).
    NotWritten,
    /// What was written is not what runs: under an emulator the file may be the emulator's own memory.
    OtherMemory,
}

/// In what modes differ, as far as an arena has to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Bytes can be placed in pages that are executable already.
    pub(crate) fills_holes: bool,
    /// Whole pages without live code can be opened, written to in their place, and sealed again.
    pub(crate) opens_pages: bool,
    /// How the bytes of a batch's function get to a place that is not in opened pages.
    pub(crate) way_in: WayIn,
    pub(crate) trims: Trims,
    /// Pages that are put into a huge page hold memory throughout even if the system refuses half-way.
    pub(crate) collapses_in_steps: bool,
    pub(crate) readers: Readers,
}

/// What becomes of empty pages when an arena is trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trims {
    /// They stay as they are.
    Nothing,
    /// Their memory goes back to the system, but not while the arena's mappings are sealed.
    UnlessSealed,
    /// Their memory goes back to the system.
    Always,
    /// They are filled with traps, and their memory stays.
    WithTraps,
}

/// How the bytes of a batch's function get to their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WayIn {
    /// By stores to [`CodeMemory::writable`], until the batch is published.
    Stores,
    /// By [`CodeMemory::write`], as soon as they are known.
    WriteAtOnce,
    /// By [`CodeMemory::write`], when the batch is published; until then they lie in ordinary memory.
    WriteAtLast,
}

/// Who can read code, and whether it stays as it is meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Every thread.
    All,
    /// A thread after [`CodeMemory::let_read`].
    EachThreadByItself,
    /// Every thread; but in a forked child the parent may write meanwhile.
    SharedWithParent,
}

/// A way of keeping W^X.
trait Mode: Send + Sync {
    fn mode(&self) -> WxMode;

    fn rules(&self, region: &Region) -> Rules;

    /// Writes `bytes` at `offset` of pages that are executable.
    ///
    /// # Safety
    /// - The bytes are the caller's: inside the region, and nobody runs, reads or writes them meanwhile.
    unsafe fn write(&self, region: &Region, offset: usize, bytes: &[u8]) -> Result<(), Error>;

    /// Writes a function, and `padding` behind it: where that costs no more than the copy, and with poison in any case.
    ///
    /// # Safety
    /// - As for [`Mode::write`], of the padding too.
    unsafe fn fill(&self, region: &Region, offset: usize, code: &[u8], _padding: &[u8]) -> Result<(), Error> {
        // SAFETY: passed on to the caller.
        unsafe { self.write(region, offset, code) }
    }

    /// Stores a word by one store, where the mode writes by stores.
    ///
    /// # Safety
    /// - `offset` is a multiple of the word's length. The bytes are the caller's, inside the region; others may run them meanwhile.
    unsafe fn write_word(&self, _region: &Region, _offset: usize, _word: Word) -> Result<(), Error> {
        Err(Error::unsupported("patching a word", "only `DualMap` and `PerThread` write by stores"))
    }

    /// Where bytes are written by stores, where the rules allow that.
    fn writable(&self, region: &Region, offset: usize) -> NonNull<u8> {
        region.span(offset..offset).start
    }

    /// Sees to it that bytes behind `writable` have memory.
    fn back(&self, _region: &Region, _bytes: Range<usize>) -> Result<(), Error> {
        Ok(())
    }

    /// Makes whole pages executable, or takes that away. Who can write to them and read them stays as it is.
    ///
    /// # Safety
    /// - The pages belong to the caller, and no thread runs them if they are to be not executable.
    unsafe fn set_executable(&self, region: &Region, range: Range<usize>, yes: bool) -> sys::Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { region.set_executable(range, yes) }
    }

    /// Gives the memory of whole pages back to the system, where the rules allow that. They can be written to as before.
    ///
    /// # Safety
    /// - The pages hold nothing that anybody needs, and belong to the caller.
    unsafe fn decommit(&self, region: &Region, range: Range<usize>) -> sys::Result<()>;

    /// Why holes in pages with live code are not filled, if they are not.
    fn unfilled(&self) -> Option<Unfilled> {
        None
    }

    /// What writes to read-only pages through the kernel, if the mode keeps that open.
    fn kernel_writer(&self) -> Option<&KernelWriter> {
        None
    }

    /// Before this thread reads code.
    fn let_read(&self) {}

    /// A second view of the code, if there is one.
    fn second_view(&self) -> Option<Span> {
        None
    }

    /// Releases the region and all views.
    ///
    /// # Safety
    /// - Nobody uses them, now or later; called once, as the last call.
    unsafe fn release(&mut self, region: &Region) {
        // SAFETY: passed on to the caller.
        unsafe { sys::release_or_park(region.os(), region.reservation()) };
    }

    /// Leaves the region and all views where they are until the process ends, and gives back what else can be.
    ///
    /// # Safety
    /// - As for [`Mode::release`].
    unsafe fn abandon(&mut self, _region: &Region) {}
}

/// A region with its mode.
pub(crate) struct CodeMemory {
    region: Region,
    rules: Rules,
    mode: Box<dyn Mode>,
    withdrawn: Withdrawn,
    /// A page that holds no memory is not executable.
    bars: bool,
    /// How much of the code, from its start, is part of core dumps.
    dumped: AtomicUsize,
}

impl CodeMemory {
    /// Memory as planned, tried out before it is returned.
    pub(crate) fn build(os: &'static dyn Os, mode: WxMode, plan: &Plan) -> Result<Self, Error> {
        let mut memory = Self::of_mode(os, mode, plan)?;
        memory.set_poisons(plan.poison);
        if !plan.freeze && memory.can_bar() && !memory.bar_all()? {
            // What is not executable stays so there: then all of it is executable, as without poison.
            drop(memory);
            memory = Self::of_mode(os, mode, plan)?;
            memory.set_poisons(plan.poison);
        }
        memory.leave_out_of_dumps();
        if plan.freeze {
            memory.freeze()?;
        }
        Ok(memory)
    }

    fn of_mode(os: &'static dyn Os, mode: WxMode, plan: &Plan) -> Result<Self, Error> {
        match mode {
            WxMode::Flip => flip::build(os, plan),
            WxMode::DualMap => dual_map::build(os, plan),
            WxMode::PerThread => per_thread::build(os, plan),
            WxMode::FileWrite => file_write::build(os, plan),
            #[cfg(all(test, not(loom)))]
            WxMode::Toy => toy::build(os, plan),
            WxMode::Given => Err(Error::unsupported("Given", "the memory has to be given: `build_over` does that")),
        }
    }

    /// Memory that somebody else mapped, tried out before it is returned. Its owner is told if it is not.
    ///
    /// # Safety
    /// - As for [`ArenaBuilder::build_over`](crate::ArenaBuilder::build_over).
    pub(crate) unsafe fn over(os: &'static dyn Os, memory: Taken) -> Result<Self, Error> {
        // SAFETY: passed on to the caller.
        unsafe { given::build(os, memory) }
    }

    fn new(region: Region, mode: Box<dyn Mode>) -> Self {
        Self {
            rules: mode.rules(&region),
            region,
            mode,
            withdrawn: Withdrawn::default(),
            bars: false,
            dumped: AtomicUsize::new(usize::MAX),
        }
    }

    /// Whether each publication makes every core serialise, where the architecture does not ask for it.
    pub(crate) fn set_serializes(&mut self, yes: bool) {
        self.region.set_serializes(yes);
    }

    /// Whether what is not code is to be traps, also where that takes a call of its own.
    pub(crate) fn set_poisons(&mut self, yes: bool) {
        self.region.set_poisons(yes);
    }

    fn set_mode(&mut self, mode: Box<dyn Mode>) {
        self.rules = mode.rules(&self.region);
        self.mode = mode;
    }

    /// What the system may do or not: a refusal leaves small pages, or no name.
    fn advise(&self, plan: &Plan) {
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

    /// Leaves all of it out of core dumps and snapshots, for as long as nothing is in it. They would get memory for every page of
    /// shared memory, in both views. What is used then is added, a little ahead, so that it stays one part of two.
    fn leave_out_of_dumps(&mut self) {
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

    /// What of the code is in core dumps ends at a multiple of that: mappings end there, and no huge page lies across.
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
    fn freeze(&mut self) -> Result<(), Error> {
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

    /// Whether whole pages without live code can be opened, written to in their place, and sealed again.
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

    /// As [`CodeMemory::fills_holes`] for a function that can be published otherwise if this was wrong: what was refused is
    /// tried again now and then.
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

    /// Before this thread reads code: where rights differ from thread to thread, it may have none yet.
    pub(crate) fn let_read(&self) {
        if self.rules.readers == Readers::EachThreadByItself {
            self.mode.let_read();
        }
    }

    /// Where the bytes at `offset` are written by stores: in the second view, or in place once the pages are open.
    pub(crate) fn writable(&self, offset: usize) -> NonNull<u8> {
        self.mode.writable(&self.region, offset)
    }

    /// Sees to it that bytes behind [`CodeMemory::writable`] have memory.
    pub(crate) fn back(&self, bytes: Range<usize>) -> Result<(), Error> {
        self.mode.back(&self.region, bytes)
    }

    /// Writes `bytes` at `offset` of pages that are executable; no thread is disturbed.
    ///
    /// A forked child is refused, here once more than where its calls come in: what it inherited leads to its parent, or
    /// is not there.
    ///
    /// # Safety
    /// - The bytes are the caller's: inside the region, and nobody runs, reads or writes them meanwhile.
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
    /// - `offset` is a multiple of the word's length. The bytes are the caller's, inside the region; others may run them meanwhile.
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

    /// Opens whole pages for writing. When this fails, some of them may be open all the same: seal them before they are used for
    /// anything else.
    ///
    /// # Safety
    /// - The pages hold no live code, and belong to the caller until sealed.
    pub(crate) unsafe fn open(&self, range: Range<usize>) -> Result<(), Error> {
        // SAFETY: passed on to the caller.
        unsafe { self.region.open(range) }.inspect_err(|refused| {
            self.withdrawn.note_flip(refused);
        })
    }

    /// Makes opened pages executable, of which the first `written` bytes are to stay as they are.
    ///
    /// If the system has come to refuse that, pages that were never writable take their place, and what is to stay is written to
    /// them through the kernel. When that fails too, what was there may be gone: it must not be sealed again to be published.
    ///
    /// # Safety
    /// - The pages are the caller's, opened, and nobody writes to them any more.
    pub(crate) unsafe fn seal(&self, range: Range<usize>, written: usize) -> Result<(), Error> {
        // SAFETY: passed on to the caller.
        let Err(refused) = (unsafe { self.region.seal(range.clone()) }) else { return Ok(()) };
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
        // SAFETY: the caller's pages, mapped and readable whether they are open or not, and nobody writes there.
        bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(span.start.as_ptr(), written) });
        // SAFETY: whole private pages of the caller's, whose contents were copied.
        unsafe { self.region.replace(range.clone(), true)? };
        // Zeros are there already.
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if end > 0 {
            // SAFETY: the caller's.
            unsafe { self.write(range.start, &bytes[..end])? };
        }
        Ok(())
    }

    /// Overwrites code with traps. When this fails, some of it may be.
    ///
    /// # Safety
    /// - The bytes are the caller's, whole granules of executable pages, and nobody runs or reads them.
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

    /// Does to empty pages what [`Rules::trims`] says; returns whether their memory went back to the system.
    ///
    /// # Safety
    /// - As for [`CodeMemory::decommit`].
    pub(crate) unsafe fn trim(&self, range: Range<usize>) -> Result<bool, Error> {
        if self.rules.trims == Trims::WithTraps {
            // SAFETY: passed on to the caller.
            unsafe { self.fill_with_traps(range)? };
            // Where other cores cannot be reached the traps come late; what is published there next is refused anyway.
            let _ = self.sync_cores();
            return Ok(false);
        }
        // SAFETY: passed on to the caller.
        unsafe { self.decommit(range)? };
        Ok(true)
    }

    /// Gives the memory of whole pages back to the system. They can be written to as before: private ones after they were opened,
    /// or through the kernel.
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
