//! The translation of the syntax tree to Cranelift's intermediate representation.
//!
//! | function | what it makes |
//! |---|---|
//! | `lower_function` | a function of the program |
//! | `lower_entry` | the trampoline from the host, which loads the arguments from a list |
//! | `lower_call` | a call of the interpreter, for a program that is not compiled yet |
//!
//! Every function takes the machine's address before its own parameters, in the host's C calling
//! convention. A function of the program pays a step and a level of depth at its start, and returns
//! 0 if it cannot. Each return restores the depth. Each test of a loop pays a step.
//!
//! Calls name their function by index, so code has no address of another function. Only
//! `lower_call` contains addresses. Statements report their `Flow`, because in Cranelift no
//! instruction may follow a return in its block.

mod expression;

use std::mem::offset_of;

use cranelift_codegen::ir::{
    AbiParam, Block, ExtFuncData, ExternalName, FuncRef, Function as Code, InstBuilder, MemFlagsData, Signature,
    UserExternalName, Value, types::I64,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};

use crate::language::ast::{Expr, Function, Program, Statement};
use crate::language::machine::Machine;

const STEPS: i32 = offset_of!(Machine, steps) as i32;
const DEPTH: i32 = offset_of!(Machine, depth) as i32;
const MEMORY: i32 = offset_of!(Machine, memory) as i32;

/// Returns the signature of a function with a number of `i64` parameters, including the machine's
/// address.
fn signature(isa: &dyn TargetIsa, parameters: usize) -> Signature {
    let mut signature = Signature::new(isa.default_call_conv());
    signature.params.push(AbiParam::new(isa.pointer_type()));
    signature.params.extend((1..parameters).map(|_| AbiParam::new(I64)));
    signature.returns.push(AbiParam::new(I64));
    signature
}

/// Names a function of the same program, so that it can be called.
fn import(builder: &mut FunctionBuilder<'_>, isa: &dyn TargetIsa, program: &Program, index: usize) -> FuncRef {
    let parameters = program.functions[index].parameters.len() + 1;
    let signature = builder.import_signature(signature(isa, parameters));
    let name = builder.func.declare_imported_user_function(UserExternalName::new(0, index as u32));
    // Colocated means: within reach of a direct call. An arena promises this for all its blocks.
    builder.import_function(ExtFuncData {
        name: ExternalName::user(name),
        signature,
        colocated: true,
        patchable: false,
    })
}

/// Lowers the trampoline, an `Entry`. It takes the arguments from memory, so that the host needs
/// one type for all programs.
pub(super) fn lower_entry(
    code: &mut Code,
    context: &mut FunctionBuilderContext,
    isa: &dyn TargetIsa,
    program: &Program,
) {
    let (mut builder, machine, list) = begin_entry(code, context, isa);
    let mut arguments = vec![machine];
    for index in 0..program.functions[program.entry].parameters.len() {
        arguments.push(builder.ins().load(I64, MemFlagsData::trusted(), list, index as i32 * 8));
    }
    let callee = import(&mut builder, isa, program, program.entry);
    let call = builder.ins().call(callee, &arguments);
    let result = builder.inst_results(call)[0];
    builder.ins().return_(&[result]);
    builder.finalize(isa.frontend_config());
}

/// Lowers a call of the host function with the machine, the arguments and the address of the
/// program.
pub(super) fn lower_call(
    code: &mut Code,
    context: &mut FunctionBuilderContext,
    isa: &dyn TargetIsa,
    host: usize,
    program: &Program,
) {
    let (mut builder, machine, list) = begin_entry(code, context, isa);
    let pointer = isa.pointer_type();
    let mut host_signature = builder.func.signature.clone();
    host_signature.params.push(AbiParam::new(pointer));
    let host_signature = builder.import_signature(host_signature);
    let host = builder.ins().iconst(pointer, host as i64);
    let program = builder.ins().iconst(pointer, (&raw const *program).addr() as i64);
    let call = builder.ins().call_indirect(host_signature, host, &[machine, list, program]);
    let result = builder.inst_results(call)[0];
    builder.ins().return_(&[result]);
    builder.finalize(isa.frontend_config());
}

/// Begins a function of the type [`Entry`](crate::native::Entry). Returns its parameters: the
/// machine and the list of arguments.
fn begin_entry<'a>(
    code: &'a mut Code,
    context: &'a mut FunctionBuilderContext,
    isa: &dyn TargetIsa,
) -> (FunctionBuilder<'a>, Value, Value) {
    code.signature = signature(isa, 1);
    code.signature.params.push(AbiParam::new(isa.pointer_type()));
    let mut builder = FunctionBuilder::new(code, context);
    let block = builder.create_block();
    builder.append_block_params_for_function_params(block);
    builder.switch_to_block(block);
    builder.seal_block(block);
    let (machine, list) = (builder.block_params(block)[0], builder.block_params(block)[1]);
    (builder, machine, list)
}

pub(super) fn lower_function(
    code: &mut Code,
    context: &mut FunctionBuilderContext,
    isa: &dyn TargetIsa,
    program: &Program,
    function: &Function,
) {
    code.signature = signature(isa, function.parameters.len() + 1);
    let mut builder = FunctionBuilder::new(code, context);
    let block = builder.create_block();
    builder.append_block_params_for_function_params(block);
    builder.switch_to_block(block);
    builder.seal_block(block);
    let parameters = builder.block_params(block).to_vec();
    let locals: Vec<_> = (0..function.locals).map(|_| builder.declare_var(I64)).collect();
    for (local, value) in locals.iter().zip(&parameters[1..]) {
        builder.def_var(*local, *value);
    }
    let callees = vec![None; program.functions.len()];
    let mut lowering =
        Lowering { builder, isa, program, machine: parameters[0], depth: parameters[0], locals, callees };
    lowering.enter();
    if lowering.block(&function.body) == Flow::Next {
        let zero = lowering.number(0);
        lowering.leave(zero);
    }
    lowering.builder.finalize(isa.frontend_config());
}

/// The information whether the code after a statement can be reached from it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Returned,
}

/// A function that is being lowered.
struct Lowering<'a> {
    builder: FunctionBuilder<'a>,
    isa: &'a dyn TargetIsa,
    program: &'a Program,
    machine: Value,
    /// The remaining depth when the function was called.
    depth: Value,
    locals: Vec<Variable>,
    /// The functions of the program that were named before.
    callees: Vec<Option<FuncRef>>,
}

impl Lowering<'_> {
    /// Emits the payment for the call. The function returns 0 if the call cannot be paid.
    fn enter(&mut self) {
        let steps = self.field(STEPS);
        self.depth = self.field(DEPTH);
        // Neither number is negative, so the smaller one is zero if either is.
        let smaller = self.builder.ins().umin(steps, self.depth);
        let (refused, entered) = (self.builder.create_block(), self.builder.create_block());
        self.builder.set_cold_block(refused);
        self.branch(smaller, entered, refused);
        self.begin(refused);
        let zero = self.number(0);
        self.builder.ins().return_(&[zero]);
        self.begin(entered);
        self.decrement(STEPS, steps);
        self.decrement(DEPTH, self.depth);
    }

    fn leave(&mut self, result: Value) {
        self.set_field(DEPTH, self.depth);
        self.builder.ins().return_(&[result]);
    }

    fn block(&mut self, statements: &[Statement]) -> Flow {
        for statement in statements {
            if self.statement(statement) == Flow::Returned {
                // The code that follows cannot be reached.
                return Flow::Returned;
            }
        }
        Flow::Next
    }

    fn statement(&mut self, statement: &Statement) -> Flow {
        match statement {
            Statement::Let(name, value) | Statement::Assign(name, value) => {
                let value = self.value(value);
                self.builder.def_var(self.locals[name.index], value);
            }
            Statement::Store { index, value } => {
                let word = self.word(index);
                let value = self.value(value);
                self.builder.ins().store(MemFlagsData::trusted(), value, word, MEMORY);
            }
            Statement::If { condition, then, otherwise } => return self.lower_if(condition, then, otherwise),
            Statement::While { condition, body } => self.lower_while(condition, body),
            Statement::Return(value) => {
                let value = self.value(value);
                self.leave(value);
                return Flow::Returned;
            }
            Statement::Evaluate(value) => {
                self.value(value);
            }
        }
        Flow::Next
    }

    fn lower_if(&mut self, condition: &Expr, then: &[Statement], otherwise: &[Statement]) -> Flow {
        let condition = self.value(condition);
        let [then_block, else_block, after] = [(); 3].map(|()| self.builder.create_block());
        self.branch(condition, then_block, else_block);
        let mut flow = Flow::Returned;
        for (block, statements) in [(then_block, then), (else_block, otherwise)] {
            self.begin(block);
            if self.block(statements) == Flow::Next {
                self.builder.ins().jump(after, &[]);
                flow = Flow::Next;
            }
        }
        if flow == Flow::Next {
            self.begin(after);
        }
        flow
    }

    fn lower_while(&mut self, condition: &Expr, body: &[Statement]) {
        let [header, test, body_block, after] = [(); 4].map(|()| self.builder.create_block());
        self.builder.ins().jump(header, &[]);
        // Not sealed yet, because the end of the body jumps here as well.
        self.builder.switch_to_block(header);
        let steps = self.field(STEPS);
        self.branch(steps, test, after);
        self.begin(test);
        self.decrement(STEPS, steps);
        let condition = self.value(condition);
        self.branch(condition, body_block, after);
        self.begin(body_block);
        if self.block(body) == Flow::Next {
            self.builder.ins().jump(header, &[]);
        }
        self.builder.seal_block(header);
        self.begin(after);
    }

    fn branch(&mut self, condition: Value, then: Block, otherwise: Block) {
        self.builder.ins().brif(condition, then, &[], otherwise, &[]);
    }

    /// Continues in a block to which nothing jumps from now on.
    fn begin(&mut self, block: Block) {
        self.builder.switch_to_block(block);
        self.builder.seal_block(block);
    }

    fn field(&mut self, offset: i32) -> Value {
        self.builder.ins().load(I64, MemFlagsData::trusted(), self.machine, offset)
    }

    fn set_field(&mut self, offset: i32, value: Value) {
        self.builder.ins().store(MemFlagsData::trusted(), value, self.machine, offset);
    }

    fn decrement(&mut self, offset: i32, value: Value) {
        let one = self.number(1);
        let less = self.builder.ins().isub(value, one);
        self.set_field(offset, less);
    }
}
