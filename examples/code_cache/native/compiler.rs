//! The compiler of programs to objects, by Cranelift.

use cranelift_codegen::Context;
use cranelift_codegen::FinalizedMachReloc;
use cranelift_codegen::FinalizedRelocTarget;
use cranelift_codegen::binemit::Reloc as Kind;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{ExternalName, Function, UserExternalName, UserFuncName};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_frontend::FunctionBuilderContext;
use gaia_jit::Reloc;

use super::lower::{lower_call, lower_entry, lower_function};
use super::{Object, Piece, Relocation};
use crate::common::isa;
use crate::language::ast::Program;

/// A compiler of programs for this machine. Each thread has its own, which reuses its buffers.
pub(crate) struct Compiler {
    isa: OwnedTargetIsa,
    context: Context,
    builder_context: FunctionBuilderContext,
}

impl Compiler {
    /// Returns a compiler for the host. Fails if Cranelift does not support it.
    pub(crate) fn for_host() -> Result<Self, String> {
        Ok(Self { isa: isa::of_host()?, context: Context::new(), builder_context: FunctionBuilderContext::new() })
    }

    pub(crate) fn compile(&mut self, program: &Program) -> Result<Object, String> {
        let mut pieces = Vec::with_capacity(program.functions.len() + 1);
        for (index, function) in program.functions.iter().enumerate() {
            self.begin(index);
            lower_function(&mut self.context.func, &mut self.builder_context, &*self.isa, program, function);
            pieces.push(self.finish(format!("{}::{}", program.name.text, function.name.text))?);
        }
        self.begin(pieces.len());
        lower_entry(&mut self.context.func, &mut self.builder_context, &*self.isa, program);
        pieces.push(self.finish(format!("{}::(entry)", program.name.text))?);
        Ok(Object { pieces })
    }

    /// Compiles code that calls the host at an address, with its own arguments and the program.
    pub(crate) fn compile_call(&mut self, host: usize, program: &Program) -> Result<Piece, String> {
        self.begin(0);
        lower_call(&mut self.context.func, &mut self.builder_context, &*self.isa, host, program);
        self.finish(format!("{}::(interpreter)", program.name.text))
    }

    fn begin(&mut self, piece: usize) {
        self.context.clear();
        self.context.func.name = UserFuncName::user(0, piece as u32);
    }

    /// Compiles the function in the context.
    fn finish(&mut self, name: String) -> Result<Piece, String> {
        let compiled = self
            .context
            .compile(&*self.isa, &mut ControlPlane::default())
            .map_err(|error| format!("{name}: {}", error.inner))?;
        let bytes = compiled.code_buffer().to_vec();
        let align = compiled.buffer.alignment as usize;
        let found = compiled.buffer.relocs().to_vec();
        let relocations = found
            .iter()
            .map(|reloc| relocation(&self.context.func, reloc))
            .collect::<Result<_, _>>()
            .map_err(|error| format!("{name}: {error}"))?;
        Ok(Piece { name, bytes, align, relocations })
    }
}

/// Translates Cranelift's relocations to those of a batch.
fn relocation(function: &Function, reloc: &FinalizedMachReloc) -> Result<Relocation, String> {
    let kind = match reloc.kind {
        Kind::X86CallPCRel4 => Reloc::X86Call32,
        Kind::Arm64Call => Reloc::Arm64Call26,
        Kind::RiscvCallPlt => Reloc::RiscvCall,
        other => return Err(format!("relocations of kind {other} are not supported by this example")),
    };
    let FinalizedRelocTarget::ExternalName(ExternalName::User(name)) = reloc.target else {
        return Err(format!("calls something outside of the program: {:?}", reloc.target));
    };
    let UserExternalName { index, .. } = function.params.user_named_funcs()[name];
    Ok(Relocation { offset: reloc.offset as usize, kind, target: index as usize, addend: reloc.addend })
}
