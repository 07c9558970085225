//! jit-allocator2. Not trusted: its blocks overlap once it is fragmented, and then it panics or
//! crashes.

use anyhow::{Result, anyhow};
use jit_allocator2::{
    JitAllocator, JitAllocatorOptions, ProtectJitAccess, flush_instruction_cache, protect_jit_memory,
};

use super::Store;

pub const DUAL: &str = "jit-allocator2 dual";
pub const RWX: &str = "jit-allocator2 RWX";
pub const ALL: [&str; 2] = [DUAL, RWX];

pub struct Pool(Box<JitAllocator>);

/// The executable address of a block of a pool.
#[derive(Clone, Copy, Debug)]
pub struct Block(*const u8);

impl Pool {
    /// By its name, [`DUAL`] or [`RWX`].
    pub fn new(name: &str) -> Self {
        let options = JitAllocatorOptions {
            use_dual_mapping: name == DUAL,
            fill_unused_memory: false,
            ..JitAllocatorOptions::default()
        };
        Self(JitAllocator::new(options))
    }
}

impl Store for Pool {
    type Block = Block;

    fn publish(&mut self, code: &[u8]) -> Result<Block> {
        let (executable, writable) = self.0.alloc(code.len()).map_err(|e| anyhow!("alloc: {e:?}"))?;
        protect_jit_memory(ProtectJitAccess::ReadWrite);
        // SAFETY: as many bytes were just allocated, and `code` is elsewhere. (Where the allocator
        // breaks that promise this process is the one to die: it runs this peer alone.)
        unsafe { writable.copy_from_nonoverlapping(code.as_ptr(), code.len()) };
        protect_jit_memory(ProtectJitAccess::ReadExecute);
        flush_instruction_cache(executable, code.len());
        Ok(Block(executable))
    }

    fn retire(&mut self, block: Block) -> Result<()> {
        // SAFETY: allocated by `publish`, released once.
        unsafe { self.0.release(block.0) }.map_err(|e| anyhow!("release: {e:?}"))
    }

    fn address(&self, block: &Block) -> *const u8 {
        block.0
    }
}
