//! A stand-in for the compiler, on architectures without a code generator in Cranelift. Cranelift
//! is not built there.

use super::Compiled;
use crate::query::Query;

pub(crate) enum Compiler {}

impl Compiler {
    pub(crate) fn for_host() -> Result<Self, String> {
        Err("Cranelift generates no code for this architecture".to_owned())
    }

    pub(crate) fn compile(&mut self, _query: &Query) -> Result<Compiled<'_>, String> {
        match *self {}
    }
}
