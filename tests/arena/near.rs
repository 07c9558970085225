//! Tests of direct branches into the arena, out of it, and through stubs if they do not reach.

use crate::common::{self, LARGE, asm, call, child, modes, small};
use gaia_jit::{CodeArena, Error};

extern "C" fn from_rust() -> u32 {
    4_321
}

extern "C" fn another() -> u32 {
    1_234
}

/// Returns whether two addresses are near enough for a direct branch.
fn in_reach(a: *const u8, b: *const u8) -> bool {
    let reach = if cfg!(target_arch = "aarch64") {
        128 << 20
    } else if cfg!(target_arch = "arm") {
        32 << 20
    } else {
        2_u64 << 30
    };
    cfg!(target_arch = "x86") || (a.addr().abs_diff(b.addr()) as u64) < reach
}

#[test]
fn direct_branches_reach_both_ways() {
    let here = from_rust as *const u8;
    for mode in modes() {
        const NAME: &str = "direct_branches_reach_both_ways";
        let Some(near) = common::near(NAME, small(mode).near(here)) else { continue };
        // A branch out of the arena, to Rust.
        let mut batch = near.batch();
        let slot = batch.reserve(asm::tail_len(), 16).unwrap();
        let code = asm::tail_call(batch.address(slot), here);
        batch.bytes_mut(slot).copy_from_slice(&code);
        let out = batch.publish().unwrap().remove(0);
        assert_eq!(call(&out), 4_321, "{mode:?}");
        // Branches from one arena to another that was built near it, and back.
        let Some(other) = common::near(NAME, small(mode).near(out.as_ptr())) else { continue };
        let mut batch = other.batch();
        let slot = batch.reserve(asm::tail_len(), 16).unwrap();
        let code = asm::tail_call(batch.address(slot), out.as_ptr());
        batch.bytes_mut(slot).copy_from_slice(&code);
        let over = batch.publish().unwrap().remove(0);
        assert_eq!(call(&over), 4_321, "{mode:?}");
        let mut batch = near.batch();
        let slot = batch.reserve(asm::tail_len(), 16).unwrap();
        let code = asm::tail_call(batch.address(slot), over.as_ptr());
        batch.bytes_mut(slot).copy_from_slice(&code);
        let back = batch.publish().unwrap().remove(0);
        assert_eq!(call(&back), 4_321, "{mode:?}");
    }
}

/// The target is in the middle, and only one side of it has room. On AArch64 that is not enough for
/// two such arenas, so the process has no other.
#[test]
fn an_arena_of_the_default_size_can_be_near() {
    const NAME: &str = "an_arena_of_the_default_size_can_be_near";
    child::run(NAME, || {
        let here = from_rust as *const u8;
        let Some(arena) = common::near(NAME, CodeArena::builder().near(here)) else { return };
        let first = arena.publish(&asm::constant(1)).unwrap().as_ptr();
        assert!(in_reach(first, here) && in_reach(first.wrapping_add(arena.capacity()), here));
        assert!(arena.capacity() >= 16 << 20);
    });
}

#[test]
fn far_targets_are_reached_through_stubs_that_go_with_their_function() {
    for mode in modes() {
        // The arena is far from the program if the system places it there, which it need not do.
        let arena = CodeArena::builder().mode(mode).capacity(LARGE).build().unwrap();
        let free = arena.stats().free_bytes;
        let mut batch = arena.batch();
        let slots: Vec<_> = [from_rust as *const u8, another as *const u8]
            .map(|target| {
                let slot = batch.reserve_with_stubs(asm::tail_len(), 64, 2).unwrap();
                let to = batch.branch_target(slot, target).unwrap();
                assert_eq!(to, batch.branch_target(slot, target).unwrap(), "one stub for one target");
                assert!(in_reach(batch.address(slot), to));
                if in_reach(batch.address(slot), target) {
                    assert_eq!(to, target);
                } else {
                    let inside = to.addr() - batch.address(slot).addr();
                    assert!(inside >= asm::tail_len() && inside < batch.bytes_mut(slot).len());
                }
                let code = asm::tail_call(batch.address(slot), to);
                batch.bytes_mut(slot)[..code.len()].copy_from_slice(&code);
                slot
            })
            .into();
        let blocks = batch.publish().unwrap();
        for (slot, result) in slots.into_iter().zip([4_321, 1_234]) {
            let block = &blocks[slot.index()];
            assert_eq!(call(block), result, "{mode:?}");
            // Lookup finds the stub as part of its function.
            assert_eq!(arena.lookup(block.as_ptr().wrapping_add(block.len() - 1)).unwrap().start, block.as_ptr());
        }
        drop(blocks);
        assert_eq!(arena.stats().free_bytes, free);
    }
}

#[test]
fn stubs_are_counted() {
    if cfg!(target_arch = "x86") {
        // Every target is in reach.
        return;
    }
    let arena = small(gaia_jit::WxMode::Flip).build().unwrap();
    let mut batch = arena.batch();
    let slot = batch.reserve_with_stubs(10, 16, 2).unwrap();
    // At a distance of a quarter of the address space.
    let base = batch.address(slot);
    let far = |n: usize| base.wrapping_add(usize::MAX / 4 + 16 * n);
    assert_ne!(batch.branch_target(slot, far(0)).unwrap(), batch.branch_target(slot, far(1)).unwrap());
    assert!(batch.branch_target(slot, far(1)).is_ok());
    assert!(matches!(batch.branch_target(slot, far(2)), Err(Error::NoStub { slot: 0, stubs: 2, .. })));
    let bare = batch.reserve(10, 16).unwrap();
    assert!(matches!(batch.branch_target(bare, far(0)), Err(Error::NoStub { slot: 1, stubs: 0, .. })));
    let near = batch.address(slot);
    assert_eq!(batch.branch_target(bare, near).unwrap(), near);
    // Slots of other batches, and sizes beyond all limits.
    let mut other = arena.batch();
    assert!(matches!(other.branch_target(slot, near), Err(Error::OtherBatch { slot: 0, .. })));
    assert!(matches!(batch.reserve_with_stubs(usize::MAX, 16, 1), Err(Error::TooLarge { .. })));
    assert!(matches!(batch.reserve_with_stubs(1, 16, usize::MAX), Err(Error::TooLarge { .. })));
    assert!(matches!(batch.reserve_with_stubs(0, 16, 1), Err(Error::ZeroSize)));
    assert!(batch.reserve_with_stubs(1, 16, 0).is_ok());
}
