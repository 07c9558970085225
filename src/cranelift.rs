//! Modules of [`cranelift_jit`] in a [`CodeArena`] (feature `cranelift`).
//!
//! [`ArenaMemoryProvider`] gives a `JITModule` its memory. Code of many modules then shares one reservation with all else
//! that is in the arena: `free_memory` gives it back to the arena, `lookup` finds its functions from any address inside,
//! observers hear of them, and guards keep what is freed from being used again under a running thread.
//!
//! # Where things lie
//!
//! All three kinds of memory lie in the arena's one reservation, so that every relative branch, call and reference in a
//! module reaches, to other modules of the arena too:
//!
//! - *Code* lies in runs of whole pages that were empty. `cranelift-jit` writes code and relocations at the address where
//!   it will run, so the pages are writable until `finalize_definitions` and executable from then on, once for all; the
//!   rest of the last page is free for what is published otherwise. Each `finalize_definitions` that follows a
//!   definition begins a new page.
//! - *Constants* lie in the arena's data area ([`ArenaBuilder::data`](crate::ArenaBuilder::data)), in pages that are readable alone
//!   after `finalize_definitions`. A module with constants takes a page at least.
//! - *Writable data* lies in the data area too, in pages that are readable and writable. Modules share them.
//!
//! A page of the data area is never executable for as long as the arena lives. Constants and writable data come from different
//! parts of it (64 KiB each), so that modules add few mappings to the process's account (Linux: 65,530).
//!
//! Only in [`WxMode::Flip`](crate::WxMode::Flip) memory can be written where it will run: its pages are writable and not
//! executable until then. The other modes are refused.
//!
//! # Versions
//!
//! The feature follows one minor version of `cranelift-jit`, whose trait is part of the interface: 0.135, which needs
//! Rust 1.95. The rest of the crate needs what its `rust-version` says.
//!
//! ```
//! # #[cfg(all(not(miri), any(target_arch = "x86_64", target_arch = "aarch64")))] {
//! use cranelift_codegen::ir::{AbiParam, InstBuilder, types};
//! use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
//! use cranelift_jit::{JITBuilder, JITModule};
//! use cranelift_module::{Linkage, Module, default_libcall_names};
//! use gaia_jit::CodeArena;
//! use gaia_jit::cranelift::ArenaMemoryProvider;
//!
//! let arena = CodeArena::builder().capacity(1 << 20).build()?;
//! let provider = ArenaMemoryProvider::new(arena.clone())?.tag(7);
//! let names = provider.labels();
//! let mut builder = JITBuilder::new(default_libcall_names())?;
//! builder.memory_provider(Box::new(provider));
//! let mut module = JITModule::new(builder);
//!
//! let mut context = module.make_context();
//! context.func.signature.returns.push(AbiParam::new(types::I32));
//! let answer = module.declare_function("answer", Linkage::Export, &context.func.signature)?;
//! let mut frontend = FunctionBuilderContext::new();
//! let mut function = FunctionBuilder::new(&mut context.func, &mut frontend);
//! let block = function.create_block();
//! function.switch_to_block(block);
//! let value = function.ins().iconst(types::I32, 42);
//! function.ins().return_(&[value]);
//! function.seal_all_blocks();
//! function.finalize(module.target_config());
//! module.define_function(answer, &mut context)?;
//! names.name("answer");
//! module.finalize_definitions()?;
//!
//! let code = module.get_finalized_function(answer);
//! assert_eq!(arena.lookup(code).unwrap().tag, 7);
//! // SAFETY: this is the function's type.
//! let call = unsafe { std::mem::transmute::<*const u8, extern "C" fn() -> i32>(code) };
//! assert_eq!(call(), 42);
//! // SAFETY: nobody runs the code, now or later.
//! unsafe { module.free_memory() };
//! assert_eq!(arena.stats().live_blocks, 0);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
use std::io;
use std::mem;
use std::ptr::NonNull;

use cranelift_jit::{BranchProtection, JITMemoryKind, JITMemoryProvider};
use cranelift_module::{ModuleError, ModuleResult};

use crate::arena::{DataKind, DataPages, InPlace, Notes};
use crate::sync::{Arc, Mutex};
use crate::units::MAX_ALIGN;
use crate::{CodeArena, CodeBlock, Error, UnwindInfo};

/// Memory for one `JITModule`, from an arena; see the [module](self).
///
/// # The module's end
///
/// `JITModule::free_memory` retires all of the module's functions and gives its data back. Its contract is that nobody
/// runs the functions any more; guards keep *code* from being used again under threads that hold one, but the data of a
/// module goes at once.
///
/// A module that is dropped without it leaves its code and data in the arena for ever, and the arena with them: this is
/// what `cranelift-jit` promises, as function pointers outlive a module there. What was not finalized, to which no pointer
/// can have been given out, comes back. [`free_on_drop`](Self::free_on_drop) makes every end of the module its end.
pub struct ArenaMemoryProvider {
    arena: CodeArena,
    code: InPlace,
    constants: DataPages,
    data: DataPages,
    /// What was finalized.
    blocks: Vec<CodeBlock>,
    labels: Labels,
    tag: u64,
    finalized: bool,
    free_on_drop: bool,
}

impl ArenaMemoryProvider {
    /// Memory from `arena`, which may serve any number of modules and everything else besides.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless the arena's mode is [`WxMode::Flip`](crate::WxMode::Flip), and if it was built with
    /// [`ArenaBuilder::seal`](crate::ArenaBuilder::seal).
    pub fn new(arena: CodeArena) -> Result<Self, Error> {
        arena.check_in_place("memory for modules of Cranelift")?;
        Ok(Self {
            code: arena.in_place(),
            constants: arena.data_pages(DataKind::Constant),
            data: arena.data_pages(DataKind::Writable),
            blocks: Vec::new(),
            labels: Labels::default(),
            tag: 0,
            finalized: false,
            free_on_drop: false,
            arena,
        })
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

    /// Frees all memory when the module is dropped, however that comes about, instead of leaving it in use for ever.
    ///
    /// # Safety
    /// - When the module is dropped, nobody runs its functions or uses its data, nor does later.
    pub unsafe fn free_on_drop(mut self) -> Self {
        self.free_on_drop = true;
        self
    }

    fn reserve(&mut self, size: usize, align: u64, kind: JITMemoryKind) -> Result<NonNull<u8>, Error> {
        let too_large = Error::BadAlignment { align: usize::MAX, limit: MAX_ALIGN };
        let align = usize::try_from(align).map_err(|_| too_large)?;
        // Of no bytes there has to be an address as well.
        let size = size.max(1);
        match kind {
            JITMemoryKind::Writable => self.data.reserve(size, align),
            JITMemoryKind::ReadOnly => self.constants.reserve(size, align),
            JITMemoryKind::Executable => {
                let at = self.code.reserve(size, align, self.tag)?;
                self.labels.0.lock().functions += 1;
                Ok(at)
            }
        }
    }

    fn publish(&mut self, protection: BranchProtection) -> Result<(), Error> {
        self.check_protection(protection)?;
        self.constants.make_read_only()?;
        // Taken out, so that an observer may use the labels.
        let said = mem::take(&mut *self.labels.0.lock());
        let published = self.code.publish(&said.notes, &mut self.blocks);
        match published {
            Ok(()) => self.finalized = true,
            Err(_) => *self.labels.0.lock() = said,
        }
        published
    }

    /// Landing pads are a property of all of the arena: where some functions had none, the others' would be worth little,
    /// and pages are shared.
    fn check_protection(&self, protection: BranchProtection) -> Result<(), Error> {
        let pads = self.arena.has_landing_pads();
        match protection {
            BranchProtection::None if pads && self.code.len() > 0 => {
                Err(Error::unsupported("code without landing pads", "this arena was built with `landing_pads`"))
            }
            BranchProtection::BTI if !pads && processor_has_landing_pads() => {
                Err(Error::unsupported("branch protection", "this arena was built without `landing_pads`"))
            }
            _ => Ok(()),
        }
    }

    fn free(&mut self) {
        // First, so that the rest goes with `self` if an observer panics.
        self.finalized = false;
        self.blocks.clear();
        self.code.clear();
        self.constants.clear();
        self.data.clear();
        *self.labels.0.lock() = Said::default();
    }
}

fn processor_has_landing_pads() -> bool {
    #[cfg(target_arch = "aarch64")]
    let has = std::arch::is_aarch64_feature_detected!("bti");
    #[cfg(not(target_arch = "aarch64"))]
    let has = false;
    has
}

impl JITMemoryProvider for ArenaMemoryProvider {
    /// Memory at its final address. Its errors, of the kind that [`io::Error`] has for them, hold an [`Error`].
    fn allocate(&mut self, size: usize, align: u64, kind: JITMemoryKind) -> io::Result<*mut u8> {
        Ok(self.reserve(size, align, kind)?.as_ptr())
    }

    unsafe fn free_memory(&mut self) {
        self.free();
    }

    /// Makes constants read-only, and code executable for every thread.
    ///
    /// `ModuleError::Backend` holds an [`Error`]: [`Error::Unsupported`] where the module's branch protection is not the
    /// arena's (functions without landing pads would stop the program in an arena with them, and the other way round a
    /// processor that has the protection would not be given it), [`Error::OperatingSystem`], [`Error::Forked`].
    fn finalize(&mut self, branch_protection: BranchProtection) -> ModuleResult<()> {
        self.publish(branch_protection).map_err(|error| ModuleError::Backend(error.into()))
    }
}

impl Drop for ArenaMemoryProvider {
    fn drop(&mut self) {
        // Also where an observer panicked, so that the call did not return.
        let finalized = self.finalized || !self.blocks.is_empty();
        if self.free_on_drop || !finalized {
            self.free();
            return;
        }
        // Pointers to it may be in use for ever. Code that was not finalized is given back by its own drop.
        mem::take(&mut self.blocks).into_iter().for_each(mem::forget);
        self.constants.leak();
        self.data.leak();
    }
}

impl fmt::Debug for ArenaMemoryProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArenaMemoryProvider")
            .field("arena", &self.arena)
            .field("finalized", &self.blocks.len())
            .field("defined", &self.code.len())
            .field("tag", &self.tag)
            .finish_non_exhaustive()
    }
}

/// Says what the arena's observers are told of a module's functions, of which the module tells its memory nothing. Clones
/// speak of the same module.
///
/// Call it after `define_function` and before the next one, and before `finalize_definitions`.
#[derive(Clone, Default)]
pub struct Labels(Arc<Mutex<Said>>);

/// What was said of the functions that are not finalized.
#[derive(Default)]
struct Said {
    functions: usize,
    notes: Notes,
}

impl Labels {
    /// Names the function that was defined last; whether there is one that was not finalized.
    pub fn name(&self, name: &str) -> bool {
        let mut said = self.0.lock();
        let last = said.functions.checked_sub(1);
        last.map(|last| said.notes.name(last, name)).is_some()
    }

    /// Sets how to unwind through the function that was defined last; whether there is one that was not finalized.
    pub fn unwind(&self, info: UnwindInfo<'_>) -> bool {
        let mut said = self.0.lock();
        let last = said.functions.checked_sub(1);
        last.map(|last| said.notes.unwind(last, info)).is_some()
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Labels").field("functions", &self.0.lock().functions).finish()
    }
}
