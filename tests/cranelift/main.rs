//! Tests of Cranelift's modules in an arena: what `cranelift-jit` documents and tests of its own
//! providers, and what an arena adds.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x"))]

mod clif;
#[path = "../common/mod.rs"]
mod common;
#[cfg(not(any(loom, reduced, target_arch = "s390x")))]
mod compiled;

mod added;
mod documented;
mod memory;

use common::small;
use gaia_jit::cranelift::CodeArenaProvider;
use gaia_jit::{CodeArena, WxMode};

fn arena() -> CodeArena {
    small(WxMode::Flip).build().unwrap()
}

fn provider(arena: &CodeArena) -> CodeArenaProvider {
    CodeArenaProvider::new(arena.clone()).unwrap()
}

/// Checks that everything is free again, and holds no memory after a trim.
fn assert_empty(arena: &CodeArena) {
    arena.trim().unwrap();
    let stats = arena.stats();
    assert_eq!((stats.live_blocks, stats.free_bytes, stats.resident_bytes), (0, stats.capacity, 0), "{stats}");
}
