// First, so that its definitions of links count here, and not those of the README, which lead to
// files.
#![doc = include_str!("../docs/front.md")]
#![doc = include_str!("../README.md")]
#![cfg_attr(any(test, fuzzing), allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

// The integration tests' helpers serve the tests within as well.
#[cfg(all(any(test, fuzzing), not(loom)))]
extern crate self as gaia_jit;

mod arena;
#[cfg(all(feature = "cache", not(loom)))]
pub mod cache;
#[cfg(feature = "cranelift")]
pub mod cranelift;
mod entry;
mod error;
mod icache;
mod jit_memory;
mod lazy;
mod link;
mod modes;
#[cfg(all(any(feature = "perf", feature = "gdb", feature = "tracing", feature = "vtune"), not(loom)))]
pub mod observe;
mod redirect;
mod region;
mod reloc;
mod space;
mod sync;
mod sys;
#[cfg_attr(loom, path = "table_loom.rs")]
mod table;
#[cfg(all(any(test, fuzzing), not(loom)))]
mod tests;
mod units;
#[cfg(feature = "unwind")]
pub mod unwind;

#[doc = include_str!("../docs/guide.md")]
pub mod guide {}

#[doc = include_str!("../docs/modes.md")]
pub mod wx_modes {}

#[doc = include_str!("../docs/promises.md")]
pub mod promises {}

#[doc = include_str!("../docs/performance.md")]
pub mod performance {}

#[doc = include_str!("../docs/platforms.md")]
pub mod platforms {}

#[doc = include_str!("../CHANGELOG.md")]
pub mod changelog {}

#[doc = include_str!("../docs/assemblers.md")]
#[doc = "\n## dynasm-rs\n\n```rust,ignore"]
#[doc = include_str!("../docs/assemblers/dynasm_rs.rs")]
#[doc = "```"]
#[doc = "\n## iced-x86\n\n```rust,ignore"]
#[doc = include_str!("../docs/assemblers/iced_x86.rs")]
#[doc = "```"]
#[doc = "\n## gaia-assembler\n\n```rust,ignore"]
#[doc = include_str!("../docs/assemblers/gaia_assembler.rs")]
#[doc = "```"]
#[doc = "\n## closure-ffi\n\n```rust,ignore"]
#[doc = include_str!("../docs/assemblers/closure_ffi.rs")]
#[doc = "```"]
pub mod assemblers {}

#[doc = include_str!("../docs/migration.md")]
pub mod migration {}

#[doc = include_str!("../docs/design.md")]
pub mod design {}

#[doc = include_str!("../docs/security.md")]
pub mod security {}

#[doc = include_str!("../docs/needs.md")]
pub mod needs {}

pub use arena::{
    ArenaBuilder, Batch, BlockInfo, Blocks, Code, CodeArena, CodeBlock, DataAccess, DataBlock, DataSlot, GivenCopy,
    GivenMemory, GivenWriter, Guard, Hole, Map, Observer, PageUse, Published, Reservation, Reserve, Slot, Stats, Typed,
    Unfilled, UnwindInfo, WeakArena, Word, WxMode,
};
pub use error::Error;
pub use jit_memory::JitMemory;
pub use lazy::LazyArena;
pub use link::Target;
pub use redirect::Redirect;
pub use reloc::{Misfit, Reloc};
#[cfg(fuzzing)]
#[doc(hidden)]
pub use tests::model as fuzzing;
