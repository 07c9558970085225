//! Tests of functions that Cranelift compiled, in a batch.
//!
//! - *Names that are found*: `push_compiled` places eight functions and links them. They call each
//!   other forwards and backwards, call the program, use addresses of functions, and load data. The
//!   code is position-independent or not.
//! - *Names that are not found*: the error contains the name, and the dropped batch leaves nothing.
//!
//! A name has a namespace: 0 for functions of the batch, 1 for the program, 2 for data. Every
//! function returns a number that only the right target can give, so a relocation to another place
//! is a failure. The batch has one function before them, because an index of the list must not be
//! mistaken for an index of a slot.
//!
//! The tests need no child process. `main.rs` leaves this file out on s390x.

use crate::common::{modes, small};
use cranelift_codegen::Context;
use cranelift_codegen::ir::{
    AbiParam, ExtFuncData, ExternalName, FuncRef, Function, GlobalValueData, InstBuilder, Signature, UserExternalName,
    UserFuncName, types,
};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use gaia_jit::cranelift::link::{Compiled, Name};
use gaia_jit::{DataAccess, Error, Target};

const OWN: u32 = 0;
const PROGRAM: u32 = 1;
const DATA: u32 = 2;

extern "C" fn triple(n: i64) -> i64 {
    3 * n
}

fn isa(pic: bool) -> OwnedTargetIsa {
    let mut flags = settings::builder();
    flags.set("is_pic", if pic { "true" } else { "false" }).unwrap();
    cranelift_native::builder().unwrap().finish(settings::Flags::new(flags)).unwrap()
}

fn callee(function: &mut FunctionBuilder<'_>, namespace: u32, index: u32, colocated: bool) -> FuncRef {
    let signature = function.func.signature.clone();
    let signature = function.import_signature(signature);
    let name = function.func.declare_imported_user_function(UserExternalName { namespace, index });
    function.import_function(ExtFuncData { name: ExternalName::User(name), signature, colocated, patchable: false })
}

/// Compiles `fn(i64) -> i64`.
fn compile(
    isa: &OwnedTargetIsa,
    body: impl FnOnce(&mut FunctionBuilder<'_>, cranelift_codegen::ir::Value) -> cranelift_codegen::ir::Value,
) -> Context {
    let mut signature = Signature::new(isa.default_call_conv());
    signature.params.push(AbiParam::new(types::I64));
    signature.returns.push(AbiParam::new(types::I64));
    let mut context = Context::for_function(Function::with_name_signature(UserFuncName::user(0, 0), signature));
    let mut frontend = FunctionBuilderContext::new();
    let mut function = FunctionBuilder::new(&mut context.func, &mut frontend);
    let block = function.create_block();
    function.append_block_params_for_function_params(block);
    function.switch_to_block(block);
    let argument = function.block_params(block)[0];
    let result = body(&mut function, argument);
    function.ins().return_(&[result]);
    function.seal_all_blocks();
    function.finalize(isa.frontend_config());
    context.compile(&**isa, &mut Default::default()).unwrap();
    context
}

/// Calls between the functions, calls of the program near and far, addresses of functions, and
/// data: position-independent and not.
#[test]
fn compiled_functions_are_linked() {
    for (mode, pic) in modes().flat_map(|mode| [(mode, false), (mode, true)]) {
        let isa = isa(pic);
        let call = |namespace, index, colocated, plus: i64| {
            compile(&isa, move |function, argument| {
                let callee = callee(function, namespace, index, colocated);
                let called = function.ins().call(callee, &[argument]);
                let result = function.inst_results(called)[0];
                function.ins().iadd_imm_s(result, plus)
            })
        };
        let by_address = |namespace, index, colocated| {
            compile(&isa, move |function, argument| {
                let callee = callee(function, namespace, index, colocated);
                let address = function.ins().func_addr(types::I64, callee);
                let signature = function.func.dfg.ext_funcs[callee].signature;
                let called = function.ins().call_indirect(signature, address, &[argument]);
                function.inst_results(called)[0]
            })
        };
        let load = |colocated| {
            compile(&isa, move |function, argument| {
                let name = function.func.declare_imported_user_function(UserExternalName { namespace: DATA, index: 0 });
                let symbol =
                    GlobalValueData::Symbol { name: ExternalName::User(name), offset: 8.into(), colocated, tls: false };
                let symbol = function.create_global_value(symbol);
                let address = function.ins().symbol_value(types::I64, symbol);
                let flags = cranelift_codegen::ir::MemFlagsData::trusted();
                let value = function.ins().load(types::I64, flags, address, 0);
                function.ins().iadd(value, argument)
            })
        };
        let contexts = [
            // Forwards and backwards.
            call(OWN, 1, true, 100),
            call(PROGRAM, 0, true, 10),
            call(OWN, 0, false, 1),
            call(PROGRAM, 0, false, 1_000),
            by_address(OWN, 1, true),
            by_address(PROGRAM, 0, false),
            load(true),
            load(false),
        ];
        let arena = small(mode).build().unwrap();
        let table = arena.data(16, 8, DataAccess::ReadOnly, |_, bytes| {
            bytes[8..].copy_from_slice(&70_i64.to_ne_bytes());
        });
        let table = table.unwrap();
        let compiled: Vec<_> = contexts
            .iter()
            .zip(1..)
            .map(|(context, tag)| Compiled::new(context.compiled_code().unwrap(), &context.func).tag(tag).name("f"))
            .collect();
        let mut batch = arena.batch();
        batch.push(&crate::common::asm::constant(1)).unwrap();
        let slots = batch.push_compiled(&compiled, |name, slots| match name {
            Name::User(UserExternalName { namespace: OWN, index }) => Some(Target::Slot(slots[*index as usize])),
            Name::User(UserExternalName { namespace: PROGRAM, .. }) => Some(Target::Address(triple as *const u8)),
            Name::User(UserExternalName { namespace: DATA, .. }) => Some(Target::Data(&table)),
            _ => None,
        });
        let slots = slots.unwrap();
        assert_eq!(slots.iter().map(|slot| slot.index()).collect::<Vec<_>>(), (1..9).collect::<Vec<_>>());
        let blocks = batch.publish().unwrap();
        let results: Vec<i64> = slots
            .iter()
            .map(|slot| {
                // SAFETY: this is their type, and everything that they call is alive.
                unsafe { blocks[slot.index()].typed::<extern "C" fn(i64) -> i64>() }.call(5)
            })
            .collect();
        assert_eq!(results, [125, 25, 126, 1_015, 25, 15, 75, 75], "{mode:?}, position-independent: {pic}");
        assert!(slots.iter().zip(1..).all(|(slot, tag)| blocks[slot.index()].tag() == tag));
    }
}

#[test]
fn names_that_nobody_knows_are_said() {
    let isa = isa(false);
    let context = compile(&isa, |function, argument| {
        let callee = callee(function, 7, 9, true);
        let called = function.ins().call(callee, &[argument]);
        function.inst_results(called)[0]
    });
    let arena = small(gaia_jit::WxMode::Flip).build().unwrap();
    let mut batch = arena.batch();
    let compiled = Compiled::new(context.compiled_code().unwrap(), &context.func);
    match batch.push_compiled(&[compiled], |_, _| None) {
        Err(Error::Unsupported { why, .. }) => assert!(why.contains('7') && why.contains('9'), "{why}"),
        other => panic!("{other:?}"),
    }
    drop(batch);
    assert_eq!(arena.stats().batch_bytes, 0);
}
