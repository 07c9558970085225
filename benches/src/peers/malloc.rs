//! malloc + memcpy + free: what it costs to keep bytes that need not be executable.

use std::ptr::NonNull;

use anyhow::{Context, Result};

use super::Store;

pub const GLIBC: &str = "malloc (glibc)";
pub const MIMALLOC: &str = "malloc (mimalloc)";

#[derive(Clone, Copy, Debug, Default)]
pub struct Glibc;

#[derive(Clone, Copy, Debug, Default)]
pub struct Mimalloc;

/// A block of either.
#[derive(Debug)]
pub struct Block(NonNull<u8>);

// SAFETY: memory of these allocators may be used and freed by any thread.
unsafe impl Send for Block {}

fn filled(memory: *mut libc::c_void, code: &[u8]) -> Result<Block> {
    let block = NonNull::new(memory.cast::<u8>()).context("out of memory")?;
    // SAFETY: as many bytes were just allocated, and `code` is elsewhere.
    unsafe { block.copy_from_nonoverlapping(NonNull::from(code).cast(), code.len()) };
    Ok(Block(block))
}

impl Store for Glibc {
    type Block = Block;

    #[inline]
    fn publish(&mut self, code: &[u8]) -> Result<Block> {
        // SAFETY: any size will do.
        filled(unsafe { libc::malloc(code.len()) }, code)
    }

    #[inline]
    fn retire(&mut self, block: Block) -> Result<()> {
        // SAFETY: from `malloc`, freed once.
        unsafe { libc::free(block.0.as_ptr().cast()) };
        Ok(())
    }

    fn address(&self, block: &Block) -> *const u8 {
        block.0.as_ptr()
    }
}

impl Store for Mimalloc {
    type Block = Block;

    #[inline]
    fn publish(&mut self, code: &[u8]) -> Result<Block> {
        // SAFETY: any size will do.
        filled(unsafe { libmimalloc_sys::mi_malloc(code.len()) }.cast(), code)
    }

    #[inline]
    fn retire(&mut self, block: Block) -> Result<()> {
        // SAFETY: from `mi_malloc`, freed once.
        unsafe { libmimalloc_sys::mi_free(block.0.as_ptr().cast()) };
        Ok(())
    }

    fn address(&self, block: &Block) -> *const u8 {
        block.0.as_ptr()
    }
}
