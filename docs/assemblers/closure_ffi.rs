//! closure-ffi: closures as bare C function pointers, whose thunks lie in a `DualMap` arena.
//!
//! Its `JitAlloc` wants two pointers, and says when the code is written: by flushing. That is a
//! batch with one reserved slot, which is published then; the thunk's block is dropped on release.
//! closure-ffi allocates, writes and flushes in one go on one thread, so what is open belongs to
//! the thread, and all of it is safe code.

use std::cell::RefCell;
use std::collections::HashMap;

use closure_ffi::BareFnMut;
use closure_ffi::jit_alloc::{JitAlloc, JitAllocError, ProtectJitAccess};
use gaia_jit::{Batch, CodeArena, CodeBlock, WxMode};

/// Thunks of one thread.
struct Thunks {
    arena: CodeArena,
    open: RefCell<Vec<(*const u8, usize, Batch)>>,
    published: RefCell<HashMap<*const u8, CodeBlock>>,
}

impl Thunks {
    fn new() -> Result<Self, gaia_jit::Error> {
        let arena = CodeArena::builder().mode(WxMode::DualMap).capacity(1 << 20).build()?;
        Ok(Self { arena, open: RefCell::default(), published: RefCell::default() })
    }
}

impl JitAlloc for Thunks {
    fn alloc(&self, size: usize) -> Result<(*const u8, *mut u8), JitAllocError> {
        let mut batch = self.arena.batch();
        let slot = batch.reserve(size, 16).map_err(|_| JitAllocError)?;
        let (executable, writable) = (batch.address(slot), batch.bytes_mut(slot).as_mut_ptr());
        self.open.borrow_mut().push((executable, size, batch));
        Ok((executable, writable))
    }

    unsafe fn release(&self, executable: *const u8) -> Result<(), JitAllocError> {
        self.published.borrow_mut().remove(&executable).map(drop).ok_or(JitAllocError)
    }

    unsafe fn protect_jit_memory(&self, _: *const u8, _: usize, _: ProtectJitAccess) {}

    unsafe fn flush_instruction_cache(&self, executable: *const u8, _: usize) {
        let mut open = self.open.borrow_mut();
        let written = open.iter().position(|(start, size, _)| executable.addr().wrapping_sub(start.addr()) < *size);
        let Some((start, _, batch)) = written.map(|written| open.swap_remove(written)) else { return };
        // In `DualMap` publishing can only be refused for want of memory for the records; then the
        // thunk stays what it was filled with: traps.
        if let Some(block) = batch.publish().ok().and_then(|mut blocks| blocks.pop()) {
            self.published.borrow_mut().insert(start, block);
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let thunks = Thunks::new()?;
    for round in 0..1_000 {
        let mut sum = 0;
        let closure = BareFnMut::<unsafe extern "C" fn(u32) -> u32, _>::new_in(
            |n: u32| {
                sum += n;
                sum
            },
            &thunks,
        );
        let function = closure.bare();
        // SAFETY: the closure lives, and is called from one thread.
        let first = unsafe { function(round) };
        // SAFETY: as above.
        let second = unsafe { function(2) };
        assert_eq!((first, second), (round, round + 2));
    }
    let stats = thunks.arena.stats();
    println!("1,000 closures called; {stats}");
    assert_eq!((stats.live_blocks, stats.free_bytes), (0, 1 << 20));
    Ok(())
}
