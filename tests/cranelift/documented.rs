//! Tests of what `cranelift-jit` tests and documents for modules and for memory providers.
//!
//! - *Modules*: functions call each other and library functions, a second definition is an error,
//!   and empty data has an address. The originals are `tests/basic.rs` and
//!   `examples/jit-minimal.rs` of that crate.
//! - *Providers*: alignment, disjoint addresses, typed errors without a cost, and use on another
//!   thread. The originals are in its `src/memory/arena.rs`.
//! - *Panics*: an observer panics during `free_memory`, and the drop frees what is left.
//!
//! The tests exist to catch a provider that differs from the contract on which Cranelift relies:
//! memory that overlaps, that is not aligned, or that stays after `free_memory`. They use one
//! `Flip` arena each and need nothing of the system.

use std::sync::Arc;

use super::clif::{call, constant, define, module, signature};
use super::common::small;
use super::{arena, assert_empty, provider};
use cranelift_codegen::ir::{InstBuilder, types};
use cranelift_jit::{BranchProtection, JITMemoryKind, JITMemoryProvider};
use cranelift_module::{DataDescription, Linkage, Module, ModuleError};
use gaia_jit::{CodeArena, Error, Observer, WxMode};

#[test]
fn functions_call_each_other() {
    let arena = arena();
    let mut module = module(provider(&arena));
    let signature_a = signature(&module, &[types::I32], &[types::I32]);
    let a = define(&mut module, "a", signature_a, |_, function| {
        let parameter = function.block_params(function.current_block().unwrap())[0];
        let sum = function.ins().iadd_imm_s(parameter, 37);
        function.ins().return_(&[sum]);
    });
    let signature_b = signature(&module, &[], &[types::I32]);
    let b = define(&mut module, "b", signature_b, |module, function| {
        let a = module.declare_func_in_func(a, function.func);
        let five = function.ins().iconst(types::I32, 5);
        let inner = function.ins().call(a, &[five]);
        let value = function.inst_results(inner)[0];
        function.ins().return_(&[value]);
    });
    module.finalize_definitions().unwrap();
    assert_eq!(call(&module, b), 42);
    // SAFETY: nobody runs the code any more.
    unsafe { module.free_memory() };
    assert_empty(&arena);
}

#[test]
fn a_second_definition_and_another_signature_are_errors() {
    let arena = arena();
    let mut module = module(provider(&arena));
    let id = constant(&mut module, "abc", 1);
    let bytes = module.define_function_bytes(id, 1, &[0xc3], &[]);
    assert!(matches!(bytes, Err(ModuleError::DuplicateDefinition(_))));
    let other = signature(&module, &[types::I32], &[]);
    assert!(matches!(
        module.declare_function("abc", Linkage::Local, &other),
        Err(ModuleError::IncompatibleSignature(..))
    ));
}

#[test]
fn library_functions_are_called() {
    let arena = arena();
    let mut module = module(provider(&arena));
    let pointer = module.target_config().pointer_type();
    let filled = signature(&module, &[], &[types::I32]);
    let id = define(&mut module, "filled", filled, |module, function| {
        let size = function.ins().iconst(pointer, 10);
        let seven = function.ins().iconst(types::I8, 7);
        let malloc = signature(module, &[pointer], &[pointer]);
        let malloc = module.declare_function("malloc", Linkage::Import, &malloc).unwrap();
        let malloc = module.declare_func_in_func(malloc, function.func);
        let allocated = function.ins().call(malloc, &[size]);
        let buffer = function.inst_results(allocated)[0];
        function.call_memset(module.target_config(), buffer, seven, size);
        let flags = cranelift_codegen::ir::MemFlagsData::trusted();
        let last = function.ins().uload8(types::I32, flags, buffer, 9);
        function.ins().return_(&[last]);
    });
    module.finalize_definitions().unwrap();
    assert_eq!(call(&module, id), 7);
    // SAFETY: nobody runs the code any more.
    unsafe { module.free_memory() };
}

#[test]
fn empty_data_has_an_address() {
    let arena = arena();
    let mut module = module(provider(&arena));
    let id = module.declare_data("empty", Linkage::Export, false, false).unwrap();
    let mut data = DataDescription::new();
    data.define(Box::new([]));
    module.define_data(id, &data).unwrap();
    module.finalize_definitions().unwrap();
    assert!(arena.contains(module.get_finalized_data(id).0));
    // SAFETY: nobody uses the data any more.
    unsafe { module.free_memory() };
    assert_empty(&arena);
}

/// If an observer's panic interrupts `free_memory`, the drop of the module does the rest.
#[test]
fn memory_is_freed_although_an_observer_panics() {
    struct Panics;
    impl Observer for Panics {
        fn retired(&self, _: &gaia_jit::BlockInfo) {
            panic!("an observer's own fault");
        }
    }
    let arena = small(WxMode::Flip).observer(Arc::new(Panics)).build().unwrap();
    let mut provider = provider(&arena);
    for kind in [JITMemoryKind::Writable, JITMemoryKind::ReadOnly, JITMemoryKind::Executable] {
        provider.allocate(16, 16, kind).unwrap();
    }
    provider.finalize(BranchProtection::None).unwrap();
    // SAFETY: nobody uses the memory.
    let freed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| unsafe { provider.free_memory() }));
    assert!(freed.is_err());
    drop(provider);
    assert_empty(&arena);
}

// Tests that it has for its providers (`src/memory/arena.rs` there).

#[test]
fn alignments_are_kept_and_addresses_disjoint() {
    let arena = CodeArena::builder().capacity(1 << 20).data(512 << 10).build().unwrap();
    let mut provider = provider(&arena);
    let mut taken: Vec<(usize, usize)> = Vec::new();
    for kind in 0..3 {
        for align in (0..8).map(|log| 1u64 << log).chain([4096, 65536]) {
            for size in [0, 1, 2, 15, 16, 17, 127, 128].into_iter().take(if align > 128 { 1 } else { 8 }) {
                let kind = match kind {
                    0 => JITMemoryKind::Writable,
                    1 => JITMemoryKind::ReadOnly,
                    _ => JITMemoryKind::Executable,
                };
                let at = provider.allocate(size, align, kind).unwrap();
                assert_eq!(at.addr() as u64 % align, 0);
                // SAFETY: it can be written to until it is finalized.
                unsafe { at.write_bytes(0xc3, size) };
                taken.push((at.addr(), at.addr() + size));
            }
        }
    }
    taken.sort_unstable();
    assert!(taken.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    let (first, last) = (taken[0].0, taken[taken.len() - 1].1);
    let most = arena.capacity() + arena.stats().data_capacity + (128 << 10);
    assert!(last - first <= most, "all in reach of all");
    provider.finalize(BranchProtection::None).unwrap();
    // SAFETY: nobody uses the memory any more.
    unsafe { provider.free_memory() };
    assert_empty(&arena);
}

#[test]
fn what_does_not_fit_is_a_typed_error_and_costs_nothing() {
    let arena = arena();
    let mut provider = provider(&arena);
    let cause = |result: std::io::Result<*mut u8>| {
        let error = result.unwrap_err();
        error.into_inner().unwrap().downcast::<Error>().unwrap()
    };
    let code = provider.allocate(900_000, 1, JITMemoryKind::Executable).unwrap();
    assert!(matches!(*cause(provider.allocate(200_000, 1, JITMemoryKind::Executable)), Error::ArenaFull { .. }));
    let kept = provider.allocate(100_000, 1, JITMemoryKind::Writable).unwrap();
    let full = cause(provider.allocate(50_000, 1, JITMemoryKind::Writable));
    assert!(matches!(*full, Error::DataFull { asked: 50_000.., largest_hole: ..50_000, .. }), "{full}");
    assert!(matches!(*cause(provider.allocate(2 << 20, 1, JITMemoryKind::ReadOnly)), Error::TooLarge { .. }));
    for align in [0, 3, 128 << 10, 4 << 20, u64::MAX] {
        assert!(matches!(*cause(provider.allocate(1, align, JITMemoryKind::ReadOnly)), Error::BadAlignment { .. }));
    }
    // SAFETY: the memory was allocated above.
    unsafe { kept.write(1) };
    // SAFETY: the memory was allocated above.
    unsafe { code.write(0xc3) };
    // SAFETY: nobody uses it any more.
    unsafe { provider.free_memory() };
    assert_empty(&arena);
    let again = provider.allocate(900_000, 1, JITMemoryKind::Executable).unwrap();
    assert!(arena.contains(again));
}

#[test]
fn a_provider_can_be_sent_to_another_thread() {
    let arena = arena();
    let mut module = module(provider(&arena));
    let first = constant(&mut module, "first", 1);
    std::thread::spawn(move || {
        module.finalize_definitions().unwrap();
        assert_eq!(call(&module, first), 1);
        // SAFETY: nobody runs the code any more.
        unsafe { module.free_memory() };
    })
    .join()
    .unwrap();
    assert_empty(&arena);
}
