//! cranelift-jit's memory providers, driven as its `JITModule` drives them: allocate for each
//! function, finalize for each batch. They cannot drop a function.

use anyhow::{Result, anyhow};
use cranelift_jit::{ArenaMemoryProvider, BranchProtection, JITMemoryKind, JITMemoryProvider, SystemMemoryProvider};

use super::{BATCH, Bulk};

pub const SYSTEM: &str = "cranelift-jit System";
pub const ARENA: &str = "cranelift-jit Arena";

/// What `cranelift-jit` asks for on x86-64.
const ALIGN: u64 = 16;

pub struct Loader<P: JITMemoryProvider>(P);

pub fn system() -> Loader<SystemMemoryProvider> {
    Loader(SystemMemoryProvider::new())
}

pub fn arena(capacity: usize) -> Result<Loader<ArenaMemoryProvider>> {
    Ok(Loader(ArenaMemoryProvider::new_with_size(capacity)?))
}

impl<P: JITMemoryProvider> Bulk for Loader<P> {
    fn load(&mut self, sizes: &[u16], source: &[u8]) -> Result<()> {
        for batch in sizes.chunks(BATCH) {
            for &size in batch {
                let size = usize::from(size);
                let to = self.0.allocate(size, ALIGN, JITMemoryKind::Executable)?;
                // SAFETY: `size` bytes just allocated, writable until finalized, and `source` is
                // elsewhere.
                unsafe { to.copy_from_nonoverlapping(source[..size].as_ptr(), size) };
            }
            self.0.finalize(BranchProtection::None).map_err(|e| anyhow!("{e}"))?;
        }
        Ok(())
    }

    fn empty(&mut self) -> Result<()> {
        // SAFETY: nobody runs the functions.
        unsafe { self.0.free_memory() };
        Ok(())
    }
}
