//! Unwind information of functions that Cranelift compiled.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, reason = "each test file uses a part")]

use cranelift_codegen::Context;
use cranelift_codegen::ir::{AbiParam, Function, InstBuilder, Signature, UserFuncName, types};
use cranelift_codegen::isa::unwind::UnwindInfo as Made;
use cranelift_codegen::isa::{OwnedTargetIsa, TargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use gaia_jit::UnwindInfo;
use gimli::write::{Address, EhFrame, EndianVec, FrameTable};

/// A function's code, with its unwind information after it on systems that need it there.
pub struct Compiled {
    pub code: Vec<u8>,
    frame: Vec<u8>,
    windows: Option<(usize, usize)>,
}

impl Compiled {
    pub fn unwind(&self) -> UnwindInfo<'_> {
        match self.windows {
            Some((offset, code)) => UnwindInfo::Windows { offset, code },
            None => UnwindInfo::EhFrame(&self.frame),
        }
    }
}

pub fn isa() -> OwnedTargetIsa {
    let mut flags = settings::builder();
    flags.set("unwind_info", "true").unwrap();
    flags.set("preserve_frame_pointers", "true").unwrap();
    cranelift_native::builder().unwrap().finish(settings::Flags::new(flags)).unwrap()
}

/// Returns `.eh_frame` of one function. Its first address counts from the function's start.
pub fn eh_frame(context: &Context, isa: &dyn TargetIsa) -> Vec<u8> {
    let Some(Made::SystemV(made)) = context.compiled_code().unwrap().create_unwind_info(isa).unwrap() else {
        panic!("another form")
    };
    let mut table = FrameTable::default();
    let cie = table.add_cie(isa.create_systemv_cie().unwrap());
    table.add_fde(cie, made.to_fde(Address::Constant(0)));
    let mut section = EhFrame(EndianVec::new(gimli::NativeEndian));
    table.write_eh_frame(&mut section).unwrap();
    section.0.into_vec()
}

/// Compiles `fn(callee: fn())`, which calls `callee`.
pub fn caller(isa: &dyn TargetIsa) -> Compiled {
    let pointer = isa.pointer_type();
    let mut signature = Signature::new(isa.default_call_conv());
    let callee_signature = signature.clone();
    signature.params.push(AbiParam::new(pointer));
    let mut context = Context::for_function(Function::with_name_signature(UserFuncName::user(0, 0), signature));
    let mut frontend = FunctionBuilderContext::new();
    let mut function = FunctionBuilder::new(&mut context.func, &mut frontend);
    let block = function.create_block();
    function.append_block_params_for_function_params(block);
    function.switch_to_block(block);
    let callee = function.block_params(block)[0];
    let callee_signature = function.import_signature(callee_signature);
    function.ins().call_indirect(callee_signature, callee, &[]);
    // Work after the call, so that it is not a jump.
    let zero = function.ins().iconst(types::I32, 0);
    let _ = function.ins().iadd(zero, zero);
    function.ins().return_(&[]);
    function.seal_all_blocks();
    function.finalize(isa.frontend_config());
    context.compile(isa, &mut Default::default()).unwrap();
    let mut code = context.compiled_code().unwrap().code_buffer().to_vec();
    let len = code.len();
    match context.compiled_code().unwrap().create_unwind_info(isa).unwrap().unwrap() {
        Made::SystemV(_) => Compiled { code, frame: eh_frame(&context, isa), windows: None },
        Made::WindowsX64(made) => {
            let offset = len.next_multiple_of(4);
            code.resize(offset + made.emit_size(), 0xcc);
            made.emit(&mut code[offset..]);
            Compiled { code, frame: Vec::new(), windows: Some((offset, len)) }
        }
        _ => panic!("another form"),
    }
}
