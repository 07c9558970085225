//! Tests of the stack that calls need: 32 KiB to build an arena, and 16 KiB for everything else,
//! optimised. Unoptimised it is under 64 KiB. Fibers, coroutines and threads of small C libraries
//! need this limit.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
#![cfg(all(target_os = "linux", not(miri)))]

mod common;

use std::ffi::c_void;
use std::sync::Arc;

use common::{asm, call, child, modes, sanitized, small};
use gaia_jit::{Code, JitMemory, WxMode};

const STACK: usize = 1 << 20;
const UNTOUCHED: u8 = 0xA5;

/// Returns the bytes of stack that `body` needs, without those of a thread that does nothing.
fn used(body: impl FnOnce()) -> usize {
    let (with, without) = (deepest(body), deepest(|| ()));
    // A thread that does nothing needs a little more in one run than in another.
    assert!(with + 1024 > without, "{with} bytes with the call, {without} without it");
    with.saturating_sub(without)
}

fn deepest<F: FnOnce()>(body: F) -> usize {
    extern "C" fn run<F: FnOnce()>(body: *mut c_void) -> *mut c_void {
        // SAFETY: the pointer leads to a value on the stack of `deepest`, which lives until this
        // thread is joined.
        let body = unsafe { &mut *body.cast::<Option<F>>() };
        (body.take().unwrap())();
        std::ptr::null_mut()
    }
    let mut body = Some(body);
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping.
    let stack = unsafe { libc::mmap(std::ptr::null_mut(), STACK, access, libc::MAP_PRIVATE | libc::MAP_ANON, -1, 0) };
    assert_ne!(stack, libc::MAP_FAILED);
    // SAFETY: it was mapped above.
    unsafe { stack.cast::<u8>().write_bytes(UNTOUCHED, STACK) };
    // SAFETY: all zeros are a value of this type, which is set up before it is used.
    let mut attributes: libc::pthread_attr_t = unsafe { std::mem::zeroed() };
    // A number in some C libraries and a pointer in others.
    // SAFETY: all zeros are a value of either.
    let mut thread: libc::pthread_t = unsafe { std::mem::zeroed() };
    // SAFETY: valid for the call to write to.
    assert_eq!(unsafe { libc::pthread_attr_init(&raw mut attributes) }, 0);
    // SAFETY: a mapping that outlives the thread.
    assert_eq!(unsafe { libc::pthread_attr_setstack(&raw mut attributes, stack, STACK) }, 0);
    let data = (&raw mut body).cast();
    // SAFETY: `body` outlives the thread, which is joined before this returns.
    assert_eq!(unsafe { libc::pthread_create(&raw mut thread, &raw const attributes, run::<F>, data) }, 0);
    // SAFETY: joined once.
    assert_eq!(unsafe { libc::pthread_join(thread, std::ptr::null_mut()) }, 0);
    // SAFETY: all of it is initialised, and the thread is gone.
    let bytes = unsafe { std::slice::from_raw_parts(stack.cast::<u8>(), STACK) };
    let untouched = bytes.iter().take_while(|byte| **byte == UNTOUCHED).count();
    // SAFETY: it was mapped here, and is not used any more.
    assert_eq!(unsafe { libc::munmap(stack, STACK) }, 0);
    STACK - untouched
}

#[track_caller]
fn check(what: &str, limit: usize, used: usize) {
    let limit = if cfg!(debug_assertions) { 64 << 10 } else { limit };
    println!("{what}: {used} bytes");
    assert!(used <= limit, "{what} needs {used} bytes of stack, more than {limit}");
}

#[test]
fn calls_need_little_stack() {
    if sanitized() {
        return common::not_run("calls_need_little_stack", "sanitizers make frames larger");
    }
    let output = child::output("calls_need_little_stack", || modes().for_each(measure));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}");
    assert!(output.status.success(), "{err}");
}

fn measure(mode: WxMode) {
    struct Quiet;
    impl gaia_jit::Observer for Quiet {}
    // Work that a process does once, in the loader or in a library, does not count.
    drop(small(mode).build().unwrap().publish(&asm::constant(1)).unwrap());
    let name = |what: &str| format!("{mode:?}, {what}");
    let mut arena = None;
    let builder = small(mode).poison(true).observer(Arc::new(Quiet));
    check(&name("build"), 32 << 10, used(|| arena = Some(builder.build().unwrap())));
    let arena = arena.unwrap();
    let limit = 16 << 10;
    let mut blocks = Vec::new();
    check(&name("publish"), limit, used(|| blocks.push(arena.publish(&asm::constant(7)).unwrap())));
    check(&name("publish, large"), limit, used(|| blocks.push(arena.publish(&[0; 100_000][..]).unwrap())));
    let batch = used(|| {
        let mut batch = arena.batch();
        for n in 0..200 {
            batch.push(Code::new(&asm::padded(n, 600)).name("name")).unwrap();
        }
        blocks.extend(batch.publish().unwrap());
    });
    check(&name("batch"), limit, batch);
    check(&name("run"), limit, used(|| assert_eq!(call(&blocks[0]), 7)));
    let lookup = used(|| {
        let addresses: Vec<_> = blocks.iter().map(gaia_jit::CodeBlock::as_ptr).collect();
        let mut found = vec![None; addresses.len()];
        arena.lookup_many(&addresses, &mut found);
        assert!(found.iter().all(Option::is_some));
        assert!(arena.lookup(addresses[0]).is_some());
    });
    check(&name("lookup"), limit, lookup);
    check(&name("drop under a guard"), limit, {
        let guard = arena.pin();
        used(|| drop((blocks.split_off(100), guard)))
    });
    // SAFETY: nobody runs it meanwhile.
    check(&name("patch"), limit, used(|| drop(unsafe { blocks[0].patch(0, &asm::constant(8)) })));
    check(&name("stats and map"), limit, used(|| drop((arena.stats().to_string(), arena.map()))));
    let full = used(|| {
        while let Ok(block) = arena.publish(&[0; 20_000][..]) {
            blocks.push(block);
        }
    });
    check(&name("until it is full"), limit, full);
    check(&name("drop"), limit, used(|| blocks.clear()));
    check(&name("trim"), limit, used(|| drop(arena.trim())));
    check(&name("release"), limit, used(|| drop(arena)));
    let single = used(|| {
        let mut memory = JitMemory::new(4096).unwrap();
        memory.write(&asm::constant(3)).unwrap();
    });
    check("JitMemory", limit, single);
}
