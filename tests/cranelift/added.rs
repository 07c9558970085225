//! Tests of the parts that an arena adds to `cranelift-jit`.
//!
//! | What | How it is checked |
//! |---|---|
//! | data beside code | functions read and write it; on Linux the list of mappings shows that it is not executable |
//! | many modules in one arena | a thread runs a function during 100 finalizations; memory is flat over 1,000 modules |
//! | the end of a module | a drop frees what was not finalized; `free_on_drop` frees the rest; a guard keeps freed code |
//! | labels and tags | `lookup` returns the tag, and an observer gets names and unwind information |
//! | modes, seals and branch protection | a provider exists for `Flip` without seals; landing pads have to agree with the module |
//!
//! The running thread exists to catch a page that becomes writable under live code, because such a
//! page ends the process. `clif.rs` compiles the functions. `assert_empty` of `main.rs` checks
//! after most tests that no byte is left.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::clif::{call, call_at, constant, counter, module, one_more};
use super::common::{StopOnDrop, asm, modes, small};
use super::{arena, assert_empty, provider};
use cranelift_jit::{BranchProtection, JITMemoryKind, JITMemoryProvider, JITModule};
use cranelift_module::{DataDescription, Linkage, Module, ModuleError};
use gaia_jit::cranelift::CodeArenaProvider;
use gaia_jit::{CodeArena, Error, Observer, Published, UnwindInfo, WxMode};

/// Defines a counter in writable data and a constant, and for each of them a function that uses it.
pub(super) fn with_data(module: &mut JITModule, start: u32) -> [cranelift_module::FuncId; 2] {
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
        use super::common::maps::mappings;
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
        let ended = StopOnDrop(&stop);
        let runner = scope.spawn(|| {
            let mut calls = 0u64;
            while !stop.load(Ordering::Relaxed) {
                // The page of this code is never made writable. Otherwise this ends the process.
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
            let mut other = super::clif::module(provider(&arena));
            let functions = with_data(&mut other, n);
            other.finalize_definitions().unwrap();
            assert_eq!(functions.map(|id| call(&other, id)), [n as i32; 2]);
            // SAFETY: nobody runs this module's code any more.
            unsafe { other.free_memory() };
        }
        drop(ended);
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

/// Rounds that use most of the arena and free all of it. The pages of the last round are used
/// before pages that were never used, without a call that counts or trims in between.
#[test]
fn freed_pages_are_used_before_fresh_ones() {
    for modules in [60, 100, 160, 240] {
        let arena = arena();
        let mut figures = Vec::new();
        for _ in 0..4 {
            let modules: Vec<JITModule> = (0..modules)
                .map(|n| {
                    let mut module = module(provider(&arena));
                    let id = constant(&mut module, "one", n);
                    module.finalize_definitions().unwrap();
                    assert_eq!(i64::from(call(&module, id)), n);
                    module
                })
                .collect();
            figures.push(arena.stats().resident_bytes);
            // SAFETY: nobody runs the code any more.
            modules.into_iter().for_each(|module| unsafe { module.free_memory() });
        }
        assert!(figures.iter().all(|pages| *pages == figures[0]), "{modules}: {figures:?}");
    }
}

#[test]
fn a_dropped_module_leaves_what_was_finalized_and_nothing_else() {
    let arena = arena();
    let mut module = module(provider(&arena));
    let functions = with_data(&mut module, 5);
    drop(module);
    assert_empty(&arena);
    let mut module = super::clif::module(provider(&arena));
    with_data(&mut module, 5);
    module.finalize_definitions().unwrap();
    let code = module.get_finalized_function(functions[0]);
    constant(&mut module, "not finalized", 1);
    drop(module);
    let stats = arena.stats();
    assert_eq!((stats.live_blocks, stats.batch_bytes), (2, 0), "{stats}");
    drop(arena);
    // The code can be run as long as the process lives.
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
    // SAFETY: the guard keeps the code, and the module has no data.
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
fn every_mode_works_or_is_refused() {
    for mode in modes() {
        let arena = small(mode).build().unwrap();
        let in_place = mode == WxMode::Flip;
        let provider = match CodeArenaProvider::new(arena.clone()) {
            Ok(provider) => provider,
            Err(error) => {
                assert!(matches!(error, Error::Unsupported { .. }) && !in_place, "{mode:?}: {error}");
                continue;
            }
        };
        assert!(in_place, "{mode:?}");
        let mut module = module(provider);
        for round in 0..5 {
            let seven = constant(&mut module, &format!("seven{round}"), 7 + round);
            let more = one_more(&mut module, &format!("more{round}"), seven);
            if round == 0 {
                let functions = with_data(&mut module, 40);
                module.finalize_definitions().unwrap();
                assert_eq!(functions.map(|id| call(&module, id)), [40; 2], "{mode:?}");
            }
            let other = arena.publish(&asm::constant(9)[..]).unwrap();
            module.finalize_definitions().unwrap();
            assert_eq!((call(&module, more), super::common::call(&other)), (8 + round as i32, 9), "{mode:?}");
        }
        // SAFETY: nobody runs the code any more.
        unsafe { module.free_memory() };
        assert_empty(&arena);
        arena.trim().unwrap();
        assert_eq!(arena.stats().data_resident_bytes, 0);
    }
    if let Ok(arena) = small(WxMode::Flip).seal(true).build() {
        assert!(matches!(CodeArenaProvider::new(arena), Err(Error::Unsupported { .. })));
    }
}

/// On other architectures no module asks for it.
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
