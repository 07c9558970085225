//! A stand-in for the compiler, on architectures without a code generator in Cranelift. Cranelift
//! is not built there.

use super::{Object, Piece};
use crate::language::ast::Program;

pub(crate) enum Compiler {}

impl Compiler {
    pub(crate) fn for_host() -> Result<Self, String> {
        Err("Cranelift generates no code for this architecture".to_owned())
    }

    pub(crate) fn compile(&mut self, _program: &Program) -> Result<Object, String> {
        match *self {}
    }

    pub(crate) fn compile_call(&mut self, _host: usize, _program: &Program) -> Result<Piece, String> {
        match *self {}
    }
}
