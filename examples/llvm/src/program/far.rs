//! Sections that come to lie too far apart: LLVM's issue 174305, without the gigabytes of memory.
//!
//! LLVM's own manager maps code and data by separate calls. On machines with much memory, where
//! large mappings leave small holes, they came to lie more than 4 GiB apart, and PostgreSQL crashed
//! on AArch64. Here one hole of a page is left for the code, and what comes behind it finds room
//! only below a mapping of 8 GiB. The small code model has relative references of 32 bits on
//! x86-64, and of 33 on AArch64; LLVM's linker cuts off what does not fit, and says nothing.

use std::error::Error;
use std::os::unix::process::ExitStatusExt;

use gaia_jit::CodeArena;
use gaia_jit_llvm::{ArenaMemoryManager, Kind, sample};
use inkwell::OptimizationLevel;
use inkwell::context::Context;
use inkwell::llvm_sys::execution_engine::LLVMGetGlobalValueAddress;
use inkwell::llvm_sys::target_machine::LLVMCodeModel;
use inkwell::targets::CodeModel;

use crate::{Manager, Outcome, llvm, process};

/// A variable, and a function with relative references to it and no absolute ones.
const TEXT: &str = "
@counter = global i64 41
define i64 @count() {
    %before = load i64, ptr @counter
    %after = add i64 %before, 1
    store i64 %after, ptr @counter
    ret i64 %after
}
";

const PAGE: usize = 4096;
const FAR: usize = 8 << 30;

/// Runs each manager in a process of its own, because one may not survive it.
pub(crate) fn run() -> Outcome {
    for manager in Manager::ALL {
        let output = process::itself()?.args(["--one-far", manager.name()]).output()?;
        print!("{:5}  {}", manager.name(), String::from_utf8_lossy(&output.stdout).trim_end());
        match output.status.signal() {
            Some(signal) => println!(", then ended by signal {signal}"),
            None if output.status.success() => println!(),
            None => println!(", {}", String::from_utf8_lossy(&output.stderr).trim_end()),
        }
        if manager == Manager::Arena && !output.status.success() {
            return Err("the arena did not help".into());
        }
    }
    Ok(())
}

/// Fills the address space, compiles, and calls.
pub(crate) fn one(manager: Manager) -> Outcome {
    let context = Context::create();
    // What LLVM makes once comes before.
    let warm = llvm::engine(sample::parse(&context, TEXT)?, LLVMCodeModel::LLVMCodeModelSmall)?;
    warm.get_function_address("count")?;
    let module = sample::parse(&context, TEXT)?;
    if !leave_one_page()? {
        println!("NOT RUN: the system (an emulator?) does not fill the highest hole first");
        return Ok(());
    }
    let (code, data, _keep) = match manager {
        Manager::Arena => {
            let arena = CodeArena::new()?;
            // Without `compile`, which refuses this model here: it cannot know that the module has
            // no absolute reference.
            let manager = ArenaMemoryManager::new(&arena)?;
            let sections = manager.sections();
            let (level, model) = (OptimizationLevel::Default, CodeModel::Small);
            let engine =
                module.create_mcjit_execution_engine_with_memory_manager(manager, level, model, false, false)?;
            let code = engine.get_function_address("count")?;
            if let Some(failure) = sections.failure() {
                return Err(failure.into());
            }
            let sections = sections.list();
            let data = sections.iter().find(|section| section.kind == Kind::Variables).ok_or("no variable")?;
            (code, data.address, engine)
        }
        Manager::Llvm => {
            let engine = llvm::engine(module, LLVMCodeModel::LLVMCodeModelSmall)?;
            let code = engine.get_function_address("count")?;
            // SAFETY: the engine lives, and the name is a string of C's.
            let data = unsafe { LLVMGetGlobalValueAddress(engine.as_mut_ptr(), c"counter".as_ptr()) };
            (code, data as usize, engine)
        }
    };
    print!("code at {code:#x}, data at {data:#x}, {:.3} GiB apart", code.abs_diff(data) as f64 / (1_u64 << 30) as f64);
    // Before it may crash.
    std::io::Write::flush(&mut std::io::stdout())?;
    // SAFETY: the module's function of this type, which reads and writes its variable, if it was
    // linked right. That is what is tried out, in a process that does nothing else.
    let count =
        unsafe { std::mem::transmute::<*const (), extern "C" fn() -> i64>(std::ptr::with_exposed_provenance(code)) };
    let got = count();
    if got != 42 {
        return Err(format!("the function returns {got}, not 42").into());
    }
    println!(", the function returns {got}");
    Ok(())
}

/// Takes all address space above a mapping of 8 GiB but for one page. `false` where the system does
/// not put a mapping into the highest hole that it fits into.
fn leave_one_page() -> Result<bool, Box<dyn Error>> {
    let below = map(FAR)?;
    // Were there such a hole above, the first would lie in it.
    if map(FAR)? > below {
        return Ok(false);
    }
    let (mut last, mut len) = (None, FAR / 2);
    while len >= PAGE {
        match map(len)? {
            at if at > below => last = Some((at, len)),
            at => {
                unmap(at, len)?;
                len /= 2;
            }
        }
    }
    let Some((at, len)) = last else { return Ok(false) };
    unmap(at + len - PAGE, PAGE)?;
    Ok(true)
}

fn map(len: usize) -> Result<usize, Box<dyn Error>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, wherever there is room.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(at.addr())
}

fn unmap(at: usize, len: usize) -> Outcome {
    // SAFETY: mapped by `map`, and used by nobody.
    match unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(at), len) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}
