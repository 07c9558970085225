//! The memory of one module, and its owner.
#![forbid(unsafe_code)]

use std::fmt;
use std::mem;

use crate::arena::{DataKind, DataPages, InPlace};
use crate::sync::{Arc, OnceLock};
use crate::{CodeArena, CodeBlock};

/// All memory of one module. The drop frees it.
pub(super) struct Memory {
    pub(super) code: InPlace,
    pub(super) constants: DataPages,
    pub(super) data: DataPages,
    /// The functions that were finalized.
    pub(super) blocks: Vec<CodeBlock>,
}

impl Memory {
    pub(super) fn new(arena: &CodeArena) -> Self {
        Self {
            code: arena.in_place(),
            constants: arena.data_pages(DataKind::Constant),
            data: arena.data_pages(DataKind::Writable),
            blocks: Vec::new(),
        }
    }

    /// Marks everything that was reserved as used, because there may be pointers to it from now on.
    pub(super) fn use_all(&mut self) {
        self.code.close();
        self.constants.use_all();
        self.data.use_all();
    }

    /// Leaks all memory that was marked as used, and gives the rest back.
    pub(super) fn leak(&mut self) {
        mem::take(&mut self.blocks).into_iter().for_each(mem::forget);
        self.code.leak();
        self.constants.leak();
        self.data.leak();
    }
}

/// The memory of one module, without the module.
///
/// A value that owns finalized functions can hold it instead of the `JITModule`, which is large and
/// not `Sync`. Clones share the memory.
///
/// The memory is freed by `JITModule::free_memory`, or when the module and all clones are dropped,
/// in any order.
///
/// ```
/// # #[cfg(all(not(miri), any(target_arch = "x86_64", target_arch = "aarch64")))] {
/// # use cranelift_codegen::ir::{AbiParam, InstBuilder, types};
/// # use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
/// # use cranelift_jit::{JITBuilder, JITModule};
/// # use cranelift_module::{Linkage, Module, default_libcall_names};
/// use gaia_jit::CodeArena;
/// use gaia_jit::cranelift::{CodeArenaProvider, ModuleMemory};
///
/// struct Compiled {
///     function: extern "C" fn() -> i32,
///     /// Keeps the function.
///     _memory: ModuleMemory,
/// }
///
/// let arena = CodeArena::builder().capacity(1 << 20).build()?;
/// let mut provider = CodeArenaProvider::new(arena.clone())?;
/// // SAFETY: the function is called through `Compiled` alone.
/// let memory = unsafe { provider.memory() };
/// let mut builder = JITBuilder::new(default_libcall_names())?;
/// builder.memory_provider(Box::new(provider));
/// let mut module = JITModule::new(builder);
/// // ... define `answer`, and finalize ...
/// # let mut context = module.make_context();
/// # context.func.signature.returns.push(AbiParam::new(types::I32));
/// # let answer = module.declare_function("answer", Linkage::Export, &context.func.signature)?;
/// # let mut frontend = FunctionBuilderContext::new();
/// # let mut function = FunctionBuilder::new(&mut context.func, &mut frontend);
/// # let block = function.create_block();
/// # function.switch_to_block(block);
/// # let value = function.ins().iconst(types::I32, 42);
/// # function.ins().return_(&[value]);
/// # function.seal_all_blocks();
/// # function.finalize(module.target_config());
/// # module.define_function(answer, &mut context)?;
/// # module.finalize_definitions()?;
/// let code = module.get_finalized_function(answer);
/// // SAFETY: this is the function's type.
/// let function = unsafe { std::mem::transmute::<*const u8, extern "C" fn() -> i32>(code) };
/// drop(module);
/// let compiled = std::sync::Arc::new(Compiled { function, _memory: memory });
/// let there = std::sync::Arc::clone(&compiled);
/// std::thread::spawn(move || assert_eq!((there.function)(), 42)).join().unwrap();
/// drop(compiled);
/// assert_eq!(arena.stats().live_blocks, 0);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ModuleMemory(Arc<OnceLock<Memory>>);

impl ModuleMemory {
    pub(super) fn new() -> Self {
        Self(Arc::new(OnceLock::new()))
    }

    /// Makes this value and its clones the only owners of the memory. It is called once.
    pub(super) fn give(&self, memory: Memory) {
        let _ = self.0.set(memory);
    }
}

impl fmt::Debug for ModuleMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let functions = self.0.get().map(|memory| memory.blocks.len());
        f.debug_struct("ModuleMemory").field("functions_of_a_dropped_module", &functions).finish()
    }
}
