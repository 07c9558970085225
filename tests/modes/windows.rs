//! Tests of Windows: reservations without commitment, sections with two views, policies against
//! generated code.
//!
//! | What | How it is checked |
//! |---|---|
//! | commit and decommit | the committed bytes are counted after a small and a large function and after `trim` |
//! | address space | many rounds of build and drop use hardly more than one; a used-up space is an error that passes |
//! | protection | a child process ends by an access violation of the expected kind |
//! | views | the list of mappings has one more `r-x` and no `rwx` |
//! | Arbitrary Code Guard | the error is `Unsupported` and has a reason |
//!
//! The violations kill, and a policy cannot be withdrawn, so these tests use `common::child`. The
//! test of used-up space is for 32 bits, and ends at once otherwise. An emulation such as Wine may
//! accept the policy without an effect. Then the arena has to work. `Flip` can decommit its pages
//! and a section cannot, so the expected figures differ by mode.

use crate::common::maps::{mappings, resident, taken};
use crate::common::{asm, call, child, modes, small};
use gaia_jit::{CodeArena, CodeBlock, Error, JitMemory, WxMode};
use windows_sys::Win32::Foundation::EXCEPTION_ACCESS_VIOLATION;
use windows_sys::Win32::System::Diagnostics::Debug::{EXCEPTION_POINTERS, SetUnhandledExceptionFilter};

#[test]
fn both_modes_are_there() {
    assert_eq!(modes().collect::<Vec<_>>(), [WxMode::Flip, WxMode::DualMap]);
}

/// Only pages in which code was placed count against the system's memory.
#[test]
fn memory_is_committed_as_code_is_placed() {
    for mode in modes() {
        let arena = CodeArena::builder().mode(mode).capacity(256 << 20).build().unwrap();
        let block = arena.publish(&asm::constant(1)).unwrap();
        let base = block.as_ptr().addr();
        // In `DualMap` memory is committed in larger pieces, and both views count each piece once.
        let few = if mode == WxMode::Flip { region::page::size() } else { 64 << 10 };
        assert_eq!(resident(base, 256 << 20), few, "{mode:?}");
        let mut batch = arena.batch();
        let large = batch.reserve(10 << 20, 2 << 20).unwrap();
        batch.bytes_mut(large)[..64].copy_from_slice(&asm::padded(2, 64));
        let blocks = batch.publish().unwrap();
        let much = resident(base, 256 << 20);
        assert!((10 << 20..(10 << 20) + (128 << 10)).contains(&much), "{mode:?}: {much}");
        assert_eq!((call(&block), call(&blocks[0])), (1, 2));
        drop((block, blocks));
        let before = arena.stats().resident_bytes;
        let given = arena.trim().unwrap();
        let left = resident(base, 256 << 20);
        match mode {
            WxMode::Flip => assert_eq!((given, left), (before, 0)),
            // A section's pages stay committed, and `trim` says so.
            _ => assert_eq!((given, left, arena.stats().resident_bytes), (0, much, before)),
        }
        // Space that was given back can be used again.
        let blocks: Vec<_> = (0..100).map(|n| arena.publish(&asm::padded(n, 3_000)).unwrap()).collect();
        assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n));
    }
}

/// Drops give back all address space: reservations, both views, blocks.
#[test]
fn all_address_space_comes_back() {
    child::run("all_address_space_comes_back", || {
        let round = || {
            for mode in modes() {
                let arena = CodeArena::builder().mode(mode).capacity((16 << 20) + 4096).build().unwrap();
                let blocks: Vec<_> = (0..50).map(|n| arena.publish(&asm::constant(n)).unwrap()).collect();
                assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n));
            }
            let mut jit = JitMemory::new(1 << 20).unwrap();
            for _ in 0..10 {
                jit.write(&[0; 5_000]).unwrap();
                jit.make_executable().unwrap();
            }
        };
        round();
        let before = taken();
        // In 32 bits this is more than the address space. An emulation may report wrong free sizes
        // there.
        let rounds = if cfg!(target_pointer_width = "64") { 40 } else { 100 };
        (0..rounds).for_each(|_| round());
        let after = taken();
        // The process heap grows by segments of up to 0xfd0000 bytes. A leak would add more than
        // this.
        assert!(after < before + (24 << 20), "{before} bytes of address space in use, then {after}");
    });
}

/// The kind of an access violation ("EXCEPTION_RECORD structure"). A child that has one ends with
/// this number.
const WRITE: i32 = 1;
const EXECUTE: i32 = 8;

unsafe extern "system" fn end(info: *const EXCEPTION_POINTERS) -> i32 {
    // SAFETY: valid as long as the filter runs.
    let record = unsafe { *info }.ExceptionRecord;
    // SAFETY: as above.
    let record = unsafe { *record };
    let violation = record.ExceptionCode == EXCEPTION_ACCESS_VIOLATION;
    std::process::exit(if violation { record.ExceptionInformation[0] as i32 } else { 99 });
}

/// Checks that the hardware ends a child process at `body`, because the pages do not allow the
/// access.
fn dies(name: &str, of: i32, body: impl FnOnce()) {
    let ended = child::output(name, || {
        // SAFETY: the filter ends the process.
        unsafe { SetUnhandledExceptionFilter(Some(end)) };
        body();
    });
    assert_eq!(ended.status.code(), Some(of), "{name}: {ended:?}");
}

fn write_to(block: &CodeBlock) {
    // SAFETY: the access is not sound. The test is about what happens.
    unsafe { block.as_ptr().cast_mut().write_volatile(0xc3) };
}

#[test]
fn live_code_cannot_be_written_to_in_flip() {
    dies("live_code_cannot_be_written_to_in_flip", WRITE, || {
        let arena = small(WxMode::Flip).build().unwrap();
        write_to(&arena.publish(&asm::constant(1)).unwrap());
    });
}

#[test]
fn live_code_cannot_be_written_to_at_its_own_address_in_dual_map() {
    dies("live_code_cannot_be_written_to_at_its_own_address_in_dual_map", WRITE, || {
        let arena = small(WxMode::DualMap).build().unwrap();
        write_to(&arena.publish(&asm::constant(1)).unwrap());
    });
}

#[test]
fn a_block_that_is_writable_cannot_be_run() {
    dies("a_block_that_is_writable_cannot_be_run", EXECUTE, || {
        let mut jit = JitMemory::new(1).unwrap();
        jit.write(&asm::constant(1)).unwrap();
        // SAFETY: the access is not sound. The test is about what happens.
        let run = unsafe { jit.as_fn::<extern "C" fn() -> u32>() };
        run();
    });
}

/// There is one writable view, and it is not near the executable one.
#[test]
fn the_other_view_is_writable_and_not_executable() {
    child::run("the_other_view_is_writable_and_not_executable", || {
        let count = |letters: &str| {
            let all = mappings(0, usize::MAX);
            assert!(all.iter().all(|permissions| permissions != "rwx"), "{all:?}");
            all.iter().filter(|permissions| *permissions == letters).count()
        };
        let before = (count("r-x"), count("rw-"));
        let arena = CodeArena::builder().mode(WxMode::DualMap).capacity(4 << 20).build().unwrap();
        let block = arena.publish(&asm::constant(1)).unwrap();
        assert_eq!(mappings(block.as_ptr().addr(), 1), ["r-x"]);
        // Heaps may have grown as well.
        assert!(count("r-x") == before.0 + 1 && count("rw-") > before.1);
    });
}

/// Under Arbitrary Code Guard, `build` returns a typed error, and there is no way around it.
#[test]
fn a_process_that_forbids_generated_code_gets_an_error() {
    use windows_sys::Win32::System::Threading::{ProcessDynamicCodePolicy, SetProcessMitigationPolicy};
    child::run("a_process_that_forbids_generated_code_gets_an_error", || {
        let prohibit = 1u32;
        // SAFETY: the policy is a structure of one 32-bit word, whose lowest bit prohibits
        // generated code.
        let set = unsafe { SetProcessMitigationPolicy(ProcessDynamicCodePolicy, (&raw const prohibit).cast(), 4) };
        if set == 0 {
            eprintln!("this system has no such policy");
            return;
        }
        for mode in [WxMode::Flip, WxMode::DualMap] {
            match small(mode).build() {
                Err(Error::Unsupported { what, why }) => assert_eq!((what, why.is_empty()), (mode_name(mode), false)),
                // An emulation may accept the call and do nothing.
                Ok(arena) => assert_eq!(call(&arena.publish(&asm::constant(1)).unwrap()), 1),
                Err(other) => panic!("{other:?}"),
            }
        }
    });
}

fn mode_name(mode: WxMode) -> &'static str {
    if mode == WxMode::Flip { "Flip" } else { "DualMap" }
}

/// Without free address space `build` returns an error. After some is given back it works again.
#[test]
fn address_space_that_is_used_up_is_an_error_and_passes() {
    child::run("address_space_that_is_used_up_is_an_error_and_passes", || {
        if cfg!(target_pointer_width = "64") {
            return;
        }
        for mode in modes() {
            let mut arenas = Vec::new();
            let refused = loop {
                match CodeArena::builder().mode(mode).capacity(64 << 20).build() {
                    Ok(arena) => arenas.push(arena),
                    Err(error) => break error,
                }
            };
            assert!(matches!(refused, Error::OperatingSystem { .. }), "{refused:?}");
            assert!(arenas.len() > 5);
            arenas.pop();
            let arena = CodeArena::builder().mode(mode).capacity(64 << 20).build().unwrap();
            assert_eq!(call(&arena.publish(&asm::constant(1)).unwrap()), 1);
        }
    });
}
