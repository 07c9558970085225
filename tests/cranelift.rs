//! Modules of Cranelift in an arena: what `cranelift-jit` documents and tests of its own providers, and what an arena adds.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x"))]

#[path = "common/clif.rs"]
mod clif;
mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use clif::{call, call_at, constant, counter, define, module, one_more, signature};
use common::{asm, modes, small};
use cranelift_codegen::ir::{InstBuilder, types};
use cranelift_jit::{BranchProtection, JITMemoryKind, JITMemoryProvider, JITModule};
use cranelift_module::{DataDescription, Linkage, Module, ModuleError};
use gaia_jit::cranelift::ArenaMemoryProvider;
use gaia_jit::{CodeArena, Error, Observer, Published, UnwindInfo, WxMode};

fn arena() -> CodeArena {
    small(WxMode::Flip).build().unwrap()
}

fn provider(arena: &CodeArena) -> ArenaMemoryProvider {
    ArenaMemoryProvider::new(arena.clone()).unwrap()
}

/// All is free again, and holds no memory once trimmed.
fn assert_empty(arena: &CodeArena) {
    arena.trim().unwrap();
    let stats = arena.stats();
    assert_eq!((stats.live_blocks, stats.free_bytes, stats.resident_bytes), (0, stats.capacity, 0), "{stats}");
}

// What follows is what `cranelift-jit` tests of a module (`tests/basic.rs` and `examples/jit-minimal.rs` there).

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

/// What an observer's panic keeps `free_memory` from is done when the module is gone.
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

// And of its providers (`src/memory/arena.rs` there).

#[test]
fn alignments_are_kept_and_addresses_disjoint() {
    let arena = arena();
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
    assert!(last - first <= arena.capacity(), "all in reach of all");
    provider.finalize(BranchProtection::None).unwrap();
    // SAFETY: nobody uses any of it any more.
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
    let kept = provider.allocate(900_000, 1, JITMemoryKind::Writable).unwrap();
    let full = cause(provider.allocate(200_000, 1, JITMemoryKind::Writable));
    assert!(matches!(*full, Error::ArenaFull { asked: 200_000.., .. }), "{full}");
    assert!(matches!(*cause(provider.allocate(200_000, 1, JITMemoryKind::Executable)), Error::ArenaFull { .. }));
    assert!(matches!(*cause(provider.allocate(2 << 20, 1, JITMemoryKind::ReadOnly)), Error::TooLarge { .. }));
    for align in [0, 3, 4 << 20, u64::MAX] {
        assert!(matches!(*cause(provider.allocate(1, align, JITMemoryKind::ReadOnly)), Error::BadAlignment { .. }));
    }
    // SAFETY: allocated above.
    unsafe { kept.write(1) };
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

// What the arena adds.

/// A module with a function, a counter in writable data, and a constant.
fn with_data(module: &mut JITModule, start: u32) -> [cranelift_module::FuncId; 2] {
    [true, false].map(|writable| {
        let name = if writable { "counter" } else { "constant" };
        let id = module.declare_data(name, Linkage::Export, writable, false).unwrap();
        let mut data = DataDescription::new();
        data.set_align(4);
        data.define(Box::from(start.to_ne_bytes()));
        module.define_data(id, &data).unwrap();
        counter(module, &format!("read_{name}"), id, writable)
    })
}

#[test]
fn data_is_in_reach_and_never_executable() {
    let arena = arena();
    let mut module = module(provider(&arena));
    let [counter, constant] = with_data(&mut module, 40);
    module.finalize_definitions().unwrap();
    assert_eq!([(); 3].map(|()| call(&module, counter)), [40, 41, 42]);
    assert_eq!(call(&module, constant), 40);
    assert!(arena.stats().data_bytes > 0);
    #[cfg(target_os = "linux")]
    {
        use common::maps::mappings;
        let at = |data: &str| {
            let Some(cranelift_module::FuncOrDataId::Data(id)) = module.get_name(data) else { panic!("{data}") };
            module.get_finalized_data(id).0
        };
        assert!(arena.contains(at("counter")) && arena.contains(at("constant")));
        assert_eq!(mappings(at("counter").addr(), 1), ["rw-p"]);
        assert_eq!(mappings(at("constant").addr(), 1), ["r--p"]);
        assert_eq!(mappings(module.get_finalized_function(counter).addr(), 1), ["r-xp"]);
    }
    // SAFETY: nobody runs the code any more.
    unsafe { module.free_memory() };
    assert_eq!(arena.stats().data_bytes, 0);
    assert_empty(&arena);
}

#[test]
fn data_can_point_to_functions_and_to_data() {
    let arena = arena();
    let mut module = module(provider(&arena));
    let seven = constant(&mut module, "seven", 7);
    let id = module.declare_data("table", Linkage::Export, true, false).unwrap();
    let mut data = DataDescription::new();
    data.define_zeroinit(2 * size_of::<usize>());
    let (function, itself) =
        (module.declare_func_in_data(seven, &mut data), module.declare_data_in_data(id, &mut data));
    data.write_function_addr(0, function);
    data.write_data_addr(size_of::<usize>() as u32, itself, 3);
    module.define_data(id, &data).unwrap();
    module.finalize_definitions().unwrap();
    let (at, len) = module.get_finalized_data(id);
    assert_eq!(len, 2 * size_of::<usize>());
    // SAFETY: the data is two pointers, which are aligned to eight bytes.
    let pointers = unsafe { *at.cast::<[*const u8; 2]>() };
    assert_eq!((call_at(pointers[0]), pointers[1]), (7, at.wrapping_add(3)));
    // SAFETY: nobody uses it any more.
    unsafe { module.free_memory() };
}

#[test]
fn many_finalizations_share_the_arena_with_everything_else() {
    let arena = CodeArena::builder().capacity(8 << 20).build().unwrap();
    let stop = AtomicBool::new(false);
    let mut module = module(provider(&arena));
    let first = constant(&mut module, "first", 1);
    module.finalize_definitions().unwrap();
    let running = module.get_finalized_function(first).addr();
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| {
            let mut calls = 0u64;
            while !stop.load(Ordering::Relaxed) {
                // The page it lies in is never made writable, or this ends the process.
                assert_eq!(call_at(std::ptr::with_exposed_provenance(running)), 1);
                calls += 1;
            }
            calls
        });
        let mut last = first;
        let mut blocks = Vec::new();
        for n in 0..100 {
            last = one_more(&mut module, &format!("f{n}"), last);
            module.finalize_definitions().unwrap();
            blocks.push(arena.publish(&asm::constant(n)).unwrap());
            assert_eq!(call(&module, last), n as i32 + 2);
            let mut other = clif::module(provider(&arena));
            let functions = with_data(&mut other, n);
            other.finalize_definitions().unwrap();
            assert_eq!(functions.map(|id| call(&other, id)), [n as i32; 2]);
            // SAFETY: nobody runs this module's code any more.
            unsafe { other.free_memory() };
        }
        stop.store(true, Ordering::Relaxed);
        assert!(runner.join().unwrap() > 0);
        assert_eq!(arena.stats().live_blocks, 201);
    });
    // SAFETY: nobody runs the code any more.
    unsafe { module.free_memory() };
    assert_empty(&arena);
}

#[test]
fn modules_come_and_go_in_flat_memory() {
    let arena = arena();
    let mut figures = Vec::new();
    for n in 0..1_000 {
        let mut module = module(provider(&arena));
        let functions = with_data(&mut module, n);
        module.finalize_definitions().unwrap();
        assert_eq!(functions.map(|id| call(&module, id)), [n as i32; 2]);
        // SAFETY: nobody runs the code any more.
        unsafe { module.free_memory() };
        let stats = arena.stats();
        assert_eq!((stats.live_blocks, stats.free_bytes), (0, stats.capacity));
        figures.push(stats.resident_bytes);
    }
    assert_eq!(figures[10], figures[999], "{figures:?}");
}

#[test]
fn a_dropped_module_leaves_what_was_finalized_and_nothing_else() {
    let arena = arena();
    let mut module = module(provider(&arena));
    let functions = with_data(&mut module, 5);
    drop(module);
    assert_empty(&arena);
    let mut module = clif::module(provider(&arena));
    with_data(&mut module, 5);
    module.finalize_definitions().unwrap();
    let code = module.get_finalized_function(functions[0]);
    constant(&mut module, "not finalized", 1);
    drop(module);
    let stats = arena.stats();
    assert_eq!((stats.live_blocks, stats.batch_bytes), (2, 0), "{stats}");
    drop(arena);
    // It can be run as long as the process lives.
    assert_eq!([call_at(code), call_at(code)], [5, 6]);
}

#[test]
fn a_module_may_be_freed_by_its_drop() {
    let arena = arena();
    // SAFETY: nobody runs the code when the module is dropped.
    let provider = unsafe { provider(&arena).free_on_drop() };
    let mut module = module(provider);
    let functions = with_data(&mut module, 1);
    module.finalize_definitions().unwrap();
    assert_eq!(call(&module, functions[0]), 1);
    drop(module);
    assert_empty(&arena);
}

#[test]
fn guards_keep_code_of_a_freed_module() {
    let arena = arena();
    let mut module = module(provider(&arena));
    let id = constant(&mut module, "seven", 7);
    module.finalize_definitions().unwrap();
    let code = module.get_finalized_function(id);
    let guard = arena.pin();
    // SAFETY: the guard keeps the code, and it has no data.
    unsafe { module.free_memory() };
    assert_eq!((arena.stats().pending_blocks, call_at(code)), (1, 7));
    drop(guard);
    assert_empty(&arena);
}

#[test]
fn functions_are_found_and_observers_are_told_their_labels() {
    type Told = (Option<String>, Option<Vec<u8>>);
    #[derive(Default)]
    struct Log(Mutex<Vec<Vec<Told>>>);
    impl Observer for Log {
        fn published(&self, functions: &[Published<'_>]) {
            let told = functions.iter().map(|function| {
                let unwind = match function.unwind {
                    Some(UnwindInfo::EhFrame(bytes)) => Some(bytes.to_vec()),
                    _ => None,
                };
                (function.name.map(String::from), unwind)
            });
            self.0.lock().unwrap().push(told.collect());
        }
    }
    let log = Arc::new(Log::default());
    let arena = small(WxMode::Flip).observer(log.clone()).build().unwrap();
    let provider = provider(&arena).tag(17);
    let labels = provider.labels();
    let mut module = module(provider);
    assert!(!labels.name("nothing yet"));
    let one = constant(&mut module, "one", 1);
    assert!(labels.name("one") && labels.unwind(UnwindInfo::EhFrame(&[1, 2])));
    constant(&mut module, "two", 2);
    module.finalize_definitions().unwrap();
    assert!(!labels.name("too late"));
    let hit = arena.lookup(module.get_finalized_function(one).wrapping_add(1)).unwrap();
    assert_eq!((hit.start, hit.tag), (module.get_finalized_function(one), 17));
    constant(&mut module, "three", 3);
    labels.name("three");
    module.finalize_definitions().unwrap();
    let told = vec![vec![(Some("one".into()), Some(vec![1, 2])), (None, None)], vec![(Some("three".into()), None)]];
    assert_eq!(*log.0.lock().unwrap(), told);
    // SAFETY: nobody runs the code any more.
    unsafe { module.free_memory() };
    assert!(arena.lookup(hit.start).is_none());
}

#[test]
fn modes_that_write_elsewhere_are_refused() {
    for mode in modes() {
        let provider = ArenaMemoryProvider::new(small(mode).build().unwrap());
        match provider {
            Ok(_) => assert_eq!(mode, WxMode::Flip),
            Err(error) => assert!(matches!(error, Error::Unsupported { .. }) && mode != WxMode::Flip, "{error}"),
        }
    }
    if let Ok(arena) = small(WxMode::Flip).seal(true).build() {
        assert!(matches!(ArenaMemoryProvider::new(arena), Err(Error::Unsupported { .. })));
    }
}

/// Elsewhere no module asks for it.
#[test]
fn branch_protection_is_the_arenas() {
    let Ok(with_pads) = small(WxMode::Flip).landing_pads(true).build() else { return };
    let mut provider = provider(&with_pads);
    provider.allocate(16, 16, JITMemoryKind::Executable).unwrap();
    let refused = provider.finalize(BranchProtection::None).unwrap_err();
    let ModuleError::Backend(cause) = refused else { panic!("{refused}") };
    assert!(matches!(cause.downcast_ref(), Some(Error::Unsupported { .. })));
    provider.finalize(BranchProtection::BTI).unwrap();
    let mut provider = self::provider(&arena());
    provider.allocate(16, 16, JITMemoryKind::Executable).unwrap();
    provider.finalize(BranchProtection::BTI).unwrap_err();
    provider.finalize(BranchProtection::None).unwrap();
}
