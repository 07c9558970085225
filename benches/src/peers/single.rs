//! One block for one piece of code: what `JitMemory` does, old and new.

use anyhow::Result;

/// Memory that is written to, made executable, and written to again.
pub trait Single: Sized {
    fn new(capacity: usize) -> Result<Self>;
    fn write(&mut self, code: &[u8]) -> Result<()>;
    fn make_executable(&mut self) -> Result<*const u8>;
}

impl Single for gaia_jit::JitMemory {
    fn new(capacity: usize) -> Result<Self> {
        Ok(Self::new(capacity)?)
    }

    fn write(&mut self, code: &[u8]) -> Result<()> {
        self.write(code)?;
        Ok(())
    }

    fn make_executable(&mut self) -> Result<*const u8> {
        Ok(self.make_executable()?)
    }
}

impl Single for gaia_jit_01::JitMemory {
    fn new(capacity: usize) -> Result<Self> {
        Ok(Self::new(capacity)?)
    }

    fn write(&mut self, code: &[u8]) -> Result<()> {
        Ok(self.write(code)?)
    }

    fn make_executable(&mut self) -> Result<*const u8> {
        Ok(Self::make_executable(self)?)
    }
}
