//! The peers: for each kind of work a small trait, and for each peer a file.

pub mod asmkit;
pub mod churner;
pub mod cranelift;
pub mod dynasm;
pub mod epoch;
pub mod floors;
pub mod gaia;
pub mod gaia01;
pub mod jit_allocator2;
pub mod kernel_write;
pub mod malloc;
pub mod single;
pub mod verify;

use anyhow::Result;

/// Functions in a batch of the bulk work.
pub const BATCH: usize = 1024;

/// Memory into which functions are published one at a time, and from which they are dropped one at
/// a time.
pub trait Store {
    type Block;

    fn publish(&mut self, code: &[u8]) -> Result<Self::Block>;

    fn retire(&mut self, block: Self::Block) -> Result<()>;

    /// Where the block's code is.
    fn address(&self, block: &Self::Block) -> *const u8;

    /// Publishes many to begin with, in the way that is best for this peer.
    fn fill(&mut self, sizes: &[u16], source: &[u8]) -> Result<Vec<Self::Block>> {
        sizes.iter().map(|&size| self.publish(&source[..usize::from(size)])).collect()
    }

    /// Puts what was published in order, at a quiet moment, if the peer has a way to.
    fn tidy(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Memory into which many functions are loaded at once.
pub trait Bulk {
    /// Publishes a function of each size, in batches of [`BATCH`] where the peer has batches. The
    /// measured part.
    fn load(&mut self, sizes: &[u16], source: &[u8]) -> Result<()>;

    /// Gives everything back, ready for the next round.
    fn empty(&mut self) -> Result<()>;
}

/// Bulk work with a peer that has no batches.
pub struct OneByOne<S: Store> {
    store: S,
    kept: Vec<S::Block>,
}

impl<S: Store> OneByOne<S> {
    pub fn new(store: S) -> Self {
        Self { store, kept: Vec::new() }
    }
}

impl<S: Store> Bulk for OneByOne<S> {
    fn load(&mut self, sizes: &[u16], source: &[u8]) -> Result<()> {
        self.kept.reserve(sizes.len());
        for &size in sizes {
            self.kept.push(self.store.publish(&source[..usize::from(size)])?);
        }
        Ok(())
    }

    fn empty(&mut self) -> Result<()> {
        self.kept.drain(..).try_for_each(|block| self.store.retire(block))
    }
}

/// Bulk work for which everything is made anew in each round, inside the measured part.
pub struct Fresh<B, F: FnMut() -> Result<B>> {
    make: F,
    made: Option<B>,
}

impl<B: Bulk, F: FnMut() -> Result<B>> Fresh<B, F> {
    pub fn new(make: F) -> Self {
        Self { make, made: None }
    }
}

impl<B: Bulk, F: FnMut() -> Result<B>> Bulk for Fresh<B, F> {
    fn load(&mut self, sizes: &[u16], source: &[u8]) -> Result<()> {
        self.made.insert((self.make)()?).load(sizes, source)
    }

    fn empty(&mut self) -> Result<()> {
        self.made.take().map_or(Ok(()), |mut made| made.empty())
    }
}
