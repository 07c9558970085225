//! How an arena is made: the settings.

mod build;

use std::fmt;

use crate::arena::WxMode;
use crate::arena::events::observer::Observer;
use crate::sync::Arc;
use crate::sys::{Native, Os};

/// Settings for a new arena, from [`CodeArena::builder`](crate::CodeArena::builder).
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
    /// Unless the default is meant.
    capacity: Option<usize>,
    /// Likewise.
    data: Option<usize>,
    /// In the order in which they are tried. Likewise.
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

    /// Bytes of address space for code, rounded up to whole pages. Memory is used only as code is
    /// placed; in a process that locks what it will map (`mlockall(MCL_FUTURE)`) `Flip`, `DualMap`
    /// and `FileWrite` take all of it when they are built.
    ///
    /// 256 MiB unless set; 128 MiB on AArch64 and 32 MiB on 32-bit systems, but no more than half
    /// of what branches reach if the arena is to be [`near`](Self::near) something, which may lie
    /// in the middle of it. All code of an arena lies in branch range of all other, so no more than
    /// that range is possible: 2 GiB on x86-64, a page less on RISC-V, 128 MiB on AArch64.
    pub fn capacity(self, bytes: usize) -> Self {
        Self { capacity: Some(bytes), ..self }
    }

    /// Bytes of address space for data beside the code, rounded up to whole pages: memory that is
    /// readable and writable, or readable alone, and never executable for as long as the arena
    /// lives. Memory is used only as data is placed. There lie
    /// [`CodeArena::data`](crate::CodeArena::data), and constants and variables of Cranelift's
    /// modules. The two kinds lie apart, 64 KiB each: in an area of less than 128 KiB a block of
    /// the kind that came second takes whole pages.
    ///
    /// An eighth of the capacity unless set, and less where code could not reach that much; 0 for
    /// none. Code reaches all of it by references relative to the instruction: code and data
    /// together are at most 2 GiB on x86-64 and RISC-V, 4 GiB on AArch64 and s390x, 1 GiB on 32-bit
    /// systems.
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

    /// How W^X is kept; [`WxMode::Flip`] unless set.
    pub fn mode(self, mode: WxMode) -> Self {
        self.modes(&[mode])
    }

    /// Ways to keep W^X, of which the first is used that the system allows.
    /// [`CodeArena::refused`](crate::CodeArena::refused) says why the ones before it are not.
    ///
    /// A mode is passed over if the system or its configuration refuses it
    /// ([`Error::Unsupported`](crate::Error::Unsupported)). What passes, as a lack of memory or of
    /// descriptors, is an error of [`build`](Self::build), because the next mode would be used for
    /// as long as the arena lives.
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

    /// Asks the system for huge pages. A hint: where there are none, small pages serve.
    pub fn huge_pages(self, yes: bool) -> Self {
        Self { huge_pages: yes, ..self }
    }

    /// Makes a stale call stop at once, wherever in the arena it goes: whatever is executable is
    /// live code or trap instructions.
    ///
    /// - Freed code is overwritten with traps, before its space is used again and before its memory
    ///   goes back to the system.
    /// - So is what a batch wrote that was given up or could not be published. (Without poison too,
    ///   where that takes no call of the system.)
    /// - The padding behind every function is traps. (Without poison that of functions above 1 KiB
    ///   is what was there before, in `Flip` and `FileWrite`.)
    /// - On Linux and Android a page that holds no memory is not executable on x86, x86-64 and Arm,
    ///   where it would run as zeros and zeros are an instruction: one that never held code, and
    ///   one that was trimmed. It is filled with traps before it becomes executable.
    ///
    /// What it costs: each drop writes (in `Flip` and `FileWrite` a call of the system), a trim
    /// changes protections once more for each run of pages, and the first function in a page
    /// without memory pays for writing to the page and for a change of protection, while other
    /// threads wait for its heap. There may be two mappings for each run of pages that hold memory.
    ///
    /// Where it is less:
    /// - In `Flip` without the kernel write ([`Stats::fills_holes`](crate::Stats::fills_holes)),
    ///   code stays until its pages are empty and used again or trimmed.
    /// - With [`seal`](Self::seal), and where nothing may become executable that was not before
    ///   (`PR_SET_MDWE`, systemd's `MemoryDenyWriteExecute`) when the arena is built, pages that
    ///   never held code are executable zeros, and so are trimmed ones.
    /// - In [`Given`](WxMode::Given) pages that never held code are what the embedder left there.
    /// - On Windows a page that never held code is as a rule not accessible; in `DualMap`, what is
    ///   committed ahead (64 KiB at a time) is zeros. On other Unix systems pages that never held
    ///   code are zeros; trimmed ones are not accessible.
    /// - In `FileWrite` on x86 and Arm, `perf record` hears of pages that become executable as
    ///   parts of a file that it cannot find, and looks nothing up in a perf map.
    /// - Of a block that became shorter ([`CodeBlock::shrink`](crate::CodeBlock::shrink)) the rest
    ///   of its last 16 bytes stays.
    /// - While the system refuses a write, what was to be overwritten stays as it is, and its space
    ///   is not used.
    ///
    /// Where the system comes to refuse changes of protection on Linux and Android, `trim` and
    /// [`keep_free`](Self::keep_free) give no memory back that would stay executable as zeros: it
    /// stays full of traps and is used again, and `trim` is an error. In `Flip` fresh pages take
    /// the place of such pages, and the memory goes back.
    pub fn poison(self, yes: bool) -> Self {
        Self { poison: yes, ..self }
    }

    /// Gives memory back to the system by itself when more than `bytes` of it are free, as a drop
    /// finds it: for users who have nobody to call [`CodeArena::trim`](crate::CodeArena::trim).
    /// Only wholly free spans of 64 KiB count; of data beside the code free pages do, up to as much
    /// again. Off unless set.
    ///
    /// In modes that cannot give memory back while the arena lives, it has no effect.
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

    /// Places the arena so that a direct branch reaches from all of it to `address` and back, or
    /// fails.
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

    /// Has the system refuse every later change to the protections of the arena's memory for code,
    /// by anyone: for arenas that live as long as the process. What is for data stays as it is. The
    /// mappings stay when the arena is dropped (`DualMap` and `FileWrite` give their memory back
    /// then).
    ///
    /// In `Flip` and `PerThread` [`CodeArena::trim`](crate::CodeArena::trim) is refused from then
    /// on, and in `Flip` all code goes in through the kernel write. Linux since 6.10, on 64 bits
    /// (`mseal`); an error elsewhere.
    pub fn seal(self, yes: bool) -> Self {
        Self { seal: yes, ..self }
    }

    /// Lets indirect branches into the arena arrive at landing pads only: Branch Target
    /// Identification, on AArch64 Linux (`PROT_BTI`); an error elsewhere.
    ///
    /// What is reached through a pointer then has to begin with a landing pad: `bti c` on AArch64.
    /// On other architectures the system switches such a check on for the process, or not, and no
    /// mapping has to say so; there code has to begin with `endbr64` (x86-64), `endbr32` (i386) or
    /// `lpad` (RISC-V) where the process runs with it. The arena's own code (stubs, and what tries
    /// the mode out) begins with one everywhere, because it does nothing where nobody asks.
    pub fn landing_pads(self, yes: bool) -> Self {
        Self { landing_pads: yes, ..self }
    }

    /// Has every core of the process execute a serialising instruction before new code is given
    /// out, once for each publication (a batch is one) and for each patch.
    ///
    /// x86 and x86-64: there nothing else is done for other cores, because the hardware keeps their
    /// instruction caches coherent. The manuals of Intel ask for such an instruction where code is
    /// changed through another linear address than the one that runs, which all modes do but the
    /// batches of `Flip` that fill whole pages; they call that no practical concern, no failure is
    /// known, and no other JIT does it. This is for those who want the letter. It costs a system
    /// call that interrupts every core that runs a thread of the process, half a microsecond to one
    /// and a half (`membarrier` with `PRIVATE_EXPEDITED_SYNC_CORE`, Linux since 4.16;
    /// `FlushProcessWriteBuffers` on Windows). On other architectures it is done in any case.
    ///
    /// [`ArenaBuilder::build`] returns [`Error::Unsupported`](crate::Error::Unsupported) where
    /// there is no such call.
    pub fn serialize_cores(self, yes: bool) -> Self {
        Self { serialize_cores: yes, ..self }
    }

    /// What the arena's mappings are called in the system's list of them: `[anon:NAME]` in
    /// `/proc/self/maps` (Linux 5.17, where the kernel was built with such names),
    /// `[anon_shmem:NAME]` in `DualMap` (Linux 6.2), `/memfd:NAME` in `FileWrite`. Backslashes,
    /// brackets, `$` and what cannot be printed become `_`; up to 64 bytes are kept. A hint,
    /// without effect elsewhere.
    ///
    /// Unset, mappings have no name, and profilers that do not know named ones take them for what
    /// they are.
    pub fn name(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// One more that hears of every function that is published or retired. The first that was added
    /// hears it first.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observers.push(observer);
        self
    }

    /// Keeps names and unwind information of live functions, so that observers can be
    /// [attached](crate::CodeArena::attach) later: a profiler that is switched on when it is
    /// needed. Off unless set.
    ///
    /// It costs some 100 bytes and the name for each function, and a lock for all of the arena at
    /// each publication and drop.
    pub fn keep_notes(self, yes: bool) -> Self {
        Self { keep_notes: yes, ..self }
    }

    /// Another system than the real one.
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
