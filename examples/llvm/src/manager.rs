//! What MCJIT asks for its memory.

use std::fmt;

use cranelift_jit::{BranchProtection, JITMemoryKind, JITMemoryProvider};
use gaia_jit::cranelift::CodeArenaProvider;
use gaia_jit::{CodeArena, Error};
use inkwell::memory_manager::McjitMemoryManager;

use crate::scratch::Scratch;
use crate::sections::{Kind, Sections};
use crate::{Failure, failure};

/// Memory for one engine of MCJIT, from an arena that any number of engines share.
///
/// The engine owns it. When the engine goes, so does the memory: it is free for other modules.
///
/// # Errors that LLVM does not take
///
/// LLVM ends the process if it is given no memory, and ignores that memory could not be made
/// executable. So a section that the arena has no room for goes to ordinary memory, where it can
/// never run, and [`Sections::failure`] says so. Ask it before anything is called;
/// [`compile`](crate::compile) does.
pub struct ArenaMemoryManager {
    /// `None` once the engine is done with it.
    provider: Option<CodeArenaProvider>,
    sections: Sections,
    /// Sections of a module that failed. They stay as long as the engine, which registers their
    /// frames.
    scratch: Vec<Scratch>,
}

impl ArenaMemoryManager {
    /// Memory from `arena`.
    ///
    /// # Errors
    /// - [`Error::Unsupported`] unless the arena's mode is `Flip`, and if it was built with `seal`:
    ///   LLVM writes code at the address where it will run.
    /// - [`Error::Forked`] in a child of the process that built the arena.
    pub fn new(arena: &CodeArena) -> Result<Self, Error> {
        let provider = CodeArenaProvider::new(arena.clone())?;
        // SAFETY: the memory goes when LLVM destroys the manager, as the last part of the engine.
        // An engine lives as long as the functions that inkwell took from it, and whoever calls one
        // by its bare address promises the same.
        let provider = unsafe { provider.free_on_drop() };
        Ok(Self { provider: Some(provider), sections: Sections::default(), scratch: Vec::new() })
    }

    /// The list of what LLVM asks for from now on. It outlives the manager.
    pub fn sections(&self) -> Sections {
        self.sections.clone()
    }

    fn allocate(&mut self, len: usize, align: u32, name: &str, kind: Kind) -> *mut u8 {
        let align = align.max(1);
        match self.take(len, align, kind) {
            Ok(at) => {
                self.sections.add(name, kind, at.addr(), len);
                at
            }
            Err(failure) => {
                self.sections.fail(failure);
                self.take_scratch(len, align)
            }
        }
    }

    fn take(&mut self, len: usize, align: u32, kind: Kind) -> Result<*mut u8, Failure> {
        let memory = match kind {
            Kind::Code => JITMemoryKind::Executable,
            Kind::Constants => JITMemoryKind::ReadOnly,
            Kind::Variables => JITMemoryKind::Writable,
        };
        let provider = self.provider.as_mut().ok_or(Failure::Destroyed)?;
        provider.allocate(len, align.into(), memory).map_err(failure::of_allocation)
    }

    /// Null if even ordinary memory is out; LLVM then ends the process.
    fn take_scratch(&mut self, len: usize, align: u32) -> *mut u8 {
        let Some(scratch) = Scratch::new(len, align as usize) else { return std::ptr::null_mut() };
        let at = scratch.as_ptr();
        self.scratch.push(scratch);
        at
    }
}

impl McjitMemoryManager for ArenaMemoryManager {
    fn allocate_code_section(&mut self, size: usize, alignment: u32, _: u32, section_name: &str) -> *mut u8 {
        self.allocate(size, alignment, section_name, Kind::Code)
    }

    fn allocate_data_section(
        &mut self,
        size: usize,
        alignment: u32,
        _: u32,
        section_name: &str,
        is_read_only: bool,
    ) -> *mut u8 {
        let kind = if is_read_only { Kind::Constants } else { Kind::Variables };
        self.allocate(size, alignment, section_name, kind)
    }

    /// Makes code executable, for every thread, and constants read-only. MCJIT calls it once for
    /// all that was added to the engine since.
    fn finalize_memory(&mut self) -> Result<(), String> {
        if self.sections.has_failed() {
            return Err("a section of the module has no memory of the arena".to_owned());
        }
        let provider = self.provider.as_mut().ok_or_else(|| Failure::Destroyed.to_string())?;
        provider.finalize(BranchProtection::None).map_err(|error| {
            let failure = failure::of_finalization(error);
            let message = failure.to_string();
            self.sections.fail(failure);
            message
        })
    }

    fn destroy(&mut self) {
        self.provider = None;
        self.scratch.clear();
    }
}

impl fmt::Debug for ArenaMemoryManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArenaMemoryManager")
            .field("provider", &self.provider)
            .field("sections", &self.sections)
            .finish_non_exhaustive()
    }
}
