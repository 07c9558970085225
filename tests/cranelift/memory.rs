//! Tests of how much memory modules take, and of its owners.
//!
//! | What | How it is checked |
//! |---|---|
//! | forked children | allocation and finalization are refused; inherited functions run |
//! | a finalization that fails | the data stays readable, and no other module gets its place |
//! | definitions after the last finalization | the drop of the module frees them |
//! | mappings and pages | 200 modules add two readable mappings at most; one round of definitions takes two pages at most |
//! | owners | the memory lives as long as the module or a clone of `provider.memory()` |
//!
//! The first two tests run in child processes on Linux: one forks, and the other forbids `mprotect`
//! by a filter for the rest of the process. Where there are no filters, it prints `NOT RUN`. A
//! failed finalization is tested because the module returns addresses of the data after it. If the
//! memory were freed then, they would lead to memory of another module.

use super::added::with_data;
use super::clif::{call, call_at, constant, counter, module};
#[cfg(target_os = "linux")]
use super::common::asm;
use super::{arena, assert_empty, provider};
use cranelift_jit::{BranchProtection, JITMemoryKind, JITMemoryProvider};
use cranelift_module::{DataDescription, Linkage, Module, ModuleError};
use gaia_jit::cranelift::CodeArenaProvider;
use gaia_jit::{CodeArena, Error};

/// A forked child is refused memory, because it could not publish in it.
#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_is_refused() {
    use super::common::{child, fork::fork};
    child::run("a_forked_child_is_refused", || {
        let arena = arena();
        let mut inherited = provider(&arena).tag(1);
        let kinds = || [JITMemoryKind::Writable, JITMemoryKind::ReadOnly, JITMemoryKind::Executable];
        // There is room for more.
        for kind in kinds() {
            inherited.allocate(16, 16, kind).unwrap();
        }
        let mut whole = module(provider(&arena));
        let seven = constant(&mut whole, "seven", 7);
        whole.finalize_definitions().unwrap();
        assert!(fork(|| {
            let made = CodeArenaProvider::new(arena.clone());
            assert!(matches!(made, Err(Error::Forked { .. })), "{made:?}");
            for kind in kinds() {
                let cause = inherited.allocate(16, 16, kind).unwrap_err().into_inner().unwrap();
                assert!(matches!(cause.downcast_ref(), Some(Error::Forked { .. })), "{cause}");
            }
            let ModuleError::Backend(cause) = inherited.finalize(BranchProtection::None).unwrap_err() else { panic!() };
            assert!(matches!(cause.downcast_ref(), Some(Error::Forked { .. })), "{cause}");
            // Inherited code runs, and can be dropped.
            assert_eq!(call(&whole, seven), 7);
            let own = self::arena();
            let mut mine = module(provider(&own));
            let eight = constant(&mut mine, "eight", 8);
            mine.finalize_definitions().unwrap();
            assert_eq!(call(&mine, eight), 8);
        }));
        inherited.finalize(BranchProtection::None).unwrap();
        // SAFETY: nobody uses it.
        unsafe { inherited.free_memory() };
        // SAFETY: nobody runs the code any more.
        unsafe { whole.free_memory() };
        drop(inherited);
        assert_empty(&arena);
    });
}

/// The module returns addresses from then on, so the memory has to stay.
#[cfg(target_os = "linux")]
#[test]
fn what_finalize_was_called_for_stays_although_it_failed() {
    use super::common::{child, not_run, sandbox};
    const NAME: &str = "what_finalize_was_called_for_stays_although_it_failed";
    child::run(NAME, || {
        let arena = arena();
        let mut module = module(provider(&arena));
        with_data(&mut module, 5);
        let before = (arena.stats().batch_bytes, arena.stats().data_bytes);
        if !sandbox::deny(libc::SYS_mprotect) {
            return not_run(NAME, "there are no filters of system calls");
        }
        assert!(module.finalize_definitions().is_err());
        let at = |name: &str| {
            let Some(cranelift_module::FuncOrDataId::Data(id)) = module.get_name(name) else { panic!("{name}") };
            module.get_finalized_data(id).0.cast::<u32>()
        };
        let data = [at("counter"), at("constant")];
        drop(module);
        // SAFETY: the module returned the address in safe code, and data of a module that was not
        // freed lives for ever.
        assert_eq!(data.map(|at| unsafe { at.read() }), [5, 5]);
        assert_eq!((arena.stats().batch_bytes, arena.stats().data_bytes), before);
        // No other module gets this memory.
        let mut other = super::clif::module(provider(&arena));
        let id = other.declare_data("other", Linkage::Export, true, false).unwrap();
        let mut description = DataDescription::new();
        description.define(vec![9; 8192].into());
        other.define_data(id, &description).unwrap();
        // SAFETY: as above.
        assert_eq!(data.map(|at| unsafe { at.read() }), [5, 5]);
    });
}

#[test]
fn what_was_defined_since_comes_back() {
    let arena = arena();
    let mut module = module(provider(&arena));
    with_data(&mut module, 5);
    module.finalize_definitions().unwrap();
    let finalized = (arena.stats().data_bytes, arena.stats().live_blocks);
    for (name, writable) in [("more", true), ("more constants", false)] {
        let id = module.declare_data(name, Linkage::Export, writable, false).unwrap();
        let mut data = DataDescription::new();
        data.define(vec![1; 20_000].into());
        module.define_data(id, &data).unwrap();
    }
    constant(&mut module, "more code", 1);
    assert!(arena.stats().data_bytes >= finalized.0 + 40_000);
    drop(module);
    assert_eq!((arena.stats().data_bytes, arena.stats().live_blocks, arena.stats().batch_bytes), (finalized.0, 2, 0));
}

/// There are few mappings, because writable data and constants are taken from two ends.
#[cfg(target_os = "linux")]
#[test]
fn data_of_many_modules_is_a_few_mappings() {
    use super::common::maps::mappings;
    let arena = CodeArena::builder().capacity(8 << 20).data(32 << 20).build().unwrap();
    let somewhere = arena.publish(&asm::constant(1)).unwrap();
    // From the code, which is first, to the end of the data.
    let all = || mappings(somewhere.as_ptr().addr(), 41 << 20);
    let mut modules = Vec::new();
    let (mut first, mut last) = (0, 0);
    for n in 0..200 {
        let mut module = module(provider(&arena));
        for (name, writable) in [("data", true), ("constants", false)] {
            let id = module.declare_data(name, Linkage::Export, writable, false).unwrap();
            let mut data = DataDescription::new();
            data.define(vec![n as u8; 64 << 10].into());
            module.define_data(id, &data).unwrap();
        }
        constant(&mut module, "one", n);
        module.finalize_definitions().unwrap();
        last = all().iter().filter(|access| access.starts_with('r')).count();
        if n == 0 {
            first = last;
        }
        modules.push(module);
    }
    assert!(last <= first + 2, "{first} mappings, then {last}: {:?}", all());
    // SAFETY: nobody runs the code any more.
    modules.into_iter().for_each(|module| unsafe { module.free_memory() });
    drop(somewhere);
    assert_empty(&arena);
}

/// A page of code and a page of constants for each `finalize_definitions` that follows definitions.
#[test]
fn a_round_takes_two_pages() {
    let arena = CodeArena::builder().capacity(8 << 20).data(8 << 20).build().unwrap();
    let page = region::page::size();
    let mut module = module(provider(&arena));
    let rounds = 400.min((8 << 20) / page as i64 - 20);
    for n in 0..rounds {
        let id = module.declare_data(&format!("data{n}"), Linkage::Export, false, false).unwrap();
        let mut data = DataDescription::new();
        data.define((n as u64).to_ne_bytes().into());
        module.define_data(id, &data).unwrap();
        let function = counter(&mut module, &format!("f{n}"), id, false);
        module.finalize_definitions().unwrap();
        assert_eq!(i64::from(call(&module, function)), n);
    }
    let (stats, most) = (arena.stats(), rounds as u64 * page as u64);
    assert!(stats.resident_bytes as u64 <= most, "{stats}");
    assert!(stats.data_resident_bytes as u64 <= most && stats.data_bytes as u64 <= most, "{stats}");
    // SAFETY: nobody runs the code any more.
    unsafe { module.free_memory() };
    assert_empty(&arena);
}

#[test]
fn the_memory_of_a_module_has_an_owner_of_its_own() {
    fn shared(_: &(impl Send + Sync)) {}
    for module_first in [true, false] {
        let arena = arena();
        let mut provider = provider(&arena);
        // SAFETY: what is called below is called while the memory lives.
        let memory = unsafe { provider.memory() };
        // SAFETY: as above.
        let same = unsafe { provider.memory() };
        shared(&memory);
        let mut module = module(provider);
        let functions = with_data(&mut module, 1);
        module.finalize_definitions().unwrap();
        constant(&mut module, "not finalized", 1);
        let code = functions.map(|id| module.get_finalized_function(id).expose_provenance());
        let run = || code.map(|at| call_at(std::ptr::with_exposed_provenance(at)));
        if module_first {
            drop((module, same));
            std::thread::scope(|scope| {
                scope.spawn(|| assert_eq!([run(), run()], [[1, 1], [2, 1]]));
            });
            drop(memory);
        } else {
            drop((memory, same));
            assert_eq!(run(), [1, 1]);
            drop(module);
        }
        assert_empty(&arena);
    }
}

#[test]
fn the_last_owner_frees_the_memory() {
    let arena = arena();
    let mut provider = provider(&arena);
    // SAFETY: nobody calls anything.
    let memory = unsafe { provider.memory() };
    let mut module = module(provider);
    with_data(&mut module, 1);
    module.finalize_definitions().unwrap();
    drop(module);
    assert_eq!(arena.stats().live_blocks, 2);
    let other = memory.clone();
    drop(memory);
    assert_eq!(arena.stats().live_blocks, 2);
    drop(other);
    assert_empty(&arena);
    // After `free_memory` nothing is left for the owner.
    let mut provider = self::provider(&arena);
    // SAFETY: as above.
    let memory = unsafe { provider.memory() };
    let mut module = super::clif::module(provider);
    with_data(&mut module, 1);
    module.finalize_definitions().unwrap();
    // SAFETY: nobody runs the code.
    unsafe { module.free_memory() };
    assert_empty(&arena);
    drop(memory);
    assert_empty(&arena);
}
