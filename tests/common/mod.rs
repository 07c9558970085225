//! What the integration tests share: machine code for each architecture, and child processes.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, reason = "each test file uses a part")]

pub mod asm;
pub mod child;
#[cfg(target_os = "linux")]
pub mod maps;

use gaia_jit::{ArenaBuilder, CodeArena, CodeBlock, WxMode};

/// Every mode that this system has.
pub fn modes() -> impl Iterator<Item = WxMode> {
    [WxMode::Flip, WxMode::DualMap, WxMode::PerThread].into_iter().filter(|&mode| small(mode).build().is_ok())
}

pub fn small(mode: WxMode) -> ArenaBuilder {
    CodeArena::builder().capacity(1 << 20).mode(mode)
}

/// Runs a block that takes nothing and returns a number.
pub fn call(block: &CodeBlock) -> u32 {
    call_at(block.as_ptr())
}

pub fn call_at(address: *const u8) -> u32 {
    // SAFETY: the tests publish only functions of this type, and keep them alive while they call them.
    let function = unsafe { std::mem::transmute::<*const u8, extern "C" fn() -> u32>(address) };
    function()
}
