//! Functions made by Cranelift.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, reason = "each test file uses a part")]

use cranelift_codegen::Context;
use cranelift_codegen::ir::{AbiParam, InstBuilder, MemFlagsData, Signature, Type, types};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_jit::{JITBuilder, JITMemoryProvider, JITModule};
use cranelift_module::{DataId, FuncId, Linkage, Module, default_libcall_names};

/// Returns a module with memory from `provider`.
pub fn module(provider: impl JITMemoryProvider + Send + 'static) -> JITModule {
    let mut builder = JITBuilder::new(default_libcall_names()).unwrap();
    builder.memory_provider(Box::new(provider));
    JITModule::new(builder)
}

/// Returns a signature in this system's convention.
pub fn signature(module: &JITModule, params: &[Type], returns: &[Type]) -> Signature {
    let mut signature = module.make_signature();
    signature.params.extend(params.iter().map(|of| AbiParam::new(*of)));
    signature.returns.extend(returns.iter().map(|of| AbiParam::new(*of)));
    signature
}

/// Declares a function and defines it as `body` says.
pub fn define(
    module: &mut JITModule,
    name: &str,
    signature: Signature,
    body: impl FnOnce(&mut JITModule, &mut FunctionBuilder<'_>),
) -> FuncId {
    let id = module.declare_function(name, Linkage::Export, &signature).unwrap();
    let mut context = Context::new();
    context.func.signature = signature;
    let mut frontend = FunctionBuilderContext::new();
    let mut function = FunctionBuilder::new(&mut context.func, &mut frontend);
    let block = function.create_block();
    function.append_block_params_for_function_params(block);
    function.switch_to_block(block);
    body(module, &mut function);
    function.seal_all_blocks();
    function.finalize(module.target_config());
    module.define_function(id, &mut context).unwrap();
    id
}

/// Defines `fn() -> i32`, which returns the constant `value`.
pub fn constant(module: &mut JITModule, name: &str, value: i64) -> FuncId {
    let signature = signature(module, &[], &[types::I32]);
    define(module, name, signature, |_, function| {
        let value = function.ins().iconst(types::I32, value);
        function.ins().return_(&[value]);
    })
}

/// Defines `fn() -> i32`, which returns the result of `callee` and one more.
pub fn one_more(module: &mut JITModule, name: &str, callee: FuncId) -> FuncId {
    let signature = signature(module, &[], &[types::I32]);
    define(module, name, signature, |module, function| {
        let callee = module.declare_func_in_func(callee, function.func);
        let call = function.ins().call(callee, &[]);
        let value = function.inst_results(call)[0];
        let sum = function.ins().iadd_imm_s(value, 1);
        function.ins().return_(&[sum]);
    })
}

/// Defines `fn() -> i32`, which returns the value of `data`, and adds one to it if it is writable.
pub fn counter(module: &mut JITModule, name: &str, data: DataId, writable: bool) -> FuncId {
    let signature = signature(module, &[], &[types::I32]);
    define(module, name, signature, |module, function| {
        let global = module.declare_data_in_func(data, function.func);
        let at = function.ins().symbol_value(types::I64, global);
        let value = function.ins().load(types::I32, MemFlagsData::trusted(), at, 0);
        if writable {
            let sum = function.ins().iadd_imm_s(value, 1);
            function.ins().store(MemFlagsData::trusted(), sum, at, 0);
        }
        function.ins().return_(&[value]);
    })
}

/// Calls a finalized function of this file.
pub fn call(module: &JITModule, id: FuncId) -> i32 {
    call_at(module.get_finalized_function(id))
}

pub fn call_at(code: *const u8) -> i32 {
    // SAFETY: the functions of this file are of this type, and are alive.
    let function = unsafe { std::mem::transmute::<*const u8, extern "C" fn() -> i32>(code) };
    function()
}
