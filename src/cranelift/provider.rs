//! What a module asks for its memory.

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

/// Memory for one `JITModule`, from an arena; see the [module](super).
///
/// # The module's end
///
/// `JITModule::free_memory` retires all of the module's functions and gives its data back. Its
/// contract is that nobody runs the functions any more; guards keep *code* from being used again
/// under threads that hold one, but the data of a module goes at once.
///
/// A module that is dropped without it leaves its code and data in the arena for ever, and the
/// arena with them: this is what `cranelift-jit` promises, as function pointers outlive a module
/// there. Only what was defined since `finalize_definitions` was last called is freed, because
/// nobody can have a pointer to it; an error of that call makes no difference.
///
/// [`memory`](Self::memory) returns an owner of the memory that outlives the module. With
/// [`free_on_drop`](Self::free_on_drop) the memory is freed when the module is dropped.
///
/// # Forked children
///
/// A child can run and look up what it inherited. A provider that it makes, and each allocation and
/// `finalize_definitions` of a module that it inherited, is [`Error::Forked`]; make an arena in the
/// child.
pub struct CodeArenaProvider {
    arena: CodeArena,
    memory: Memory,
    labels: Labels,
    tag: u64,
    free_on_drop: bool,
    owner: Option<ModuleMemory>,
}

/// What a child is refused.
const GIVE: &str = "give memory to a module";

impl CodeArenaProvider {
    /// Memory from `arena`, which may serve any number of modules and everything else besides.
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

    /// The tag of all functions of the module, as [`CodeArena::lookup`] returns it; 0 unless set.
    pub fn tag(mut self, tag: u64) -> Self {
        self.tag = tag;
        self
    }

    /// Where to say what the arena's observers are told of the module's functions.
    pub fn labels(&self) -> Labels {
        self.labels.clone()
    }

    /// Frees all memory when the module is dropped, however that comes about, instead of leaving it
    /// in use for ever.
    ///
    /// # Safety
    /// - When the module is dropped, nobody runs its functions or uses its data, nor does later.
    pub unsafe fn free_on_drop(mut self) -> Self {
        self.free_on_drop = true;
        self
    }

    /// An owner of the memory that outlives the module, can be shared by threads, and frees the
    /// memory with its last clone.
    ///
    /// # Safety
    /// - When the module and the last clone are gone, nobody runs the module's functions or uses
    ///   its data, nor does later.
    pub unsafe fn memory(&mut self) -> ModuleMemory {
        self.owner.get_or_insert_with(ModuleMemory::new).clone()
    }

    fn reserve(&mut self, size: usize, align: u64, kind: JITMemoryKind) -> Result<NonNull<u8>, Error> {
        self.arena.check_in_place(GIVE)?;
        let too_large = Error::BadAlignment { align: usize::MAX, limit: MAX_ALIGN };
        let align = usize::try_from(align).map_err(|_| too_large)?;
        // Of no bytes there has to be an address as well.
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
        // Whatever becomes of it: from now on the module tells where its functions and data are.
        self.memory.use_all();
        self.check_protection(protection)?;
        self.memory.constants.make_read_only()?;
        // Taken out, so that an observer may use the labels.
        let said = self.labels.take();
        let Memory { code, blocks, .. } = &mut self.memory;
        let published = code.publish(&said.notes, blocks);
        if published.is_err() {
            self.labels.put_back(said);
        }
        published
    }

    /// Landing pads are a property of all of the arena: where some functions had none, the others'
    /// would be worth little, and pages are shared.
    fn check_protection(&self, protection: BranchProtection) -> Result<(), Error> {
        let pads = self.arena.has_landing_pads();
        match protection {
            BranchProtection::None if pads && self.memory.code.len() > 0 => {
                Err(Error::unsupported("code without landing pads", "this arena was built with `landing_pads`"))
            }
            BranchProtection::BTI if !pads && processor_has_landing_pads() => {
                Err(Error::unsupported("branch protection", "this arena was built without `landing_pads`"))
            }
            _ => Ok(()),
        }
    }

    fn free(&mut self) {
        self.labels.take();
        // Taken out, so that all of it goes although an observer panics.
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
    /// Memory at its final address. Its errors, of the kind that [`io::Error`] has for them, hold
    /// an [`Error`].
    fn allocate(&mut self, size: usize, align: u64, kind: JITMemoryKind) -> io::Result<*mut u8> {
        Ok(self.reserve(size, align, kind)?.as_ptr())
    }

    unsafe fn free_memory(&mut self) {
        self.free();
    }

    /// Makes constants read-only, and code executable for every thread.
    ///
    /// `ModuleError::Backend` holds an [`Error`]: [`Error::Unsupported`] where the module's branch
    /// protection is not the arena's (functions without landing pads would stop the program in an
    /// arena with them, and the other way round a processor that has the protection would not be
    /// given it), [`Error::OperatingSystem`], [`Error::Forked`].
    fn finalize(&mut self, branch_protection: BranchProtection) -> ModuleResult<()> {
        self.publish(branch_protection).map_err(|error| ModuleError::Backend(error.into()))
    }
}

impl Drop for CodeArenaProvider {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.take() {
            owner.give(mem::replace(&mut self.memory, Memory::new(&self.arena)));
        } else if !self.free_on_drop {
            // Pointers to it may be in use for ever.
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
