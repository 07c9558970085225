//! Tests of the debuggers' list of objects, and of gdb itself.
//!
//! | What | How it is checked |
//! |---|---|
//! | one publication is one object | the list is read at `__jit_debug_descriptor`, and its ELF files by the crate `object` |
//! | places that are used again | two objects never describe one address |
//! | many functions | large batches take several objects; single functions share them |
//! | threads, forked children | the list is empty at the end, and nothing is lost |
//! | unwind information | `.eh_frame` has the address of the code; invalid information is left out |
//! | gdb | a breakpoint by name, a backtrace through the function, an observer that is attached late |
//!
//! The list belongs to a process, so each test that reads it has one of its own. gdb debugs the
//! test `debuggee` in all modes. This needs x86-64 Linux, an installed gdb and the right to trace,
//! and otherwise prints `NOT RUN`. The tests of places exist to catch an object that outlives its
//! function, because a debugger would show the old name.

use std::ffi::c_void;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use crate::common::{self, asm, call, child, modes, small};
use gaia_jit::observe::Gdb;
use gaia_jit::{Code, CodeArena, CodeBlock, UnwindInfo, WxMode};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

#[repr(C)]
struct Entry {
    next: *const Entry,
    prev: *const Entry,
    file: *const u8,
    size: u64,
}

#[repr(C)]
struct Descriptor {
    version: u32,
    action: u32,
    relevant: *const Entry,
    first: *const Entry,
}

unsafe extern "C" {
    static __jit_debug_descriptor: Descriptor;
}

/// A function as a debugger sees it.
type Symbol = (usize, usize, String);

/// Returns the symbols of each object in the list. No thread may publish meanwhile.
fn objects() -> Vec<Vec<Symbol>> {
    // SAFETY: the library defines it.
    let version = unsafe { __jit_debug_descriptor.version };
    assert_eq!(version, 1);
    // SAFETY: as above.
    let mut at = unsafe { __jit_debug_descriptor.first };
    let (mut objects, mut last) = (Vec::new(), std::ptr::null());
    while !at.is_null() {
        // SAFETY: entries in the list are alive.
        let entry = unsafe { at.read() };
        assert_eq!(entry.prev, last);
        // SAFETY: the object of a live entry is alive.
        let file = unsafe { std::slice::from_raw_parts(entry.file, entry.size as usize) };
        objects.push(symbols(file));
        (last, at) = (at, entry.next);
    }
    objects
}

fn symbols(file: &[u8]) -> Vec<Symbol> {
    let object = object::File::parse(file).unwrap();
    assert_eq!(object.is_64(), cfg!(target_pointer_width = "64"));
    assert_eq!(object.is_little_endian(), cfg!(target_endian = "little"));
    let expected = match std::env::consts::ARCH {
        "x86_64" => object::Architecture::X86_64,
        "x86" => object::Architecture::I386,
        "aarch64" => object::Architecture::Aarch64,
        "arm" => object::Architecture::Arm,
        "riscv64" => object::Architecture::Riscv64,
        "riscv32" => object::Architecture::Riscv32,
        "s390x" => object::Architecture::S390x,
        other => panic!("{other}"),
    };
    assert_eq!(object.architecture(), expected);
    let described = object.symbols().filter(|symbol| symbol.kind() == object::SymbolKind::Text).map(|symbol| {
        let section = object.section_by_index(symbol.section_index().unwrap()).unwrap();
        assert_eq!(section.name(), Ok(".text"));
        let (start, end) = (section.address(), section.address() + section.size());
        assert!(start <= symbol.address() && symbol.address() + symbol.size() <= end, "outside of its section");
        (symbol.address() as usize, symbol.size() as usize, symbol.name().unwrap().to_string())
    });
    let symbols = described.collect();
    if let Some(frames) = object.section_by_name(".eh_frame") {
        let data = frames.data().unwrap();
        assert_eq!(frames.address(), data.as_ptr().addr() as u64);
        assert!(data.ends_with(&[0; 4]));
    }
    symbols
}

fn symbol(block: &CodeBlock, name: &str) -> Symbol {
    (block.as_ptr().addr(), block.len(), name.into())
}

fn watched(mode: WxMode) -> CodeArena {
    small(mode).observer(Arc::new(Gdb::new().unwrap())).build().unwrap()
}

#[test]
fn a_publication_is_an_object_until_its_last_function_goes() {
    child::run("a_publication_is_an_object_until_its_last_function_goes", || {
        for mode in modes() {
            let arena = watched(mode);
            assert_eq!(objects(), Vec::<Vec<Symbol>>::new());
            let code = asm::padded(1, 40);
            let first = arena.publish(Code::new(&code).name("first")).unwrap();
            let evil = arena.publish(Code::new(&code).name("new\nline\0")).unwrap();
            let mut batch = arena.batch();
            for number in 0..100 {
                // Functions of equal and of different sizes, contiguous and apart.
                let (code, align) =
                    (asm::padded(number, 100 + number as usize % 50), if number % 7 == 0 { 256 } else { 16 });
                batch.push(Code::new(&code).align(align).name(&format!("member {number}"))).unwrap();
            }
            let mut blocks = batch.publish().unwrap();
            let mut members: Vec<_> =
                (0..).zip(&blocks).map(|(n, block)| symbol(block, &format!("member {n}"))).collect();
            members.sort();
            // The newest first.
            assert_eq!(objects(), [members.clone(), vec![symbol(&evil, "new_line_")], vec![symbol(&first, "first")]]);
            drop(evil);
            assert_eq!(objects().len(), 2);
            let last = blocks.swap_remove(50);
            drop(blocks);
            assert_eq!(objects()[0], members, "one is left");
            drop(last);
            assert_eq!(objects(), [[symbol(&first, "first")]]);
            drop(first);
        }
        assert_eq!(objects(), Vec::<Vec<Symbol>>::new());
    });
}

#[test]
fn where_a_function_was_there_is_one_object_only() {
    child::run("where_a_function_was_there_is_one_object_only", || {
        for mode in modes() {
            let arena = watched(mode);
            let mut batch = arena.batch();
            for number in 0..20 {
                batch.push(Code::new(&asm::padded(number, 64)).name(&format!("old {number}"))).unwrap();
            }
            let mut blocks: Vec<_> = batch.publish().unwrap().into_iter().map(Some).collect();
            for block in blocks.iter_mut().step_by(3) {
                *block = None;
            }
            // Some of these, and smaller ones, get the places of the old functions.
            let new: Vec<_> = (0..40)
                .map(|number| {
                    let code = asm::padded(number, if number % 2 == 0 { 64 } else { 20 });
                    arena.publish(Code::new(&code).name(&format!("new {number}"))).unwrap()
                })
                .collect();
            let mut all: Vec<_> = objects().into_iter().flatten().collect();
            all.sort();
            assert!(all.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{mode:?}: two for one place");
            let live = (0..).zip(&blocks).filter_map(|(n, block)| Some(symbol(block.as_ref()?, &format!("old {n}"))));
            let live = live.chain((0..).zip(&new).map(|(n, block)| symbol(block, &format!("new {n}"))));
            assert!(live.clone().all(|symbol| all.contains(&symbol)));
            if small(mode).build().unwrap().stats().fills_holes {
                assert_eq!(all.len(), live.count(), "{mode:?}: as places were used again");
            }
        }
    });
}

#[test]
fn more_functions_than_fit_into_one_object_take_several() {
    child::run("more_functions_than_fit_into_one_object_take_several", || {
        let arena = watched(WxMode::Flip);
        let mut batch = arena.batch();
        for _ in 0..5000 {
            batch.push(&asm::constant(1)).unwrap();
        }
        let blocks = batch.publish().unwrap();
        let lens: Vec<_> = objects().iter().map(Vec::len).collect();
        assert_eq!(lens, [904, 4096]);
        drop(blocks);
        assert!(objects().is_empty());
    });
}

/// A debugger takes time for each object when it attaches, and more the more objects there are.
#[test]
fn functions_that_are_published_one_by_one_share_objects() {
    child::run("functions_that_are_published_one_by_one_share_objects", || {
        let arena =
            CodeArena::builder().capacity(common::LARGE).observer(Arc::new(Gdb::new().unwrap())).build().unwrap();
        let count = common::often(3000);
        let publish = |n| arena.publish(Code::new(&asm::constant(n)).name(&format!("number {n}"))).unwrap();
        let mut blocks: Vec<_> = (0..count as u32).map(|n| (n, publish(n))).collect();
        for round in 0..10 {
            // Each function takes the place of another.
            blocks.retain(|(n, _)| n % 10 != round);
            let again = (0..count as u32).filter(|n| n % 10 == round);
            blocks.extend(again.map(|n| (n, publish(n))));
        }
        let mut expected: Vec<_> = blocks.iter().map(|(n, block)| symbol(block, &format!("number {n}"))).collect();
        let objects = objects();
        assert!(objects.len() <= 512, "{}", objects.len());
        let mut found: Vec<_> = objects.into_iter().flatten().collect();
        found.sort();
        expected.sort();
        if arena.stats().fills_holes {
            assert_eq!(found, expected);
        } else {
            assert!(expected.iter().all(|symbol| found.binary_search(symbol).is_ok()));
        }
        drop(blocks);
        assert!(self::objects().is_empty());
    });
}

#[test]
fn eight_threads_leave_an_empty_list() {
    child::run("eight_threads_leave_an_empty_list", || {
        let arena = watched(WxMode::Flip);
        thread::scope(|scope| {
            for number in 0..8 {
                let arena = &arena;
                scope.spawn(move || {
                    let mut kept = Vec::new();
                    for round in 0..100 {
                        let mut batch = arena.batch();
                        for size in 1..6 {
                            let code = asm::padded(round, 16 * size);
                            batch.push(Code::new(&code).name(&format!("{number} {round}"))).unwrap();
                        }
                        let mut blocks = batch.publish().unwrap();
                        assert_eq!(call(&blocks[0]), round);
                        // Two of five functions stay for a while, so that objects outlive some of
                        // their functions.
                        blocks.truncate(2);
                        kept.extend(blocks);
                        if kept.len() > 20 {
                            kept.drain(..15);
                        }
                    }
                });
            }
        });
        assert!(objects().is_empty());
    });
}

/// A child has its own threads, which wait for each other.
#[test]
#[cfg(target_os = "linux")]
fn threads_of_a_forked_child_lose_nothing() {
    child::run("threads_of_a_forked_child_lose_nothing", || {
        drop(watched(WxMode::Flip).publish(&asm::constant(1)).unwrap());
        assert!(common::fork::fork(|| {
            let arena = watched(WxMode::Flip);
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| (0..2000).for_each(|n| drop(arena.publish(&asm::constant(n)).unwrap())));
                }
            });
            assert_eq!((Gdb::new().unwrap().lost(), objects().len()), (0, 0));
        }));
    });
}

#[test]
fn unwind_information_is_for_the_address_of_the_code() {
    child::run("unwind_information_is_for_the_address_of_the_code", || {
        let arena = watched(WxMode::Flip);
        let (code, frames) = (asm::padded(1, 32), eh_frame(32));
        let unwind = |code| Code::new(code).unwind(UnwindInfo::EhFrame(&frames));
        let mut batch = arena.batch();
        batch.push(unwind(&code)).unwrap();
        batch.push(Code::new(&code)).unwrap();
        batch.push(unwind(&code)).unwrap();
        // The information is invalid, so it is left out.
        batch.push(Code::new(&code).unwind(UnwindInfo::EhFrame(&frames[..20]))).unwrap();
        let blocks = batch.publish().unwrap();
        // SAFETY: there is one entry, and nobody publishes.
        let entry = unsafe { __jit_debug_descriptor.first.read() };
        // SAFETY: it points to its object.
        let file = unsafe { std::slice::from_raw_parts(entry.file, entry.size as usize) };
        let object = object::File::parse(file).unwrap();
        let section = object.section_by_name(".eh_frame").unwrap();
        let mut expected = Vec::new();
        for block in [&blocks[0], &blocks[2]] {
            let mut relocated = frames[..frames.len() - 4].to_vec();
            let at = fde_at(&frames) + 8;
            relocated[at..at + size_of::<usize>()].copy_from_slice(&block.as_ptr().addr().to_ne_bytes());
            expected.extend(relocated);
        }
        expected.extend([0; 4]);
        assert_eq!(section.data().unwrap(), expected);
    });
}

/// Returns call frame information for x86-64 code that begins with `sub rsp, 24`, in four bytes,
/// and ends with the opposite.
fn eh_frame(len: usize) -> Vec<u8> {
    let record = |id: u32, content: &[u8]| {
        let mut body = [&id.to_ne_bytes()[..], content].concat();
        body.resize(body.len().next_multiple_of(8) + 4, 0);
        [&(body.len() as u32).to_ne_bytes()[..], &body].concat()
    };
    // Version 1, no augmentation, code in bytes, data in words that grow down, column 16 is the
    // return address; the frame is 8 above register 7, the return address right below it.
    let mut frames = record(0, &[1, 0, 1, 0x78, 16, 0x0c, 7, 8, 0x90, 1]);
    let mut content = [0_usize.to_ne_bytes(), len.to_ne_bytes()].concat();
    // Four bytes on, the frame is 32 above; six on, 8 again.
    content.extend([0x44, 0x0e, 32, 0x46, 0x0e, 8]);
    frames.extend(record(frames.len() as u32 + 4, &content));
    frames.extend([0; 4]);
    frames
}

fn fde_at(frames: &[u8]) -> usize {
    4 + u32::from_ne_bytes(*frames.first_chunk().unwrap()) as usize
}

/// Is the place where the debugger stops. Machine code calls it. It is not merged with other
/// functions.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gaia_test_called_back(argument: *const c_void) {
    std::hint::black_box(argument);
}

/// Not a test by itself: [`gdb_stops_by_name_and_sees_through_frames`] debugs it.
#[test]
fn debuggee() {
    let Ok(mode) = std::env::var("GAIA_TEST_DEBUGGEE") else { return };
    let (mode, is_late) = mode.strip_prefix("late ").map_or((&mode[..], false), |mode| (mode, true));
    let mode = modes().find(|known| mode == format!("{known:?}")).unwrap();
    let arena = if is_late { small(mode).keep_notes(true).build().unwrap() } else { watched(mode) };
    // sub rsp, 24; call rdi; add rsp, 24; ret: without a frame pointer, so only the information
    // leads to the caller.
    let code = [0x48, 0x83, 0xec, 24, 0xff, 0xd7, 0x48, 0x83, 0xc4, 24, 0xc3];
    let frames = eh_frame(code.len());
    // An earlier function of this name has retired. The name must lead to the second one. It
    // retires under a guard, because the debugger has its breakpoint in it.
    let guard = arena.pin();
    drop(arena.publish(Code::new(&[0x90; 11]).name("jit_calls_back")).unwrap());
    let block = arena.publish(Code::new(&code).name("jit_calls_back").unwind(UnwindInfo::EhFrame(&frames))).unwrap();
    if is_late {
        arena.attach(Arc::new(Gdb::new().unwrap())).unwrap();
    }
    // SAFETY: takes a function and calls it with itself as its argument.
    let function = unsafe { block.as_fn::<unsafe extern "sysv64" fn(extern "C" fn(*const c_void))>() };
    // SAFETY: the block is alive.
    unsafe { function(gaia_test_called_back) };
    drop((block, guard));
    println!("the debuggee is done, {} objects left", objects().len());
}

#[test]
fn gdb_stops_by_name_and_sees_through_frames() {
    const NAME: &str = "gdb_stops_by_name_and_sees_through_frames";
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) || std::env::var_os("CROSS_RUNNER").is_some() {
        return common::not_run(NAME, "its machine code is for x86-64 Linux, and runs under no emulator");
    }
    for mode in modes() {
        // gdb cannot write a breakpoint to memory that is not writable in any way.
        let stop = if matches!(mode, WxMode::DualMap | WxMode::FileWrite) { "hbreak" } else { "break" };
        debug(NAME, &format!("{mode:?}"), stop);
        // The observer is attached to an arena in which the function lives already.
        debug(NAME, &format!("late {mode:?}"), stop);
    }
}

fn debug(test: &str, mode: &str, stop: &str) {
    let test = format!("{test}, {mode}");
    let mut gdb = Command::new("gdb");
    gdb.args(["--batch", "-nx", "-ex", "set breakpoint pending on", "-ex", "set startup-with-shell off"]);
    gdb.args(["-ex", &format!("{stop} jit_calls_back"), "-ex", "run", "-ex", "info symbol $pc", "-ex", "delete"]);
    gdb.args(["-ex", "break gaia_test_called_back", "-ex", "continue", "-ex", "backtrace", "-ex", "delete"]);
    gdb.args(["-ex", "continue", "--args"]).arg(std::env::current_exe().unwrap());
    let debuggee = child::name_in(module_path!(), "debuggee");
    gdb.args(["--exact", &debuggee, "--nocapture", "--test-threads=1"]).env("GAIA_TEST_DEBUGGEE", mode);
    let Ok(output) = gdb.output() else { return common::not_run(&test, "there is no gdb") };
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if errors.contains("ptrace: Operation not permitted") || errors.contains("Couldn't get registers") {
        return common::not_run(&test, "gdb may not trace");
    }
    if errors.contains("insert hardware breakpoint") {
        return common::not_run(&test, "there are no hardware breakpoints");
    }
    let context = format!("{text}\n{errors}");
    assert!(text.contains("jit_calls_back in section .text of <in-memory@"), "{context}");
    let frames: Vec<_> = text.lines().filter(|line| line.starts_with('#')).collect();
    let called = frames.iter().position(|frame| frame.contains("gaia_test_called_back ("));
    let called = called.unwrap_or_else(|| panic!("{context}"));
    assert!(frames[called + 1].contains("jit_calls_back"), "{context}");
    // (With less debug information it is named without its module.)
    assert!(frames[called + 2].contains("debuggee"), "{context}");
    assert!(text.contains("the debuggee is done, 0 objects left"), "{context}");
}
