//! gaia-jit 0.1.1, a `JitMemory` for each function.

use anyhow::Result;
use gaia_jit_01::JitMemory;

use super::Store;

pub const NAME: &str = "gaia-jit 0.1.1";

#[derive(Clone, Copy, Debug, Default)]
pub struct PerFunction;

impl Store for PerFunction {
    type Block = JitMemory;

    fn publish(&mut self, code: &[u8]) -> Result<JitMemory> {
        let mut block = JitMemory::new(code.len())?;
        block.write(code)?;
        block.make_executable()?;
        Ok(block)
    }

    fn retire(&mut self, block: JitMemory) -> Result<()> {
        drop(block);
        Ok(())
    }

    fn address(&self, block: &JitMemory) -> *const u8 {
        block.as_slice().as_ptr()
    }
}
