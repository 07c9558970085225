//! Panics and backtraces through LLVM's functions.
//!
//! LLVM registers their frames itself, at the address that the manager gave `.eh_frame`, and takes
//! them out before it destroys the manager. So the section has to be in reach of the code, and has
//! to stay as long as the engine; nothing else is asked of the manager.

mod common;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use common::{TestResult, arena};
use gaia_jit::UnwindInfo;
use gaia_jit::unwind::{Refusal, Unwinder};
use gaia_jit_llvm::sample::{self, Functions};
use gaia_jit_llvm::{Compiled, Kind, compile};
use inkwell::context::Context;
use inkwell::targets::CodeModel;

extern "C-unwind" fn panics(n: i64) -> i64 {
    // Without the hook's message.
    resume_unwind(Box::new(n))
}

thread_local! {
    static SEEN: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

extern "C-unwind" fn looks_back(n: i64) -> i64 {
    backtrace::trace(|frame| {
        SEEN.with_borrow_mut(|seen| seen.push(frame.ip().addr()));
        true
    });
    n
}

fn outside(function: extern "C-unwind" fn(i64) -> i64) -> [(&'static str, usize); 1] {
    [("from_rust", function as *const () as usize)]
}

fn frames(compiled: &Compiled<'_>) -> Option<(usize, usize)> {
    let sections = compiled.sections().list();
    let section = sections.iter().find(|section| section.name == ".eh_frame")?;
    Some((section.address, section.len))
}

#[test]
fn a_panic_passes_through_and_again_where_another_module_was() -> TestResult {
    let arena = arena();
    let context = Context::create();
    let mut places = Vec::new();
    for n in 0..200 {
        let compiled = compile(&arena, &sample::module(&context)?, CodeModel::JITDefault, &outside(panics))?;
        let (at, _) = frames(&compiled).ok_or("the manager did not see .eh_frame")?;
        assert!(arena.contains(std::ptr::without_provenance(at)));
        places.push(at);
        // SAFETY: compiled from the sample; the function outside has the type of the sample's.
        let functions = unsafe { Functions::of(compiled.engine())? };
        let caught = catch_unwind(AssertUnwindSafe(|| functions.call_out(n)));
        let payload = caught.expect_err("it returned");
        assert_eq!(payload.downcast_ref::<i64>(), Some(&n));
        assert_eq!(functions.count(), 0, "the module works on");
    }
    places.sort_unstable();
    places.dedup();
    assert!(places.len() < 200, "no place was used again");
    Ok(())
}

#[test]
fn a_backtrace_sees_the_function_and_its_caller() -> TestResult {
    let arena = arena();
    let context = Context::create();
    let compiled = compile(&arena, &sample::module(&context)?, CodeModel::JITDefault, &outside(looks_back))?;
    // SAFETY: as above.
    let functions = unsafe { Functions::of(compiled.engine())? };
    assert_eq!(functions.call_out(7), 8);
    let seen = SEEN.take();
    let inside = seen.iter().position(|ip| arena.lookup(std::ptr::without_provenance(ip - 1)).is_some());
    let inside = inside.ok_or("no frame lies in the arena")?;
    let sections = compiled.sections().list();
    let code = sections.iter().find(|section| section.kind == Kind::Code).ok_or("no code")?;
    assert!((code.address..code.end()).contains(&seen[inside]));
    // The test, the harness, the thread's first function.
    assert!(seen.len() > inside + 3, "{} frames, of which number {inside} is LLVM's", seen.len());
    Ok(())
}

/// The arena's own unwinder takes frames that are counted from the start of one function. LLVM's
/// are relative to where they lie, and of many functions, already linked.
#[test]
fn frames_of_llvm_are_not_for_the_arenas_unwinder() -> TestResult {
    let arena = arena();
    let context = Context::create();
    let compiled = compile(&arena, &sample::module(&context)?, CodeModel::JITDefault, &sample::outside())?;
    let (at, len) = frames(&compiled).ok_or("the manager did not see .eh_frame")?;
    // SAFETY: a section of the engine's, which lives; LLVM writes to it no more.
    let bytes = unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(at), len) };
    let refused = Unwinder::check(UnwindInfo::EhFrame(bytes), &[0; 4096]);
    assert!(matches!(refused, Err(Refusal::Encoding { .. })), "{refused:?}");
    Ok(())
}
