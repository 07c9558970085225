//! The memory provider of a module.
//!
//! ```text
//! allocate ----> code, constants, data: reserved at their final addresses, writable
//! finalize ----> constants read-only; code executable, its blocks kept in `Memory`
//! free_memory -> all blocks dropped
//! drop --------> given to the owner, freed (`free_on_drop`), or leaked
//! ```
//!
//! Code is an in-place batch of the arena, data and constants are pages of the data area. What was
//! there when `finalize` was called may be in use, even if the call returned an error, because the
//! module gives out addresses from then on.

use std::fmt;
use std::io;
use std::mem;
use std::ptr::NonNull;

use cranelift_jit::{BranchProtection, JITMemoryKind, JITMemoryProvider};
use cranelift_module::{ModuleError, ModuleResult};

use super::labels::Labels;
use super::memory::{Memory, ModuleMemory};
use crate::units::MAX_ALIGN;
use crate::{CodeArena, Error};

/// A provider of memory for one `JITModule`, from an arena. The [module](super) describes it.
///
/// The page of the [module](super) has an example.
///
/// # The module's end
///
/// | | the memory |
/// |---|---|
/// | `JITModule::free_memory` | is freed: all functions retire, and the data is given back |
/// | the module is dropped | stays in the arena for ever, and keeps the arena alive |
/// | the same, after [`free_on_drop`](Self::free_on_drop) | is freed |
/// | the same, after [`memory`](Self::memory) | is freed when the owner is dropped too |
///
/// - `free_memory` requires that nobody runs the functions any more. Guards delay the reuse of
///   *code*, but the data of a module is free at once.
/// - Memory of a dropped module stays, because function pointers outlive a module in
///   `cranelift-jit`. Functions that were defined after the last `finalize_definitions` are freed
///   all the same, because nobody can have a pointer to them. An error of that call makes no
///   difference.
///
/// # Fork
///
/// A child can run and look up the code that it inherited. A new provider on an inherited arena,
/// and each allocation and `finalize_definitions` of an inherited module, return
/// [`Error::Forked`]. Build an arena in the child.
pub struct CodeArenaProvider {
    arena: CodeArena,
    memory: Memory,
    labels: Labels,
    tag: u64,
    free_on_drop: bool,
    owner: Option<ModuleMemory>,
}

/// The action that a forked child is refused, for the error.
const GIVE: &str = "give memory to a module";

impl CodeArenaProvider {
    /// Returns a provider of memory from `arena`, which may serve any number of modules, and other
    /// code.
    ///
    /// ```
    /// # use gaia_jit::{CodeArena, WxMode, cranelift::CodeArenaProvider};
    /// let arena = CodeArena::builder().capacity(1 << 20).build()?;
    /// let (first, second) = (CodeArenaProvider::new(arena.clone())?, CodeArenaProvider::new(arena.clone())?);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::Unsupported`] unless the arena's mode is [`WxMode::Flip`](crate::WxMode::Flip),
    ///   and if it was built with [`ArenaBuilder::seal`](crate::ArenaBuilder::seal).
    /// - [`Error::Forked`] in a child of the process that built the arena.
    pub fn new(arena: CodeArena) -> Result<Self, Error> {
        arena.check_in_place(GIVE)?;
        let memory = Memory::new(&arena);
        Ok(Self { memory, labels: Labels::new(), tag: 0, free_on_drop: false, owner: None, arena })
    }

    /// Sets the tag of all functions of the module, which [`CodeArena::lookup`] returns. The
    /// default is 0.
    pub fn tag(mut self, tag: u64) -> Self {
        self.tag = tag;
        self
    }

    /// Returns the handle that names the module's functions for the arena's observers.
    pub fn labels(&self) -> Labels {
        self.labels.clone()
    }

    /// Sets that all memory is freed when the module is dropped, instead of staying in use for
    /// ever.
    ///
    /// ```
    /// # use gaia_jit::{CodeArena, WxMode, cranelift::CodeArenaProvider};
    /// # let arena = CodeArena::builder().capacity(1 << 20).build()?;
    /// // SAFETY: what this module defines is used while the module lives, and not later.
    /// let provider = unsafe { CodeArenaProvider::new(arena.clone())?.free_on_drop() };
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Safety
    /// - Nobody runs the module's functions or uses its data when the module is dropped, or later.
    pub unsafe fn free_on_drop(mut self) -> Self {
        self.free_on_drop = true;
        self
    }

    /// Returns an owner of the memory. It outlives the module, threads can share it, and its last
    /// clone frees the memory.
    ///
    /// [`ModuleMemory`] has an example.
    ///
    /// # Safety
    /// - Nobody runs the module's functions or uses its data when the module and the last clone are
    ///   dropped, or later.
    pub unsafe fn memory(&mut self) -> ModuleMemory {
        self.owner.get_or_insert_with(ModuleMemory::new).clone()
    }

    fn reserve(&mut self, size: usize, align: u64, kind: JITMemoryKind) -> Result<NonNull<u8>, Error> {
        self.arena.check_in_place(GIVE)?;
        let too_large = Error::BadAlignment { align: usize::MAX, limit: MAX_ALIGN };
        let align = usize::try_from(align).map_err(|_| too_large)?;
        // A reservation of no bytes has to have an address as well.
        let size = size.max(1);
        match kind {
            JITMemoryKind::Writable => self.memory.data.reserve(size, align),
            JITMemoryKind::ReadOnly => self.memory.constants.reserve(size, align),
            JITMemoryKind::Executable => {
                let at = self.memory.code.reserve(size, align, self.tag)?;
                self.labels.next();
                Ok(at)
            }
        }
    }

    fn publish(&mut self, protection: BranchProtection) -> Result<(), Error> {
        self.arena.check_in_place(GIVE)?;
        // Even if an error follows, the module returns the addresses of its functions and data from
        // now on.
        self.memory.use_all();
        self.check_protection(protection)?;
        self.memory.constants.make_read_only()?;
        // The notes are taken out, so that an observer may use the labels.
        let pending = self.labels.take();
        let Memory { code, blocks, .. } = &mut self.memory;
        let published = code.publish(&pending.notes, blocks);
        if published.is_err() {
            self.labels.put_back(pending);
        }
        published
    }

    /// Checks that the module's branch protection is the arena's. Landing pads are a property of
    /// the whole arena, because functions share pages, and functions without pads would make those
    /// of the others worth little.
    fn check_protection(&self, protection: BranchProtection) -> Result<(), Error> {
        let pads = self.arena.has_landing_pads();
        match protection {
            BranchProtection::None if pads && self.memory.code.len() > 0 => Err(Error::unsupported(
                "code without landing pads",
                "the arena was built with `landing_pads`; enable the module's branch protection",
            )),
            BranchProtection::BTI if !pads && processor_has_landing_pads() => Err(Error::unsupported(
                "branch protection",
                "the arena was built without `landing_pads`; build it with them, or disable the module's branch protection",
            )),
            _ => Ok(()),
        }
    }

    fn free(&mut self) {
        self.labels.take();
        // The memory is taken out, so that all of it is freed even if an observer panics.
        drop(mem::replace(&mut self.memory, Memory::new(&self.arena)));
    }
}

fn processor_has_landing_pads() -> bool {
    #[cfg(target_arch = "aarch64")]
    let has = std::arch::is_aarch64_feature_detected!("bti");
    #[cfg(not(target_arch = "aarch64"))]
    let has = false;
    has
}

impl JITMemoryProvider for CodeArenaProvider {
    /// Returns memory at its final address. Each error has the closest kind of [`io::Error`], and
    /// holds an [`Error`].
    fn allocate(&mut self, size: usize, align: u64, kind: JITMemoryKind) -> io::Result<*mut u8> {
        Ok(self.reserve(size, align, kind)?.as_ptr())
    }

    unsafe fn free_memory(&mut self) {
        self.free();
    }

    /// Makes constants read-only, and code executable for every thread. A `JITModule` calls it: the
    /// page of the [module](super) has an example.
    ///
    /// # Errors
    /// `ModuleError::Backend`, which holds an [`Error`]:
    ///
    /// - [`Error::Unsupported`] if the module's branch protection is not the arena's. Functions
    ///   without landing pads would stop the program in an arena with them. In the opposite case a
    ///   processor that has the protection would not use it.
    /// - [`Error::OperatingSystem`] if the system refuses memory or a change of protection.
    /// - [`Error::Forked`] in a forked child.
    fn finalize(&mut self, branch_protection: BranchProtection) -> ModuleResult<()> {
        self.publish(branch_protection).map_err(|error| ModuleError::Backend(error.into()))
    }
}

impl Drop for CodeArenaProvider {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.take() {
            owner.give(mem::replace(&mut self.memory, Memory::new(&self.arena)));
        } else if !self.free_on_drop {
            // Pointers to the memory may be in use for ever.
            self.memory.leak();
        }
    }
}

impl fmt::Debug for CodeArenaProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodeArenaProvider")
            .field("arena", &self.arena)
            .field("finalized", &self.memory.blocks.len())
            .field("defined", &self.memory.code.len())
            .field("tag", &self.tag)
            .finish_non_exhaustive()
    }
}
