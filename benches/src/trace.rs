//! Seeded traces: the same sizes, victims and orders for every peer, in every run.

/// The smallest function of the uniform sizes.
pub const MIN_SIZE: usize = 8;
/// The largest.
pub const MAX_SIZE: usize = 1031;

/// SplitMix64: small, seeded, good enough to shuffle with.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// Uniform in `MIN_SIZE..=MAX_SIZE`.
    pub fn size(&mut self) -> u16 {
        (MIN_SIZE + self.below(MAX_SIZE - MIN_SIZE + 1)) as u16
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// `count` sizes, uniform.
pub fn sizes(count: usize, seed: u64) -> Vec<u16> {
    let mut rng = Rng::new(seed);
    (0..count).map(|_| rng.size()).collect()
}

/// One step of churn: drop the block at `victim`, publish one of `size` bytes in its place.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub victim: u32,
    pub size: u16,
}

/// An endless trace of churn over `live` blocks, generated round by round outside the measured
/// part.
#[derive(Clone, Debug)]
pub struct Churn {
    rng: Rng,
    live: usize,
}

impl Churn {
    pub fn new(live: usize, seed: u64) -> Self {
        Self { rng: Rng::new(seed), live }
    }

    pub fn steps(&mut self, count: usize) -> Vec<Step> {
        (0..count).map(|_| Step { victim: self.rng.below(self.live) as u32, size: self.rng.size() }).collect()
    }
}

/// In which order blocks are dropped, against the order of their publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Fifo,
    Lifo,
}

impl Order {
    pub fn name(self) -> &'static str {
        match self {
            Self::Fifo => "FIFO",
            Self::Lifo => "LIFO",
        }
    }
}
