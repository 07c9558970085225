//! Tests of panics and backtraces through published functions.
//!
//! | What | How it is checked |
//! |---|---|
//! | panics | they pass through functions, redirects and Cranelift modules; values on the way are dropped |
//! | backtraces | as many frames are found behind the function as without it; without information the trace ends |
//! | registration | the number of registered functions follows batches, drops, guards and the end of the arena |
//! | information that is not whole | it is counted with a reason, and not registered |
//! | threads | one `Unwinder` serves several arenas while neighbours come and go |
//! | LLVM's unwinder | the test binary runs two of its tests again with that library preloaded |
//!
//! Cranelift compiles the functions and their information (`common/frames.rs`). The test with
//! LLVM's unwinder starts another process, because a library can be preloaded only there. It prints
//! `NOT RUN` if LLVM's libunwind is not installed. Frees in random order exist to catch information
//! that stays for a place with other code, because a panic would then follow wrong frames.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
#![cfg(any(target_arch = "x86_64", all(target_arch = "aarch64", unix), target_arch = "s390x"))]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/frames.rs"]
mod frames;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod lookup;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use common::{asm, modes, small};
use frames::{Compiled, caller, isa};
use gaia_jit::unwind::{Refusal, Unwinder};
use gaia_jit::{Code, CodeArena, CodeBlock, UnwindInfo, WxMode};

type Callee = extern "C-unwind" fn();

fn arena(unwinder: &Unwinder, mode: WxMode) -> CodeArena {
    unwinder.attach(small(mode)).build().unwrap()
}

fn publish(arena: &CodeArena, function: &Compiled) -> CodeBlock {
    arena.publish(Code::new(&function.code).unwind(function.unwind())).unwrap()
}

/// Calls `callee` through a published function.
fn call_through(code: *const u8, callee: Callee) {
    // SAFETY: the function takes a function and calls it, and is alive.
    let function = unsafe { std::mem::transmute::<*const u8, extern "C-unwind" fn(Callee)>(code) };
    function(callee);
}

/// Returns the return addresses, from the caller outwards.
fn backtrace_addresses() -> Vec<usize> {
    let mut addresses = Vec::new();
    backtrace::trace(|frame| {
        addresses.push(frame.ip().addr());
        true
    });
    addresses
}

static SEEN: Mutex<Vec<usize>> = Mutex::new(Vec::new());
/// Only one test at a time may read the stack.
static LOOKING: Mutex<()> = Mutex::new(());

extern "C-unwind" fn look() {
    *SEEN.lock().unwrap() = backtrace_addresses();
}

extern "C-unwind" fn fail() {
    // Without the output of the panic hook.
    std::panic::resume_unwind(Box::new(42));
}

/// Returns the payload of the panic of `f`.
fn catch(f: impl FnOnce()) -> Box<dyn Any + Send> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_err()
}

/// Reads the stack inside of the function. Returns whether the function is there, and whether this
/// Rust function is behind it.
fn seen_from(block: &CodeBlock) -> (bool, bool) {
    let _one = LOOKING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    #[inline(never)]
    fn outer(block: &CodeBlock) -> usize {
        call_through(block.as_ptr(), look);
        backtrace_addresses().len()
    }
    let depth = outer(block);
    let seen = SEEN.lock().unwrap();
    let start = block.as_ptr().addr();
    let at = seen.iter().position(|address| (start..start + block.len() + 1).contains(address));
    // There are as many frames behind it as outside.
    (at.is_some(), at.is_some_and(|at| seen.len() - at + 2 > depth))
}

#[test]
fn panics_pass_through() {
    let unwinder = Unwinder::new().unwrap();
    let function = caller(&*isa());
    for mode in modes() {
        let arena = arena(&unwinder, mode);
        let block = publish(&arena, &function);
        assert_eq!((unwinder.registered(), unwinder.last_refusal()), (1, None));
        for _ in 0..3 {
            let dropped = Mutex::new(false);
            struct Sets<'a>(&'a Mutex<bool>);
            impl Drop for Sets<'_> {
                fn drop(&mut self) {
                    *self.0.lock().unwrap() = true;
                }
            }
            let caught = catch(|| {
                let _sets = Sets(&dropped);
                call_through(block.as_ptr(), fail);
            });
            assert_eq!(caught.downcast_ref(), Some(&42));
            assert!(*dropped.lock().unwrap());
        }
        drop(block);
        assert_eq!(unwinder.registered(), 0);
    }
}

/// A redirect has no frame of its own. The unwinder sees its target, as called by the redirect's
/// caller.
#[test]
fn panics_pass_through_a_redirect() {
    let unwinder = Unwinder::new().unwrap();
    let function = caller(&*isa());
    for mode in modes() {
        let arena = arena(&unwinder, mode);
        let entry = arena.redirect(publish(&arena, &function)).unwrap();
        for _ in 0..2 {
            let caught = catch(|| call_through(entry.as_ptr(), fail));
            assert_eq!(caught.downcast_ref(), Some(&42), "{mode:?}");
            drop(entry.swap(publish(&arena, &function)).unwrap());
        }
        drop(entry);
        assert_eq!(unwinder.registered(), 0);
    }
}

#[test]
fn backtraces_go_on_behind_it() {
    let unwinder = Unwinder::new().unwrap();
    let arena = arena(&unwinder, WxMode::Flip);
    let function = caller(&*isa());
    let block = publish(&arena, &function);
    assert_eq!(seen_from(&block), (true, true));
    if cfg!(unix) {
        let without = arena.publish(&function.code).unwrap();
        assert!(!seen_from(&without).1, "it ends where nothing is known");
    }
    extern "C-unwind" fn print() {
        TEXT.lock().unwrap().push_str(&std::backtrace::Backtrace::force_capture().to_string());
    }
    static TEXT: Mutex<String> = Mutex::new(String::new());
    call_through(block.as_ptr(), print);
    assert!(TEXT.lock().unwrap().contains("backtraces_go_on_behind_it"), "Rust's own sees beyond");
}

#[test]
fn functions_of_a_batch_are_freed_one_by_one() {
    let unwinder = Unwinder::new().unwrap();
    let arena = arena(&unwinder, WxMode::Flip);
    let function = caller(&*isa());
    let mut blocks: Vec<_> = Vec::new();
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..20 {
        let mut batch = arena.batch();
        for _ in 0..10 {
            batch.push(Code::new(&function.code).unwind(function.unwind())).unwrap();
        }
        blocks.extend(batch.publish().unwrap());
        random.shuffle(&mut blocks);
        blocks.truncate(5 + round);
        assert_eq!(unwinder.registered(), blocks.len());
        // Each function is in holes of others.
        for block in &blocks {
            assert_eq!(seen_from(block), (true, true));
            catch(|| call_through(block.as_ptr(), fail));
        }
    }
    drop(blocks);
    assert_eq!(unwinder.registered(), 0);
}

#[test]
fn dropped_functions_are_known_as_long_as_guards_keep_them() {
    let unwinder = Unwinder::new().unwrap();
    let arena = arena(&unwinder, WxMode::Flip);
    let block = publish(&arena, &caller(&*isa()));
    let code = block.as_ptr();
    let guard = arena.pin();
    drop(block);
    assert_eq!(unwinder.registered(), 1);
    catch(|| call_through(code, fail));
    drop(guard);
    arena.stats();
    assert_eq!(unwinder.registered(), 0);
    // Functions that wait when the arena is dropped are deregistered with it.
    let block = publish(&arena, &caller(&*isa()));
    let guard = arena.pin();
    drop(block);
    drop(guard);
    drop(arena);
    assert_eq!(unwinder.registered(), 0);
}

#[test]
fn what_is_not_whole_is_counted_and_not_registered() {
    let unwinder = Unwinder::new().unwrap();
    let arena = arena(&unwinder, WxMode::Flip);
    let function = caller(&*isa());
    let other = if cfg!(windows) { UnwindInfo::EhFrame(&[]) } else { UnwindInfo::Windows { offset: 4, code: 4 } };
    let block = arena.publish(Code::new(&function.code).tag(1).unwind(other)).unwrap();
    assert_eq!((unwinder.registered(), unwinder.refused()), (0, 1));
    let (refused, why) = unwinder.last_refusal().unwrap();
    assert_eq!((refused.start, refused.tag, why), (block.as_ptr(), 1, Refusal::Form));
    let _without = arena.publish(&asm::constant(1)).unwrap();
    assert_eq!((unwinder.registered(), unwinder.refused()), (0, 1));
    assert_eq!(Unwinder::check(function.unwind(), &function.code), Ok(()));
    let shorter = Unwinder::check(function.unwind(), &function.code[..function.code.len() - 1]);
    assert!(matches!(shorter, Err(Refusal::Range { .. } | Refusal::Windows { .. })), "{shorter:?}");
}

#[test]
fn one_unwinder_serves_arenas_and_threads() {
    let unwinder = Unwinder::new().unwrap();
    let function = caller(&*isa());
    // Besides the threads' own arenas there is one in which each unwinds through neighbours of
    // functions that the others publish and drop.
    let shared = arena(&unwinder, WxMode::Flip);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut neighbours = Vec::new();
                // An arena that is attached twice works.
                let arena = unwinder.attach(unwinder.attach(small(WxMode::Flip))).build().unwrap();
                let mut blocks: Vec<CodeBlock> = Vec::new();
                for n in 0..300 {
                    blocks.push(publish(&arena, &function));
                    if n % 3 != 0 {
                        blocks.swap_remove(n / 5);
                    }
                    let block = &blocks[n % blocks.len()];
                    catch(|| call_through(block.as_ptr(), fail));
                    neighbours.push(publish(&shared, &function));
                    neighbours.drain(..neighbours.len().saturating_sub(5));
                    catch(|| call_through(neighbours[0].as_ptr(), fail));
                }
            });
        }
    });
    drop(shared);
    assert_eq!(unwinder.registered(), 0);
}

/// A process with LLVM's unwinder, in which some library loaded libgcc as well: everything is
/// registered with the one that is used.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn another_unwinder_serves_beside_libgcc() {
    let llvm = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut libraries = llvm.map(|path| path.join("lib/libunwind.so.1")).filter(|path| path.exists()).peekable();
    let foreign = std::env::var_os("CROSS_RUNNER").is_some() || cfg!(target_feature = "crt-static");
    if libraries.peek().is_none() || foreign {
        return common::not_run("another_unwinder_serves_beside_libgcc", "LLVM's libunwind is not installed");
    }
    for library in libraries {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "panics_pass_through", "functions_of_a_batch_are_freed_one_by_one"]);
        let output = command.env("LD_PRELOAD", &library).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.contains("2 passed"), "{}: {out}\n{err}", library.display());
        assert!(!err.contains("cannot be preloaded"), "{err}");
    }
}

/// Functions of a module, which get names and unwind information only by labels.
#[cfg(all(feature = "cranelift", unix))]
#[test]
fn panics_pass_through_modules() {
    use cranelift_codegen::ir::{AbiParam, InstBuilder};
    use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
    use cranelift_jit::{JITBuilder, JITModule};
    use cranelift_module::{Linkage, Module, default_libcall_names};
    use gaia_jit::cranelift::CodeArenaProvider;

    let unwinder = Unwinder::new().unwrap();
    let arena = arena(&unwinder, WxMode::Flip);
    let provider = CodeArenaProvider::new(arena.clone()).unwrap();
    let labels = provider.labels();
    let mut builder = JITBuilder::new(default_libcall_names()).unwrap();
    builder.memory_provider(Box::new(provider));
    let mut module = JITModule::new(builder);
    let pointer = module.target_config().pointer_type();
    let mut signature = module.make_signature();
    signature.params.push(AbiParam::new(pointer));
    let mut last = None;
    // The first function calls its argument. The second calls the first with its own argument.
    for name in ["first", "second"] {
        let id = module.declare_function(name, Linkage::Export, &signature).unwrap();
        let mut context = module.make_context();
        context.func.signature = signature.clone();
        let mut frontend = FunctionBuilderContext::new();
        let mut function = FunctionBuilder::new(&mut context.func, &mut frontend);
        let block = function.create_block();
        function.append_block_params_for_function_params(block);
        function.switch_to_block(block);
        let callee = function.block_params(block)[0];
        if let Some(last) = last {
            let last = module.declare_func_in_func(last, function.func);
            function.ins().call(last, &[callee]);
        } else {
            let nothing = function.import_signature(module.make_signature());
            function.ins().call_indirect(nothing, callee, &[]);
        }
        function.ins().return_(&[]);
        function.seal_all_blocks();
        function.finalize(module.target_config());
        module.define_function(id, &mut context).unwrap();
        assert!(labels.unwind(UnwindInfo::EhFrame(&frames::eh_frame(&context, module.isa()))));
        last = Some(id);
    }
    module.finalize_definitions().unwrap();
    assert_eq!((unwinder.registered(), unwinder.last_refusal()), (2, None));
    let code = module.get_finalized_function(last.unwrap());
    assert_eq!(catch(|| call_through(code, fail)).downcast_ref(), Some(&42));
    // SAFETY: nobody runs the code any more.
    unsafe { module.free_memory() };
    assert_eq!(unwinder.registered(), 0);
}
