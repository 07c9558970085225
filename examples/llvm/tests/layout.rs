//! Where sections lie, and what is refused.
//!
//! | what | how it is checked | mistake that it finds |
//! |---|---|---|
//! | sections of 100 modules | inside the reservation, disjoint, within 2 GiB, although 2 GiB are mapped between modules | a section that LLVM put elsewhere |
//! | small code model | runs and is smaller in a low arena; on x86-64 it is refused in a high one | a relocation that is cut off |
//! | full arena | an error for code and for data, and success after half of the modules are gone | an end of the process by LLVM |
//! | drop of a module | its code is found while an engine is left, and nothing afterwards | a leak, or code freed too early |
//! | other modes | `Error::Unsupported` | writes by LLVM to addresses that are not writable |
//! | mappings | at most one more for each 64 KiB of constants | a mapping for each section |
//! | protections | `/proc/self/maps` for each section | a section that is writable and executable at once |
//!
//! A test that needs what the machine does not have prints `NOT RUN`.

mod common;

use common::{TestResult, arena, low_arena};
use gaia_jit::{CodeArena, Error, WxMode};
use gaia_jit_llvm::sample::{self, Functions};
use gaia_jit_llvm::{Failure, Kind, compile};
use inkwell::context::Context;
use inkwell::targets::CodeModel;

/// The shortest reach that LLVM's linker cannot bridge by a stub: a page-relative address of
/// AArch64 (4 GiB) and a relative one of x86-64 (2 GiB).
const REACH: usize = 2 << 30;

#[test]
fn every_section_of_many_modules_lies_in_the_one_reservation() -> TestResult {
    let arena = arena();
    let context = Context::create();
    let mut all = Vec::new();
    for _ in 0..100 {
        let compiled = compile(&arena, &sample::module(&context)?, CodeModel::JITDefault, &sample::outside())?;
        // Something of the program's own between one module and the next, as large as the reach.
        all.push((compiled, common::Far::new(REACH)));
    }
    let mut ends = Vec::new();
    for (compiled, _) in &all {
        let sections = compiled.sections().list();
        for kind in [Kind::Code, Kind::Constants, Kind::Variables] {
            assert!(sections.iter().any(|section| section.kind == kind), "no section is {kind:?}");
        }
        for section in sections.iter() {
            let last = std::ptr::without_provenance(section.end() - 1);
            assert!(arena.contains(std::ptr::without_provenance(section.address)), "{section:?}");
            assert!(arena.contains(last), "{section:?}");
            ends.push((section.address, section.end()));
        }
    }
    ends.sort_unstable();
    assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0), "two sections overlap");
    let spread = ends[ends.len() - 1].1 - ends[0].0;
    assert!(spread <= arena.capacity() + arena.stats().data_capacity + (1 << 20), "they are {spread} bytes apart");
    assert!(spread < REACH);
    for (compiled, _) in &all {
        // SAFETY: compiled from the sample.
        unsafe { Functions::of(compiled.engine())? }.check()?;
    }
    Ok(())
}

#[test]
fn the_small_model_works_where_the_arena_is_in_reach() -> TestResult {
    let Some(arena) = low_arena() else {
        println!("NOT RUN: all addresses below 2 GiB are taken");
        return Ok(());
    };
    let context = Context::create();
    let compiled = compile(&arena, &sample::module(&context)?, CodeModel::Small, &sample::outside())?;
    // SAFETY: compiled from the sample.
    unsafe { Functions::of(compiled.engine())? }.check()?;
    // Nothing outside is called, which takes a stub in the small model.
    let code = |model: CodeModel| -> Result<usize, Failure> {
        let compiled = compile(&arena, &sample::parse(&context, COUNTERS)?, model, &[])?;
        let sections = compiled.sections().list();
        Ok(sections.iter().filter(|section| section.kind == Kind::Code).map(|section| section.len).sum())
    };
    let (small, large) = (code(CodeModel::Small)?, code(CodeModel::Large)?);
    println!("code of {small} bytes, {large} in the large model");
    assert!(small < large);
    Ok(())
}

const COUNTERS: &str = "
@first = dso_local global i64 0
@second = dso_local global i64 0
define i64 @count() {
    %first = load i64, ptr @first
    %second = load i64, ptr @second
    store i64 %second, ptr @first
    store i64 %first, ptr @second
    ret i64 %first
}
";

#[test]
#[cfg(target_arch = "x86_64")]
fn the_small_model_is_refused_where_it_is_not() -> TestResult {
    let arena = arena();
    assert!(arena.base().addr() > REACH, "the arena lies low although nobody asked for it");
    let context = Context::create();
    let refused = compile(&arena, &sample::module(&context)?, CodeModel::Small, &sample::outside());
    assert!(matches!(refused, Err(Failure::OutOfReach { .. })), "{refused:?}");
    assert_eq!(arena.stats().live_blocks, 0);
    Ok(())
}

/// Without the manager's ordinary memory LLVM would end the process here.
#[test]
fn a_full_arena_is_an_error_and_room_cures_it() -> TestResult {
    for data in [false, true] {
        let sized = CodeArena::builder();
        let arena = if data { sized.data(256 << 10) } else { sized.capacity(128 << 10).data(4 << 20) }.build()?;
        let context = Context::create();
        let mut all = Vec::new();
        let full = loop {
            match compile(&arena, &sample::module(&context)?, CodeModel::JITDefault, &sample::outside()) {
                Ok(compiled) => all.push(compiled),
                Err(full) => break full,
            }
        };
        match &full {
            Failure::Memory(Error::ArenaFull { .. }) => assert!(!data, "{full}"),
            Failure::Memory(Error::DataFull { .. }) => assert!(data, "{full}"),
            other => panic!("{other}"),
        }
        assert!(all.len() >= 8, "{} modules and then: {full}", all.len());
        for compiled in &all {
            // SAFETY: compiled from the sample.
            unsafe { Functions::of(compiled.engine())? }.check()?;
        }
        all.truncate(all.len() / 2);
        let compiled = compile(&arena, &sample::module(&context)?, CodeModel::JITDefault, &sample::outside())?;
        // SAFETY: compiled from the sample.
        unsafe { Functions::of(compiled.engine())? }.check()?;
    }
    Ok(())
}

#[test]
fn a_module_that_is_dropped_leaves_nothing() -> TestResult {
    let arena = arena();
    let context = Context::create();
    let compiled = compile(&arena, &sample::module(&context)?, CodeModel::JITDefault, &sample::outside())?;
    let inside = std::ptr::without_provenance(compiled.address("sum")?);
    let engine = compiled.engine().clone();
    drop(compiled);
    assert!(arena.lookup(inside).is_some(), "an engine is left");
    // SAFETY: compiled from the sample.
    unsafe { Functions::of(&engine)? }.check()?;
    drop(engine);
    assert!(arena.lookup(inside).is_none());
    let stats = arena.stats();
    assert_eq!((stats.live_blocks, stats.free_bytes, stats.data_bytes), (0, stats.capacity, 0));
    Ok(())
}

/// LLVM writes code at the address where it will run, which is readable and executable there.
#[test]
fn modes_with_another_way_in_are_refused() -> TestResult {
    for mode in [WxMode::DualMap, WxMode::FileWrite, WxMode::PerThread] {
        let arena = match CodeArena::builder().capacity(1 << 20).mode(mode).build() {
            Ok(arena) => arena,
            Err(refused) => {
                println!("NOT RUN: {mode:?}: {refused}");
                continue;
            }
        };
        let context = Context::create();
        let refused = compile(&arena, &sample::module(&context)?, CodeModel::JITDefault, &sample::outside());
        assert!(matches!(refused, Err(Failure::Memory(Error::Unsupported { .. }))), "{mode:?}: {refused:?}");
    }
    Ok(())
}

/// LLVM's own manager has three for each module, and a process has 65,530. In an arena it is one
/// for each 64 KiB of constants, because Linux does not join all that was written apart.
#[test]
fn mappings_are_few() -> TestResult {
    let arena = arena();
    let context = Context::create();
    let make = || compile(&arena, &sample::module(&context)?, CodeModel::JITDefault, &sample::outside());
    let mut alive = vec![make()?];
    let one = common::mappings(&arena)?;
    for _ in 0..100 {
        alive.push(make()?);
    }
    let (many, constants) = (common::mappings(&arena)?, arena.stats().data_resident_bytes);
    println!("{one} mappings with a module, {many} with {}", alive.len());
    if std::env::var_os("GAIA_TEST_EMULATED").is_some() {
        println!("NOT RUN: how many mappings: an emulator's list does not join neighbours as the kernel does");
        return Ok(());
    }
    assert!(many <= one + constants.div_ceil(64 << 10) + 1, "{many} mappings for {constants} bytes of constants");
    assert!(many < alive.len());
    Ok(())
}

#[test]
fn no_page_is_writable_and_executable_and_constants_are_read_only() -> TestResult {
    let arena = arena();
    let context = Context::create();
    let compiled = compile(&arena, &sample::module(&context)?, CodeModel::JITDefault, &sample::outside())?;
    for section in compiled.sections().list().iter() {
        let right = match section.kind {
            Kind::Code => "r-x",
            Kind::Constants => "r--",
            Kind::Variables => "rw-",
        };
        assert_eq!(common::protection(section.address)?, right, "{section:?}");
    }
    Ok(())
}
