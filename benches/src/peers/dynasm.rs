//! dynasm-rs, an `ExecutableBuffer` for each function.

use anyhow::Result;
use dynasmrt::mmap::{ExecutableBuffer, MutableBuffer};

use super::Store;

pub const NAME: &str = "dynasmrt";

#[derive(Clone, Copy, Debug, Default)]
pub struct PerFunction;

impl Store for PerFunction {
    type Block = ExecutableBuffer;

    fn publish(&mut self, code: &[u8]) -> Result<ExecutableBuffer> {
        let mut buffer = MutableBuffer::new(code.len())?;
        buffer.set_len(code.len());
        buffer.copy_from_slice(code);
        Ok(buffer.make_exec()?)
    }

    fn retire(&mut self, block: ExecutableBuffer) -> Result<()> {
        drop(block);
        Ok(())
    }

    fn address(&self, block: &ExecutableBuffer) -> *const u8 {
        block.as_ptr()
    }
}
