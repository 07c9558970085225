//! Tests that a stale call stops: in a function that was dropped, trimmed or not; in the padding;
//! in a page that never held code; and at an address of a batch that was given up.
//!
//! Each call is made in a forked child, with `rax` pointing to the child's memory: zeros are `add
//! [rax], al`, which would run on into the next function and return.

#[cfg(target_os = "linux")]
mod executable;
mod stops;

use crate::common::{asm, call};
use gaia_jit::{ArenaBuilder, CodeArena, CodeBlock, WxMode};

const PAGE: usize = 4096;

fn arena(mode: WxMode, poison: bool) -> CodeArena {
    builder(mode, poison).build().unwrap()
}

fn builder(mode: WxMode, poison: bool) -> ArenaBuilder {
    CodeArena::builder().capacity(1 << 20).mode(mode).poison(poison)
}

/// Returns the signal that ends a call, or `None` if it returned.
fn ends_by(address: *const u8) -> Option<i32> {
    // SAFETY: the child makes one call and ends; it takes no lock.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: the call takes a number only. It ends the child in any case.
        unsafe { libc::alarm(10) };
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGTRAP] {
            // SAFETY: the default action is to end the process.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        let mut own = [0_u8; 256];
        // SAFETY: it is not a function, which is the point of the test. The effects end with the
        // child.
        unsafe {
            std::arch::asm!("call {f}", f = in(reg) address, inout("rax") own.as_mut_ptr() => _, clobber_abi("C"));
        }
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: `status` is valid for the call to write to.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
}

#[track_caller]
fn stops(address: *const u8, what: &str) {
    let ended = ends_by(address);
    let stopped = matches!(ended, Some(libc::SIGTRAP | libc::SIGSEGV | libc::SIGILL | libc::SIGBUS));
    assert!(stopped, "{what}: {ended:?}");
}

/// Calls each page, so that code that runs on out of one page gets into a function.
fn pages_of_code(arena: &CodeArena, count: u32) -> Vec<CodeBlock> {
    let mut batch = arena.batch();
    (0..count).for_each(|n| assert!(batch.push(&asm::padded(n, PAGE)).is_ok()));
    let blocks = batch.publish().unwrap();
    assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n));
    blocks
}
