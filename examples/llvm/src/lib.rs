//! Memory for LLVM's MCJIT from an arena of [`gaia_jit`], through the trait of [`inkwell`].
//!
//! [`ArenaMemoryManager`] is what LLVM asks for memory. [`compile`] hands a module to an engine
//! with such a manager, and returns errors that LLVM itself would end the process for, or ignore.
//!
//! # Where sections lie
//!
//! All sections of all modules lie in the arena's one reservation: code in its space for code, the
//! rest in its area for data. So every reference between them is in reach, whatever else the
//! process has mapped, and a module may be compiled for a code model with short references:
//!
//! ```text
//! one reservation | .text of all modules ...  | .data, .bss | ...  | .rodata, .eh_frame |
//! protection      | written, then executable  | writable           | written, then read-only
//! ```
//!
//! # Why it is memory that is written where it will run
//!
//! LLVM's linker (`RuntimeDyld`) writes a section, and applies its relocations, at the address that
//! the manager gave it. It takes the same address for the one where the section will run, unless
//! the section was mapped elsewhere (`mapSectionAddress`). Neither LLVM's C interface nor the trait
//! has that call. So a second view (`WxMode::DualMap`) and staged bytes (a `Batch`) cannot serve,
//! because LLVM would link for the wrong address. `WxMode::Flip` can: its pages are writable and
//! not executable until they are published. [`gaia_jit::cranelift::CodeArenaProvider`] is the
//! crate's public door to such pages, because cranelift-jit links in the same way.
//!
//! # Unwinding
//!
//! LLVM registers the frames of a module (`.eh_frame`) with the process's unwinder at the address
//! that the manager gave it, before it asks for the end of writing, and takes them out before it
//! destroys the manager. The manager sees the section by its name and has nothing to do but to keep
//! it near the code. So panics and backtraces pass through functions of a module that has the
//! attribute `uwtable`. [`gaia_jit`]'s own unwinder is not for it: it takes frames of one function
//! that are not linked yet, and these are linked and relative to where they lie.

mod compile;
mod failure;
mod manager;
pub mod sample;
mod scratch;
mod sections;

pub use compile::{Compiled, compile};
pub use failure::Failure;
pub use manager::ArenaMemoryManager;
pub use sections::{Kind, Section, Sections};
