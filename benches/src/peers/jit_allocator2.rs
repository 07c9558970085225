//! jit-allocator2. Not trusted: its blocks overlap once it is fragmented, and with dual mapping it crashes under churn.

use anyhow::{Result, anyhow};
use jit_allocator2::{
    JitAllocator, JitAllocatorOptions, ProtectJitAccess, flush_instruction_cache, protect_jit_memory,
};

use super::Store;

pub const DUAL: &str = "jit-allocator2 dual";
pub const RWX: &str = "jit-allocator2 RWX";
pub const ALL: [&str; 2] = [DUAL, RWX];

pub struct Pool(Box<JitAllocator>);

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
    type Block = *const u8;

    fn publish(&mut self, code: &[u8]) -> Result<*const u8> {
        let (executable, writable) = self.0.alloc(code.len()).map_err(|e| anyhow!("alloc: {e:?}"))?;
        protect_jit_memory(ProtectJitAccess::ReadWrite);
        // SAFETY: as many bytes were just allocated, and `code` is elsewhere. (Where the allocator breaks that promise
        // this process is the one to die: it runs this peer alone.)
        unsafe { writable.copy_from_nonoverlapping(code.as_ptr(), code.len()) };
        protect_jit_memory(ProtectJitAccess::ReadExecute);
        flush_instruction_cache(executable, code.len());
        Ok(executable)
    }

    fn retire(&mut self, block: *const u8) -> Result<()> {
        // SAFETY: allocated by `publish`, released once.
        unsafe { self.0.release(block) }.map_err(|e| anyhow!("release: {e:?}"))
    }

    fn address(&self, block: &*const u8) -> *const u8 {
        *block
    }
}
