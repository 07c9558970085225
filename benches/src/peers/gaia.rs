//! This crate.

use anyhow::Result;
use gaia_jit::{ArenaBuilder, CodeArena, CodeBlock, WxMode};

use super::{BATCH, Bulk, Store};

/// Room for `functions` of the uniform sizes, with as much again for holes.
pub fn capacity_for(functions: usize) -> usize {
    (functions * 1100).next_multiple_of(2 << 20).max(16 << 20)
}

pub fn builder(mode: WxMode, huge_pages: bool, functions: usize) -> ArenaBuilder {
    CodeArena::builder().mode(mode).huge_pages(huge_pages).capacity(capacity_for(functions))
}

/// `gaia-jit Flip`, `gaia-jit DualMap huge`, and so on.
pub fn name(mode: WxMode, huge_pages: bool) -> String {
    format!("gaia-jit {mode:?}{}", if huge_pages { " huge" } else { "" })
}

/// Whether a peer's name is one of ours.
pub fn is_ours(peer: &str) -> bool {
    peer.starts_with("gaia-jit ") && !peer.starts_with("gaia-jit 0.1")
}

/// An arena as a [`Store`], and whether it uses huge pages; a handle.
#[derive(Clone)]
pub struct Arena(pub CodeArena, pub bool);

impl Arena {
    pub fn new(mode: WxMode, huge_pages: bool, functions: usize) -> Result<Self> {
        Ok(Self(builder(mode, huge_pages, functions).build()?, huge_pages))
    }
}

impl Store for Arena {
    type Block = CodeBlock;

    #[inline]
    fn publish(&mut self, code: &[u8]) -> Result<CodeBlock> {
        Ok(self.0.publish(code)?)
    }

    #[inline]
    fn retire(&mut self, block: CodeBlock) -> Result<()> {
        drop(block);
        Ok(())
    }

    fn address(&self, block: &CodeBlock) -> *const u8 {
        block.as_ptr()
    }

    fn fill(&mut self, sizes: &[u16], source: &[u8]) -> Result<Vec<CodeBlock>> {
        let mut blocks = Vec::with_capacity(sizes.len());
        publish_in_batches(&self.0, sizes, source, BATCH, &mut blocks)?;
        Ok(blocks)
    }

    fn tidy(&mut self) -> Result<()> {
        if self.1 {
            self.0.collapse()?;
        }
        Ok(())
    }
}

/// Publishes in batches of `batch` functions.
pub fn publish_in_batches(
    arena: &CodeArena,
    sizes: &[u16],
    source: &[u8],
    batch: usize,
    blocks: &mut Vec<CodeBlock>,
) -> Result<()> {
    for sizes in sizes.chunks(batch) {
        let mut open = arena.batch();
        for &size in sizes {
            open.push(&source[..usize::from(size)])?;
        }
        blocks.extend(open.publish()?);
    }
    Ok(())
}

/// An arena loaded in batches.
pub struct Loader {
    arena: CodeArena,
    blocks: Vec<CodeBlock>,
}

impl Loader {
    pub fn new(arena: CodeArena) -> Self {
        Self { arena, blocks: Vec::new() }
    }

    pub fn arena(&self) -> &CodeArena {
        &self.arena
    }
}

impl Bulk for Loader {
    fn load(&mut self, sizes: &[u16], source: &[u8]) -> Result<()> {
        self.blocks.reserve(sizes.len());
        publish_in_batches(&self.arena, sizes, source, BATCH, &mut self.blocks)
    }

    fn empty(&mut self) -> Result<()> {
        self.blocks.clear();
        Ok(())
    }
}
