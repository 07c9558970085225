//! Modules of [`cranelift_jit`] in a [`CodeArena`](crate::CodeArena) (feature `cranelift`).
//!
//! [`CodeArenaProvider`] gives a `JITModule` its memory. Code of many modules then shares one
//! reservation with all else that is in the arena: `free_memory` gives it back to the arena,
//! `lookup` finds its functions from any address inside, observers hear of them, and guards keep
//! what is freed from being used again under a running thread.
//!
//! # Where things lie
//!
//! All three kinds of memory lie in the arena's one reservation, so that every relative branch,
//! call and reference in a module reaches, to other modules of the arena too:
//!
//! - *Code* lies in runs of whole pages that were empty. `cranelift-jit` writes code and
//!   relocations at the address where it will run, so the pages are writable until
//!   `finalize_definitions` and executable from then on, once for all; the rest of the last page is
//!   free for what is published otherwise. Each `finalize_definitions` that follows a definition
//!   begins a new page.
//! - *Constants* lie in the arena's data area ([`ArenaBuilder::data`](crate::ArenaBuilder::data)),
//!   in pages that are readable alone after `finalize_definitions`. A module with constants takes a
//!   page at least.
//! - *Writable data* lies in the data area too, in pages that are readable and writable. Modules
//!   share them.
//!
//! A page of the data area is never executable for as long as the arena lives.
//!
//! # Mappings
//!
//! The system counts mappings (Linux: 65,530 for a process), and neighbours of one kind are one.
//! Code is one mapping, whatever is published. Writable data is taken from the beginning of the
//! data area and constants from its end, in steps of 64 KiB. So modules add none as long as the two
//! do not meet, except two for each module that is being written. Where modules that were freed
//! leave holes, a hole that other data takes may be a mapping more: at most one for each 64 KiB of
//! data.
//!
//! Only in [`WxMode::Flip`](crate::WxMode::Flip) memory can be written where it will run: its pages
//! are writable and not executable until then. The other modes are refused.
//!
//! # Versions
//!
//! The feature follows one minor version of `cranelift-jit`, whose trait is part of the interface:
//! 0.135, which needs Rust 1.95. The rest of the crate needs what its `rust-version` says.
//!
//! ```
//! # #[cfg(all(not(miri), any(target_arch = "x86_64", target_arch = "aarch64")))] {
//! use cranelift_codegen::ir::{AbiParam, InstBuilder, types};
//! use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
//! use cranelift_jit::{JITBuilder, JITModule};
//! use cranelift_module::{Linkage, Module, default_libcall_names};
//! use gaia_jit::CodeArena;
//! use gaia_jit::cranelift::CodeArenaProvider;
//!
//! let arena = CodeArena::builder().capacity(1 << 20).build()?;
//! let provider = CodeArenaProvider::new(arena.clone())?.tag(7);
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

mod labels;
pub mod link;
mod memory;
mod provider;

pub use labels::Labels;
pub use memory::ModuleMemory;
pub use provider::CodeArenaProvider;
