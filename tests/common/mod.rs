//! Helpers of the integration tests: machine code for each architecture, and child processes.
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
use std::sync::atomic::{AtomicBool, Ordering};

use gaia_jit::{ArenaBuilder, Code, CodeArena, CodeBlock, Error, WxMode};

/// The size of a large arena, which the branches of every architecture can cross.
pub const LARGE: usize = if cfg!(target_arch = "arm") { 32 << 20 } else { 128 << 20 };

/// Returns the number of repetitions: a tenth of `n` on an emulated processor
/// (`GAIA_TEST_EMULATED`).
pub fn often(n: usize) -> usize {
    if std::env::var_os("GAIA_TEST_EMULATED").is_some() { n / 10 } else { n }
}

/// Returns every mode that this system has. It must have `Flip`, because otherwise a test would
/// pass without having tried anything.
pub fn modes() -> impl Iterator<Item = WxMode> {
    small(WxMode::Flip).build().expect("no executable memory here");
    [WxMode::Flip, WxMode::DualMap, WxMode::PerThread, WxMode::FileWrite]
        .into_iter()
        .filter(|&mode| small(mode).build().is_ok())
}

/// Returns whether the system itself is responsible for memory and limits, and otherwise prints a
/// message that is not captured. A user-mode emulator replaces the system and differs from it: it
/// ignores advice, limits, and what a child must not inherit.
pub fn own_kernel(test: &str) -> bool {
    let emulated = std::env::var("CROSS_RUNNER").is_ok_and(|runner| runner.contains("qemu"));
    if emulated {
        not_run(test, "a user-mode emulator answers for the system");
    }
    !emulated
}

/// Returns whether memory is allocated in pages of the usual size. If the system gives huge pages
/// to all programs, more memory is resident than was touched.
pub fn small_pages(test: &str) -> bool {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    let always = setting.is_ok_and(|setting| setting.contains("[always]"));
    if always {
        not_run(test, "this system gives huge pages to everyone");
    }
    !always
}

/// Returns whether a sanitizer watches this program (`GAIA_TEST_SANITIZER`). A sanitizer arranges
/// the address space, keeps memory of its own, and aborts the process if it gets no more.
pub fn sanitized() -> bool {
    std::env::var_os("GAIA_TEST_SANITIZER").is_some()
}

/// Builds an arena near something. Where other mappings leave no room, a message is printed: in a
/// user-mode emulator its own memory may fill the space around a program, and on Arm the memory
/// behind a program may begin anywhere in the range of branches.
pub fn near(test: &str, builder: ArenaBuilder) -> Option<CodeArena> {
    match builder.build() {
        Err(Error::OutOfReach { .. }) if !own_kernel(test) => None,
        Err(Error::OutOfReach { address, len, reach }) if !has_room(address, len, reach) => {
            not_run(test, "other mappings leave no room near the program");
            None
        }
        arena => Some(arena.unwrap()),
    }
}

/// Returns whether there is certainly room in reach of an address, as far as it is known.
#[cfg(target_os = "linux")]
fn has_room(address: usize, len: usize, reach: usize) -> bool {
    // What the system keeps free at the lowest addresses, and what alignment may take.
    const LOWEST: usize = 64 << 10;
    const ALIGN: usize = 4 << 20;
    maps::largest_gap(address.saturating_sub(reach).max(LOWEST)..address.saturating_add(reach)) >= len + ALIGN
}

#[cfg(not(target_os = "linux"))]
fn has_room(_address: usize, _len: usize, _reach: usize) -> bool {
    true
}

/// Prints that a test was not run. The message is not captured.
pub fn not_run(test: &str, why: &str) {
    std::io::stderr().write_all(format!("NOT RUN: {test}: {why}\n").as_bytes()).unwrap();
}

/// Returns whether functions are placed in pages that hold live code. Otherwise each function that
/// is published by itself takes a page.
pub fn fills_holes(mode: WxMode) -> bool {
    small(mode).build().unwrap().stats().fills_holes
}

/// Publishes functions one by one. Where holes are not filled, publishes them together, so that
/// they share pages.
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

/// Publishes a function. If the arena is full because dropped functions wait for guards of other
/// threads, waits for these: a thread may be off its processor for long while it holds one. A guard
/// that never ends is an error in the end.
pub fn publish_after_guards<'a>(arena: &CodeArena, code: impl Into<Code<'a>>) -> CodeBlock {
    let code = code.into();
    for _ in 0..10_000_000 {
        match arena.publish(code) {
            Err(Error::ArenaFull { waiting: 1.., .. }) => std::thread::yield_now(),
            published => return published.unwrap(),
        }
    }
    arena.publish(code).unwrap()
}

/// Sets a flag when it is dropped, also by a panic. Threads of a scope that work until the flag is
/// set would otherwise keep a failed test from ending.
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub fn small(mode: WxMode) -> ArenaBuilder {
    CodeArena::builder().capacity(1 << 20).mode(mode)
}

/// Runs a block that takes nothing and returns a number.
pub fn call(block: &CodeBlock) -> u32 {
    call_at(block.as_ptr())
}

pub fn call_at(address: *const u8) -> u32 {
    // SAFETY: the tests publish only functions of this type, and keep them alive during the call.
    let function = unsafe { std::mem::transmute::<*const u8, extern "C" fn() -> u32>(address) };
    function()
}
