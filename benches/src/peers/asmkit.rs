//! asmkit-rs, its port of asmjit's `JitAllocator`.

use anyhow::{Result, anyhow};
use asmkit::{JitAllocator, JitAllocatorOptions, Span};

use super::Store;

pub const DUAL: &str = "asmkit dual";
pub const RWX: &str = "asmkit RWX";
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

    /// The block that holds an address.
    pub fn query(&self, address: *const u8) -> Result<Span> {
        self.0.query(address).map_err(|e| anyhow!("query: {e:?}"))
    }
}

impl Store for Pool {
    type Block = Span;

    fn publish(&mut self, code: &[u8]) -> Result<Span> {
        let mut span = self.0.alloc(code.len()).map_err(|e| anyhow!("alloc: {e:?}"))?;
        // SAFETY: just allocated by this allocator, and nobody runs it yet.
        unsafe { self.0.copy_from_slice(&mut span, 0, code) }.map_err(|e| anyhow!("copy: {e:?}"))?;
        Ok(span)
    }

    fn retire(&mut self, block: Span) -> Result<()> {
        // SAFETY: allocated by `publish`, released once.
        unsafe { self.0.release(block.rx()) }.map_err(|e| anyhow!("release: {e:?}"))
    }

    fn address(&self, block: &Span) -> *const u8 {
        block.rx()
    }
}
