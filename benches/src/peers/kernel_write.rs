//! The floor of packing single functions in `Flip`: one kernel write each, into executable memory,
//! nothing else.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

use super::Store;
use super::floors::{Mapping, READ_EXECUTE};

pub const NAME: &str = "floor: kernel write alone";

pub struct KernelWrites {
    file: File,
    memory: Mapping,
    len: usize,
    next: usize,
}

impl KernelWrites {
    pub fn new(len: usize) -> Result<Self> {
        let file = File::options().write(true).open("/proc/self/mem").context("opening /proc/self/mem")?;
        Ok(Self { file, memory: Mapping::new(len, READ_EXECUTE)?, len, next: 0 })
    }
}

impl Store for KernelWrites {
    type Block = *const u8;

    fn publish(&mut self, code: &[u8]) -> Result<*const u8> {
        if self.next + code.len() > self.len {
            self.next = 0;
        }
        let at = self.memory.as_ptr().wrapping_add(self.next);
        self.file.write_all_at(code, at.addr() as u64)?;
        self.next += code.len().next_multiple_of(16);
        Ok(at)
    }

    fn retire(&mut self, _: *const u8) -> Result<()> {
        Ok(())
    }

    fn address(&self, block: &*const u8) -> *const u8 {
        *block
    }
}
