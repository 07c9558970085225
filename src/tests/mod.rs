//! Tests that need to see inside: refused and counted system calls, and programs of operations
//! against plain models. The models serve the fuzzer too (`cfg(fuzzing)`, see `fuzz/`).

#[path = "../../tests/common/mod.rs"]
pub(crate) mod common;
#[cfg(test)]
mod data;
pub(crate) mod faulty;
#[cfg(all(test, feature = "cranelift"))]
mod given;
#[cfg(all(test, feature = "cranelift"))]
mod in_place;
#[cfg(test)]
mod late;
pub mod model;
#[cfg(test)]
mod random;
#[cfg(test)]
mod refusals;

use crate::sys::{Native, Os};
use crate::{CodeArena, WxMode};

/// Whether memory of empty pages goes back to the system before the arena does.
fn gives_back(arena: &CodeArena) -> bool {
    arena.mode() != WxMode::DualMap || Native.returns_shared()
}
