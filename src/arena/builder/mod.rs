//! The settings of an arena.
//!
//! [`ArenaBuilder`] collects settings and checks nothing. `build` (in `build.rs`) checks them,
//! reserves the address space in the first mode that the system allows, and makes the tables.
//! `build_over` does the same over memory that the embedder mapped.
//!
//! ```text
//! settings --> checks --> Plan --> CodeMemory (one mode, tried out) --> Core --> CodeArena
//! ```
//!
//! So a builder can be made and passed on in places where no arena can be built.

mod build;

use std::fmt;

use crate::arena::WxMode;
use crate::arena::events::observer::Observer;
use crate::sync::Arc;
use crate::sys::{Native, Os};

/// Settings for a new arena, made by [`CodeArena::builder`](crate::CodeArena::builder).
///
/// ```
/// use gaia_jit::{CodeArena, WxMode};
///
/// let arena = CodeArena::builder().capacity(16 << 20).mode(WxMode::Flip).poison(true).build()?;
/// assert_eq!(arena.capacity(), 16 << 20);
/// # Ok::<(), gaia_jit::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "nothing is made before `build`"]
pub struct ArenaBuilder {
    /// `None` stands for the default.
    capacity: Option<usize>,
    /// `None` stands for the default.
    data: Option<usize>,
    /// The modes in the order in which they are tried. `None` stands for the default.
    modes: Option<Vec<WxMode>>,
    huge_pages: bool,
    poison: bool,
    keep_free: usize,
    seal: bool,
    landing_pads: bool,
    serialize_cores: bool,
    near: Option<usize>,
    name: Option<String>,
    observers: Vec<Arc<dyn Observer>>,
    keep_notes: bool,
    os: &'static dyn Os,
}

impl ArenaBuilder {
    pub(crate) fn new() -> Self {
        Self {
            capacity: None,
            data: None,
            modes: None,
            huge_pages: false,
            poison: false,
            keep_free: usize::MAX,
            seal: false,
            landing_pads: false,
            serialize_cores: false,
            near: None,
            name: None,
            observers: Vec::new(),
            keep_notes: false,
            os: &Native,
        }
    }

    /// Sets the bytes of address space for code, rounded up to whole pages.
    ///
    /// Memory is used only as code is placed. The exception is a process that locks its future
    /// mappings (`mlockall(MCL_FUTURE)`): there `Flip`, `DualMap` and `FileWrite` take all of the
    /// memory when they are built.
    ///
    /// The default is 256 MiB, but 128 MiB on AArch64 and 32 MiB on 32-bit systems. If the arena is
    /// to be [`near`](Self::near) an address, the default is at most half of the range of a direct
    /// branch, because the address may lie in the middle of the arena. All code of an arena lies in
    /// branch range of all its other code. So the limit is that range: 2 GiB on x86-64, one page
    /// less on RISC-V, 128 MiB on AArch64.
    ///
    /// ```
    /// # use gaia_jit::CodeArena;
    /// let arena = CodeArena::builder().capacity(100_000).build()?;
    /// assert!(arena.capacity() >= 100_000 && arena.capacity() % 4096 == 0);
    /// assert_eq!(arena.stats().resident_bytes, 0);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn capacity(self, bytes: usize) -> Self {
        Self { capacity: Some(bytes), ..self }
    }

    /// Sets the bytes of address space for data beside the code, rounded up to whole pages. 0
    /// stands for no data area.
    ///
    /// The memory of the data area is readable and writable, or only readable. It is never
    /// executable while the arena lives. Memory is used only as data is placed.
    /// [`CodeArena::data`](crate::CodeArena::data) places data there, and so do Cranelift's modules
    /// with their constants and variables. Writable data and constants are kept apart, in units of
    /// 64 KiB. In an area of less than 128 KiB, blocks of the kind that was placed second take
    /// whole pages.
    ///
    /// The default is an eighth of the capacity, or less if code cannot reach so much. Code reaches
    /// all of the data area by references relative to the instruction. So code and data together
    /// are at most 2 GiB on x86-64 and RISC-V, 4 GiB on AArch64 and s390x, 1 GiB on 32-bit systems.
    ///
    /// ```
    /// # use gaia_jit::CodeArena;
    /// let arena = CodeArena::builder().capacity(1 << 20).data(256 << 10).build()?;
    /// assert_eq!((arena.stats().data_capacity, arena.stats().data_resident_bytes), (256 << 10, 0));
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn data(self, bytes: usize) -> Self {
        Self { data: Some(bytes), ..self }
    }

    /// Sets the mode: how the arena keeps W^X. The default is [`WxMode::Flip`].
    ///
    /// ```
    /// # use gaia_jit::{CodeArena, WxMode};
    /// let arena = CodeArena::builder().capacity(1 << 20).mode(WxMode::Flip).build()?;
    /// assert_eq!(arena.mode(), WxMode::Flip);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn mode(self, mode: WxMode) -> Self {
        self.modes(&[mode])
    }

    /// Sets a list of modes, of which the arena uses the first that the system allows.
    /// [`CodeArena::refused`](crate::CodeArena::refused) returns the reasons why the modes before
    /// it are not used.
    ///
    /// A mode is left out if the system or its configuration refuses it
    /// ([`Error::Unsupported`](crate::Error::Unsupported)). A temporary lack, such as one of memory
    /// or of descriptors, is an error of [`build`](Self::build) instead. Otherwise the arena would
    /// use the next mode for as long as it lives.
    ///
    /// `Flip` counts as allowed where the kernel write is refused, and does not fill holes there
    /// ([`Unfilled`](crate::Unfilled)). If another mode is better in that case, list it before
    /// `Flip`.
    ///
    /// ```
    /// use gaia_jit::{CodeArena, WxMode};
    ///
    /// let arena = CodeArena::builder().modes(&[WxMode::PerThread, WxMode::FileWrite, WxMode::Flip]).build()?;
    /// for (mode, why) in arena.refused() {
    ///     println!("{mode:?} cannot be had: {why}");
    /// }
    /// assert_eq!(arena.mode() == WxMode::PerThread, arena.refused().is_empty());
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn modes(self, modes: &[WxMode]) -> Self {
        Self { modes: Some(modes.to_vec()), ..self }
    }

    /// Asks the system for huge pages. This is a hint: if there are none, small pages are used.
    ///
    /// ```
    /// # use gaia_jit::CodeArena;
    /// let arena = CodeArena::builder().capacity(4 << 20).huge_pages(true).build()?;
    /// let block = arena.publish(&[0xc3; 100])?; // in a huge page, if the system has one
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn huge_pages(self, yes: bool) -> Self {
        Self { huge_pages: yes, ..self }
    }

    /// Makes a stale call stop at once, wherever in the arena it leads: everything that is
    /// executable is live code or trap instructions.
    ///
    /// - Freed code is overwritten with traps, before its space is used again and before its memory
    ///   is returned to the system.
    /// - The code of a batch that was given up or could not be published is overwritten too.
    ///   (Without poison this is done only where it takes no system call.)
    /// - The padding behind every function is filled with traps. (Without poison the padding of
    ///   functions above 1 KiB keeps its old content in `Flip` and `FileWrite`.)
    /// - On Linux and Android, on x86, x86-64 and Arm, a page without memory is not executable: a
    ///   page that never held code, or one that was trimmed. Such a page would run as zeros, and
    ///   zeros are an instruction there. It is filled with traps before it becomes executable.
    ///
    /// Costs:
    /// - Each drop writes. In `Flip` and `FileWrite` the write is a system call.
    /// - A trim changes protections once more for each run of pages.
    /// - The first function in a page without memory pays for a write to the page and for a change
    ///   of protection. Other threads wait for its heap meanwhile.
    /// - There may be two mappings for each run of pages that hold memory.
    ///
    /// Limits:
    /// - In `Flip` without the kernel write ([`Stats::fills_holes`](crate::Stats::fills_holes)),
    ///   freed code stays until its pages are empty and are used again or trimmed.
    /// - Pages that never held code, and trimmed pages, are executable zeros with
    ///   [`seal`](Self::seal). The same holds if nothing may become executable that was not
    ///   executable before (`PR_SET_MDWE`, systemd's `MemoryDenyWriteExecute`) when the arena is
    ///   built.
    /// - In [`Given`](WxMode::Given) pages that never held code have the content that the embedder
    ///   left there.
    /// - On Windows a page that never held code is usually not accessible. In `DualMap`, memory
    ///   that is committed ahead (64 KiB at a time) is zeros. On other Unix systems pages that
    ///   never held code are zeros, and trimmed pages are not accessible.
    /// - In `FileWrite` on x86 and Arm, `perf record` reports pages that become executable as parts
    ///   of a file that it cannot find. It does not use a perf map for them.
    /// - If a block became shorter ([`CodeBlock::shrink`](crate::CodeBlock::shrink)), the rest of
    ///   its last 16 bytes is not overwritten.
    /// - While the system refuses a write, the old code stays as it is, and its space is not used.
    ///
    /// If the system begins to refuse changes of protection, on Linux and Android, then `trim` and
    /// [`keep_free`](Self::keep_free) return no memory that would stay executable as zeros. This
    /// memory stays full of traps and is used again, and `trim` returns an error. In `Flip` fresh
    /// pages replace such pages, and the memory is returned.
    ///
    /// ```
    /// # use gaia_jit::CodeArena;
    /// let arena = CodeArena::builder().capacity(1 << 20).poison(true).build()?;
    /// let block = arena.publish(&[0xc3; 100])?;
    /// drop(block); // from here on a call of the old address ends the process at once
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn poison(self, yes: bool) -> Self {
        Self { poison: yes, ..self }
    }

    /// Returns memory to the system by itself, whenever a drop finds more than `bytes` of free
    /// memory. It is for users who have no moment to call
    /// [`CodeArena::trim`](crate::CodeArena::trim). It is off unless set.
    ///
    /// Of the code, only wholly free spans of 64 KiB count. Of the data beside the code, free pages
    /// count, up to the same number of bytes again.
    ///
    /// It has no effect in modes that cannot return memory while the arena lives.
    ///
    /// ```
    /// # use gaia_jit::CodeArena;
    /// let arena = CodeArena::builder().capacity(4 << 20).keep_free(256 << 10).build()?;
    /// let blocks: Vec<_> = (0..200).map(|_| arena.publish(&[0xc3; 10_000])).collect::<Result<_, _>>()?;
    /// let full = arena.stats().resident_bytes;
    /// drop(blocks);
    /// assert!(arena.stats().resident_bytes < full / 4 || arena.stats().decommits == 0);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn keep_free(self, bytes: usize) -> Self {
        Self { keep_free: bytes, ..self }
    }

    /// Places the arena so that a direct branch reaches from all of it to `address` and back. If
    /// that is impossible, [`build`](Self::build) fails.
    ///
    /// ```
    /// # use gaia_jit::{CodeArena, Error};
    /// let here = std::process::id as *const u8;
    /// match CodeArena::builder().capacity(1 << 20).near(here).build() {
    ///     Ok(arena) => {
    ///         let block = arena.publish(&[0xc3])?;
    ///         assert!((block.as_ptr() as isize).abs_diff(here as isize) < 2 << 30);
    ///     }
    ///     Err(Error::OutOfReach { reach, .. }) => println!("all within {reach} bytes is taken"),
    ///     Err(other) => return Err(other),
    /// }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn near(self, address: *const u8) -> Self {
        Self { near: Some(address.addr()), ..self }
    }

    /// Makes the system refuse every later change to the protection of the arena's memory for code,
    /// by any caller. It is for arenas that live as long as the process.
    ///
    /// The memory for data is not sealed. The mappings stay when the arena is dropped. (`DualMap`
    /// and `FileWrite` return their memory then.)
    ///
    /// In `Flip` and `PerThread`, [`CodeArena::trim`](crate::CodeArena::trim) is refused from then
    /// on. In `Flip` all code is written through the kernel. It needs Linux 6.10 on 64 bits
    /// (`mseal`). Elsewhere building the arena is an error.
    ///
    /// ```
    /// # use gaia_jit::{CodeArena, Error, WxMode};
    /// match CodeArena::builder().capacity(1 << 20).mode(WxMode::FileWrite).seal(true).build() {
    ///     Ok(arena) => assert!(arena.publish(&[0xc3]).is_ok()),
    ///     Err(Error::Unsupported { why, .. }) => println!("not here: {why}"),
    ///     Err(other) => return Err(other),
    /// }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn seal(self, yes: bool) -> Self {
        Self { seal: yes, ..self }
    }

    /// Restricts indirect branches into the arena to landing pads: Branch Target Identification, on
    /// AArch64 Linux (`PROT_BTI`). Elsewhere building the arena is an error.
    ///
    /// Code that is reached through a pointer then has to begin with a landing pad: `bti c` on
    /// AArch64. On other architectures such a check is on for the whole process or off, and a
    /// mapping need not ask for it. If the process runs with the check, code has to begin with
    /// `endbr64` (x86-64), `endbr32` (i386) or `lpad` (RISC-V). The arena's own code (stubs, and
    /// the code that tries the mode out) begins with a landing pad everywhere, because it has no
    /// effect without the check.
    ///
    /// ```
    /// # use gaia_jit::{CodeArena, Error};
    /// match CodeArena::builder().capacity(1 << 20).landing_pads(true).build() {
    ///     Ok(_) => println!("every function begins with `bti c`"),
    ///     Err(Error::Unsupported { why, .. }) => println!("not here: {why}"),
    ///     Err(other) => return Err(other),
    /// }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn landing_pads(self, yes: bool) -> Self {
        Self { landing_pads: yes, ..self }
    }

    /// Makes every core of the process execute a serialising instruction before new code is given
    /// out, once for each publication (a batch is one) and for each patch.
    ///
    /// This setting is for x86 and x86-64. On other architectures it is done in any case. On x86
    /// nothing else is done for other cores, because the hardware keeps their instruction caches
    /// coherent. The manuals of Intel ask for such an instruction if code is changed through
    /// another linear address than the one that runs. All modes do that, except for the batches of
    /// `Flip` that fill whole pages. The manuals call this no practical concern, no failure is
    /// known, and no other JIT does it. So the setting is for users who want to follow the manuals
    /// to the letter.
    ///
    /// It costs a system call that interrupts every core that runs a thread of the process: half a
    /// microsecond to one and a half. The call is `membarrier` with `PRIVATE_EXPEDITED_SYNC_CORE`
    /// (Linux since 4.16), or `FlushProcessWriteBuffers` on Windows. Without such a call,
    /// [`ArenaBuilder::build`] returns [`Error::Unsupported`](crate::Error::Unsupported).
    ///
    /// ```
    /// # use gaia_jit::{CodeArena, Error};
    /// match CodeArena::builder().capacity(1 << 20).serialize_cores(true).build() {
    ///     Ok(arena) => assert!(arena.publish(&[0xc3]).is_ok()),
    ///     Err(Error::Unsupported { why, .. }) => println!("not here: {why}"),
    ///     Err(other) => return Err(other),
    /// }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn serialize_cores(self, yes: bool) -> Self {
        Self { serialize_cores: yes, ..self }
    }

    /// Sets the name of the arena's mappings in the system's list of mappings.
    ///
    /// | mode | name | needs |
    /// |---|---|---|
    /// | `DualMap` | `[anon_shmem:NAME]` in `/proc/self/maps` | Linux 6.2 |
    /// | `FileWrite` | `/memfd:NAME` | |
    /// | others | `[anon:NAME]` | Linux 5.17, if the kernel was built with such names |
    ///
    /// Backslashes, brackets, `$` and characters that cannot be printed become `_`. At most 64
    /// bytes are kept. It is a hint, without effect on other systems.
    ///
    /// Without a name, profilers that do not know named mappings recognise the memory as anonymous.
    ///
    /// ```
    /// # use gaia_jit::CodeArena;
    /// let arena = CodeArena::builder().capacity(1 << 20).name("my runtime").build()?;
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn name(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// Adds an observer, which is called about every function that is published or retired.
    /// Observers are called in the order in which they were added.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicUsize, Ordering};
    /// use gaia_jit::{CodeArena, Observer, Published};
    ///
    /// #[derive(Default)]
    /// struct Count(AtomicUsize);
    ///
    /// impl Observer for Count {
    ///     fn published(&self, functions: &[Published<'_>]) {
    ///         self.0.fetch_add(functions.len(), Ordering::Relaxed);
    ///     }
    /// }
    ///
    /// let count = Arc::new(Count::default());
    /// let arena = CodeArena::builder().capacity(1 << 20).observer(count.clone()).build()?;
    /// let block = arena.publish(&[0xc3])?;
    /// assert_eq!(count.0.load(Ordering::Relaxed), 1);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observers.push(observer);
        self
    }

    /// Keeps names and unwind information of live functions, so that observers can be
    /// [attached](crate::CodeArena::attach) later. An example is a profiler that is switched on
    /// when it is needed. It is off unless set.
    ///
    /// It costs about 100 bytes and the name for each function, and a lock of the whole arena at
    /// each publication and each drop.
    ///
    /// [`CodeArena::attach`](crate::CodeArena::attach) has an example.
    pub fn keep_notes(self, yes: bool) -> Self {
        Self { keep_notes: yes, ..self }
    }

    /// Replaces the real system by another one.
    #[cfg(all(any(test, fuzzing), not(loom)))]
    pub(crate) fn os(self, os: &'static dyn Os) -> Self {
        Self { os, ..self }
    }
}

impl fmt::Debug for ArenaBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArenaBuilder")
            .field("capacity", &self.capacity)
            .field("data", &self.data)
            .field("modes", &self.modes)
            .field("huge_pages", &self.huge_pages)
            .field("poison", &self.poison)
            .field("keep_free", &self.keep_free)
            .field("seal", &self.seal)
            .field("landing_pads", &self.landing_pads)
            .field("serialize_cores", &self.serialize_cores)
            .field("near", &self.near)
            .field("name", &self.name)
            .field("keep_notes", &self.keep_notes)
            .finish_non_exhaustive()
    }
}
