//! Engines with LLVM's own memory manager.

use std::error::Error;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::rc::Rc;

use inkwell::execution_engine::ExecutionEngine;
use inkwell::llvm_sys::core::LLVMDisposeMessage;
use inkwell::llvm_sys::execution_engine::{
    LLVMCreateMCJITCompilerForModule, LLVMInitializeMCJITCompilerOptions, LLVMLinkInMCJIT, LLVMMCJITCompilerOptions,
};
use inkwell::llvm_sys::target_machine::LLVMCodeModel;
use inkwell::module::Module;
use inkwell::targets::{InitializationConfig, Target};

/// An engine of MCJIT with `SectionMemoryManager`, for a code model of the caller's, which inkwell
/// has no function for.
pub(crate) fn engine<'ctx>(
    module: Module<'ctx>,
    model: LLVMCodeModel,
) -> Result<ExecutionEngine<'ctx>, Box<dyn Error>> {
    Target::initialize_native(&InitializationConfig::default())?;
    let mut options = MaybeUninit::<LLVMMCJITCompilerOptions>::zeroed();
    let len = size_of::<LLVMMCJITCompilerOptions>();
    // SAFETY: it only keeps the linker from leaving MCJIT out.
    unsafe { LLVMLinkInMCJIT() };
    // SAFETY: memory for the options, of this size.
    unsafe { LLVMInitializeMCJITCompilerOptions(options.as_mut_ptr(), len) };
    // SAFETY: plain numbers and pointers, zeroed and initialised.
    let mut options = unsafe { options.assume_init() };
    options.CodeModel = model;
    options.OptLevel = 2;
    let (mut made, mut message) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the module belongs to nobody else; the places outlive the call.
    let failed =
        unsafe { LLVMCreateMCJITCompilerForModule(&mut made, module.as_mut_ptr(), &mut options, len, &mut message) };
    // The engine's from here on, as it would be after an error.
    std::mem::forget(module);
    if failed != 0 {
        // SAFETY: after an error there is a message, a string of C's.
        let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
        // SAFETY: it is the caller's, and was copied.
        unsafe { LLVMDisposeMessage(message) };
        return Err(text.into());
    }
    // SAFETY: made just now, and nobody else disposes of it.
    Ok(unsafe { ExecutionEngine::new(Rc::new(made), true) })
}
