//! Cranelift's code in a [`CodeArena`](crate::CodeArena) (feature `cranelift`).
//!
//! - [`CodeArenaProvider`] gives memory to a `JITModule` of [`cranelift_jit`], in `Flip`. This page
//!   describes it.
//! - [`link`] puts single functions of [`cranelift_codegen`] into a batch, in every mode.
//!
//! Code of many modules shares one reservation with everything else in the arena:
//!
//! - `free_memory` returns the memory to the arena.
//! - `lookup` finds the functions from any address inside.
//! - Observers are called for the functions.
//! - Guards prevent that freed code is overwritten while a thread may run it.
//!
//! # Layout
//!
//! All memory of a module lies in the arena's one reservation. So every relative branch, call and
//! reference reaches its target, also in other modules of the arena.
//!
//! ```text
//! | code                                | no access | data area                                 |
//! | other code .. [module A][module B]..|           | writable data ->  ..     <- constants     |
//!    Flip's pages    whole pages                      rw-, shared by modules    r--, whole pages
//! ```
//!
//! - *Code* lies in runs of whole pages that were empty. `cranelift-jit` writes code and
//!   relocations at the address where the code will run. So the pages are writable until
//!   `finalize_definitions`, and executable from then on. The rest of the last page is free for
//!   other code. Each `finalize_definitions` after a definition begins a new page.
//! - *Constants* lie in the arena's data area ([`ArenaBuilder::data`](crate::ArenaBuilder::data)).
//!   Their pages are read-only after `finalize_definitions`. A module with constants takes at least
//!   a page.
//! - *Writable data* lies in the data area too, in pages that modules share.
//!
//! A page of the data area is never executable while the arena lives.
//!
//! Only [`WxMode::Flip`](crate::WxMode::Flip) can be used, because only there memory can be written
//! at its final address, while it is writable and not executable. An arena in another mode is
//! refused.
//!
//! # Mappings
//!
//! The system limits the number of mappings (Linux: 65,530 for a process). Neighbours of one kind
//! count as one mapping.
//!
//! - Code is a few mappings, however much is published.
//! - Writable data is taken from the beginning of the data area, and constants from its end, in
//!   steps of 64 KiB. A step adds at most one mapping, because Linux does not always join
//!   neighbours that were written separately: 101 modules had 10 mappings, one had 4. Each module
//!   that is being written has two more.
//! - If other data takes a hole that a freed module left, this may be one more mapping: at most one
//!   for each 64 KiB of data.
//!
//! # Versions
//!
//! | gaia-jit | Cranelift's crates | Rust |
//! |---|---|---|
//! | 0.2 | 0.135 | 1.95 with this feature, 1.85 without |
//!
//! The trait of `cranelift-jit` is part of this crate's interface. So a new minor version of
//! Cranelift is a new minor version of this crate.
//!
//! # Example
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
