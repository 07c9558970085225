#![doc = include_str!("../README.md")]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod arena;
mod entry;
mod error;
mod icache;
mod jit_memory;
mod region;
mod space;
mod sync;
mod sys;
mod table;
#[cfg(test)]
mod tests;
mod units;

#[doc = include_str!("../docs/design.md")]
pub mod design {}

#[doc = include_str!("../docs/security.md")]
pub mod security {}

pub use arena::{
    ArenaBuilder, Batch, BlockInfo, Code, CodeArena, CodeBlock, Guard, Observer, Occupancy, PageUse, Slot, Stats,
    WxMode,
};
pub use error::Error;
pub use jit_memory::JitMemory;
