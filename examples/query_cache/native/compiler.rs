//! The compiler of queries to bytes, by Cranelift.

use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_frontend::FunctionBuilderContext;

use super::Compiled;
use super::lower::lower;
use crate::common::isa;
use crate::query::Query;

/// A compiler of queries for this machine. Each thread has its own, which reuses its buffers.
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

    pub(crate) fn compile(&mut self, query: &Query) -> Result<Compiled<'_>, String> {
        self.context.clear();
        lower(&mut self.context.func, &mut self.builder_context, &*self.isa, query);
        let compiled =
            self.context.compile(&*self.isa, &mut ControlPlane::default()).map_err(|error| error.inner.to_string())?;
        // Constants lie behind the code, and nothing is called, so nothing has to be linked.
        match compiled.buffer.relocs() {
            [] => Ok(Compiled { bytes: compiled.code_buffer(), align: compiled.buffer.alignment as usize }),
            [reloc, ..] => Err(format!("a relocation of kind {} is not supported by this example", reloc.kind)),
        }
    }
}
