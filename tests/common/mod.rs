//! What the integration tests share: machine code for each architecture, and child processes.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, reason = "each test file uses a part")]

pub mod asm;
pub mod child;
#[cfg(target_os = "linux")]
pub mod fork;
#[cfg(target_os = "linux")]
pub mod jitdump;
#[cfg(any(target_os = "linux", windows))]
#[cfg_attr(windows, path = "maps_windows.rs")]
pub mod maps;
#[cfg(target_os = "linux")]
pub mod sandbox;

use std::io::Write;

use gaia_jit::{ArenaBuilder, CodeArena, CodeBlock, Error, WxMode};

/// Bytes of a large arena, which every architecture's branches reach across.
pub const LARGE: usize = if cfg!(target_arch = "arm") { 32 << 20 } else { 128 << 20 };

/// How often to do what is done often: a tenth of `n` where the processor is emulated
/// (`GAIA_TEST_EMULATED`).
pub fn often(n: usize) -> usize {
    if std::env::var_os("GAIA_TEST_EMULATED").is_some() { n / 10 } else { n }
}

/// Every mode that this system has. `Flip` it has to have, or a test would pass that has tried
/// nothing.
pub fn modes() -> impl Iterator<Item = WxMode> {
    small(WxMode::Flip).build().expect("no executable memory here");
    [WxMode::Flip, WxMode::DualMap, WxMode::PerThread, WxMode::FileWrite]
        .into_iter()
        .filter(|&mode| small(mode).build().is_ok())
}

/// Whether the system itself answers for its memory and its limits. A user-mode emulator answers in
/// its place, and differs: it ignores advice, limits, and what a child is not to inherit. Said
/// aloud, as output that is not captured.
pub fn own_kernel(test: &str) -> bool {
    let emulated = std::env::var("CROSS_RUNNER").is_ok_and(|runner| runner.contains("qemu"));
    if emulated {
        not_run(test, "a user-mode emulator answers for the system");
    }
    !emulated
}

/// Whether memory comes in pages of the size asked for. Where the system is set to give huge pages
/// to everyone, more of it is there than was touched.
pub fn small_pages(test: &str) -> bool {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    let always = setting.is_ok_and(|setting| setting.contains("[always]"));
    if always {
        not_run(test, "this system gives huge pages to everyone");
    }
    !always
}

/// Whether this program is watched by a sanitizer (`GAIA_TEST_SANITIZER`): it lays out the address
/// space, keeps memory of its own, and aborts the process when it can have no more.
pub fn sanitized() -> bool {
    std::env::var_os("GAIA_TEST_SANITIZER").is_some()
}

/// Whether an arena that is near to something can be had. A user-mode emulator, whose own memory
/// may fill all of the space around a program, may have none, said aloud; anywhere else that is an
/// error.
pub fn near(test: &str, builder: ArenaBuilder) -> Option<CodeArena> {
    match builder.build() {
        Err(Error::OutOfReach { .. }) if !own_kernel(test) => None,
        arena => Some(arena.unwrap()),
    }
}

/// Says aloud, as output that is not captured, that a test was not run.
pub fn not_run(test: &str, why: &str) {
    std::io::stderr().write_all(format!("NOT RUN: {test}: {why}\n").as_bytes()).unwrap();
}

/// Whether functions are placed in pages that hold live code. Elsewhere each that is published by
/// itself takes a page.
pub fn fills_holes(mode: WxMode) -> bool {
    small(mode).build().unwrap().stats().fills_holes
}

/// Publishes functions one by one; together, so that they share pages, where holes are not filled.
pub fn publish_all(arena: &CodeArena, codes: impl IntoIterator<Item = Vec<u8>>) -> Vec<CodeBlock> {
    if arena.stats().fills_holes {
        return codes.into_iter().map(|code| arena.publish(&code).unwrap()).collect();
    }
    let mut batch = arena.batch();
    for code in codes {
        batch.push(&code).unwrap();
    }
    batch.publish().unwrap()
}

pub fn small(mode: WxMode) -> ArenaBuilder {
    CodeArena::builder().capacity(1 << 20).mode(mode)
}

/// Runs a block that takes nothing and returns a number.
pub fn call(block: &CodeBlock) -> u32 {
    call_at(block.as_ptr())
}

pub fn call_at(address: *const u8) -> u32 {
    // SAFETY: the tests publish only functions of this type, and keep them alive while they call
    // them.
    let function = unsafe { std::mem::transmute::<*const u8, extern "C" fn() -> u32>(address) };
    function()
}
