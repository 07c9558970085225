//! Tests of `PerThread` with protection keys: which threads can write to code, and which can read
//! it. Other files test what all modes promise.
//!
//! | What | Where it is tried |
//! |---|---|
//! | a store to code ends the process | the publishing thread, with an open batch, after a panic, older and newer threads, a signal handler |
//! | code runs without rights | threads that are older than the arena, and signal handlers |
//! | reads need a guard | threads that an older thread started, signal handlers, backtraces |
//! | `as_bytes` needs no guard | a thread without rights reads the slice |
//! | keys | all of them are used up and come back; other code leaves rights behind |
//!
//! `dies` runs a store in a child process. It checks that the child is ended by `SIGSEGV` at the
//! store and not before. The stores exist to catch a right to write that stays with a thread after
//! a call. Without keys every test prints `NOT RUN`.

use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;

use crate::common::{self, asm, call, call_at, child, small};
use gaia_jit::{CodeArena, CodeBlock, Error, WxMode};

/// Returns `None` and prints a message if the processor or the system has no keys.
fn arena() -> Option<CodeArena> {
    match small(WxMode::PerThread).build() {
        Ok(arena) => Some(arena),
        Err(Error::Unsupported { what: "PerThread", why }) => {
            common::not_run("a test of PerThread", &why);
            None
        }
        Err(other) => panic!("{other}"),
    }
}

fn store(block: &CodeBlock) {
    println!("about to write");
    // SAFETY: the store is not sound. The system is expected to end the process.
    unsafe { block.as_ptr().cast_mut().write_volatile(0xcc) };
    println!("written");
}

/// Runs `body` in a child process, which has to be ended by the store that it makes.
fn dies(name: &str, body: impl FnOnce(CodeArena)) {
    if arena().is_none() {
        return;
    }
    let output = child::output(name, || body(arena().unwrap()));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("about to write") && !text.contains("written\n"), "{text}");
    assert!(text.matches("about to write").count() == 1, "{text}");
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{text}");
}

#[test]
fn the_publishing_thread_cannot_write() {
    dies("the_publishing_thread_cannot_write", |arena| store(&arena.publish(&asm::constant(1)).unwrap()));
}

#[test]
fn not_even_while_its_batch_is_open() {
    dies("not_even_while_its_batch_is_open", |arena| {
        let block = arena.publish(&asm::constant(1)).unwrap();
        let mut outer = arena.batch();
        let slot = outer.push(&asm::constant(2)).unwrap();
        let mut inner = arena.batch();
        inner.push(&asm::constant(3)).unwrap();
        outer.bytes_mut(slot)[0] = 0;
        store(&block);
    });
}

#[test]
fn nor_after_a_panic_in_a_batch() {
    dies("nor_after_a_panic_in_a_batch", |arena| {
        let block = arena.publish(&asm::constant(1)).unwrap();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut batch = arena.batch();
            batch.push(&asm::constant(2)).unwrap();
            panic!("in a batch");
        }));
        assert!(panicked.is_err());
        std::mem::forget(arena.batch());
        store(&block);
    });
}

#[test]
fn a_thread_from_before_cannot_write() {
    dies("a_thread_from_before_cannot_write", |_| {
        let (sender, receiver) = mpsc::channel::<CodeBlock>();
        let old = thread::spawn(move || store(&receiver.recv().unwrap()));
        let arena = arena().unwrap();
        sender.send(arena.publish(&asm::constant(1)).unwrap()).unwrap();
        old.join().unwrap();
    });
}

#[test]
fn a_thread_from_before_cannot_write_while_it_may_read() {
    dies("a_thread_from_before_cannot_write_while_it_may_read", |_| {
        let (sender, receiver) = mpsc::channel::<(CodeArena, CodeBlock)>();
        let old = thread::spawn(move || {
            let (arena, block) = receiver.recv().unwrap();
            let _guard = arena.pin();
            assert_eq!(block.as_bytes(), asm::constant(1));
            store(&block);
        });
        let arena = arena().unwrap();
        let block = arena.publish(&asm::constant(1)).unwrap();
        sender.send((arena, block)).unwrap();
        old.join().unwrap();
    });
}

#[test]
fn a_thread_from_after_cannot_write() {
    dies("a_thread_from_after_cannot_write", |arena| {
        let block = arena.publish(&asm::constant(1)).unwrap();
        thread::spawn(move || store(&block)).join().unwrap();
    });
}

static TARGET: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static RESULT: AtomicU32 = AtomicU32::new(0);

fn on_signal(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) {
    // SAFETY: the handlers of this file make calls that are safe in a handler.
    let before = unsafe { libc::signal(signal, handler as *const () as libc::sighandler_t) };
    assert_ne!(before, libc::SIG_ERR);
}

fn raise(signal: libc::c_int) {
    // SAFETY: there is a handler.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

#[test]
fn a_signal_handler_cannot_write() {
    extern "C" fn handler(_: libc::c_int) {
        // SAFETY: the store is not sound. The system is expected to end the process.
        unsafe { TARGET.load(Ordering::SeqCst).write_volatile(0xcc) };
        println!("written");
    }
    dies("a_signal_handler_cannot_write", |arena| {
        let block = arena.publish(&asm::constant(1)).unwrap();
        TARGET.store(block.as_ptr().cast_mut(), Ordering::SeqCst);
        on_signal(libc::SIGUSR1, handler);
        println!("about to write");
        raise(libc::SIGUSR1);
    });
}

#[test]
fn threads_from_before_and_signal_handlers_run_code() {
    extern "C" fn handler(_: libc::c_int) {
        RESULT.store(call_at(TARGET.load(Ordering::SeqCst)), Ordering::SeqCst);
    }
    child::run("threads_from_before_and_signal_handlers_run_code", || {
        let (sender, receiver) = mpsc::channel::<CodeBlock>();
        let old = thread::spawn(move || {
            let block = receiver.recv().unwrap();
            let run = call(&block);
            (run, block.as_bytes().to_vec())
        });
        let Some(arena) = arena() else { return };
        let block = arena.publish(&asm::constant(77)).unwrap();
        TARGET.store(block.as_ptr().cast_mut(), Ordering::SeqCst);
        on_signal(libc::SIGUSR1, handler);
        raise(libc::SIGUSR1);
        assert_eq!(RESULT.load(Ordering::SeqCst), 77);
        sender.send(block).unwrap();
        assert_eq!(old.join().unwrap(), (77, asm::constant(77)));
    });
}

#[test]
fn keys_run_out_and_come_back() {
    child::run("keys_run_out_and_come_back", || {
        if arena().is_none() {
            return;
        }
        let mut counts = Vec::new();
        for _ in 0..3 {
            let mut arenas = Vec::new();
            let refused = loop {
                match small(WxMode::PerThread).build() {
                    Ok(arena) => arenas.push(arena),
                    Err(refused) => break refused,
                }
            };
            // So that a list of modes continues with the next mode.
            let Error::Unsupported { what: "PerThread", why } = refused else { panic!("{refused}") };
            assert!(why.contains("pkey_alloc") && why.contains("all keys"), "{why}");
            let other = CodeArena::builder().modes(&[WxMode::PerThread, WxMode::DualMap]).build().unwrap();
            assert_eq!((other.mode(), other.refused().len()), (WxMode::DualMap, 1));
            for (n, arena) in (0..).zip(&arenas) {
                assert_eq!(call_at(arena.publish(&asm::constant(n)).unwrap().as_ptr()), n);
            }
            counts.push(arenas.len());
        }
        assert!((1..16).contains(&counts[0]), "{counts:?}");
        assert!(counts.iter().all(|&count| count == counts[0]), "{counts:?}");
    });
}

/// A key that other code used and freed leaves rights behind in that thread.
#[test]
fn rights_left_behind_by_other_code_end_with_a_guard() {
    dies("rights_left_behind_by_other_code_end_with_a_guard", |first| {
        drop(first);
        // SAFETY: numbers in, a number out.
        let key = unsafe { libc::syscall(libc::SYS_pkey_alloc, 0, 0) };
        assert!(key > 0);
        // SAFETY: allocated just now, and used for nothing.
        assert_eq!(unsafe { libc::syscall(libc::SYS_pkey_free, key) }, 0);
        let (sender, receiver) = mpsc::channel::<CodeArena>();
        // The child begins with the rights of this thread, before the arena has the key.
        let other = thread::spawn(move || {
            let arena = receiver.recv().unwrap();
            let block = arena.publish(&asm::constant(1)).unwrap();
            store(&block);
        });
        sender.send(arena().unwrap()).unwrap();
        other.join().unwrap();
    });
}

#[test]
fn pushed_bytes_can_be_changed_until_they_are_published() {
    let Some(arena) = arena() else { return };
    let mut batch = arena.batch();
    let slots: Vec<_> = (0..50).map(|n| batch.push(&asm::constant(n)).unwrap()).collect();
    for (n, slot) in (100..).zip(slots.iter().step_by(3)) {
        assert_eq!(batch.bytes_mut(*slot).len(), asm::constant(0).len());
        batch.bytes_mut(*slot).copy_from_slice(&asm::constant(n));
    }
    let blocks = batch.publish().unwrap();
    for (n, block) in (0..).zip(&blocks) {
        assert_eq!(call(block), if n % 3 == 0 { 100 + n / 3 } else { n });
    }
}

/// Safe code must not fault at a slice that a thread with other rights sent.
#[test]
fn bytes_can_be_read_by_a_thread_without_rights() {
    child::run("bytes_can_be_read_by_a_thread_without_rights", || {
        let (sender, receiver) = mpsc::channel::<std::borrow::Cow<'static, [u8]>>();
        let old = thread::spawn(move || receiver.recv().unwrap().to_vec());
        let Some(arena) = arena() else { return };
        let block = Box::into_raw(Box::new(arena.publish(&asm::constant(9)).unwrap()));
        // SAFETY: from the box above, which is taken back below, behind the thread's end.
        let lent: &'static CodeBlock = unsafe { &*block };
        sender.send(lent.as_bytes()).unwrap();
        assert_eq!(old.join().unwrap(), asm::constant(9));
        // SAFETY: from a box, and the thread that borrowed it has ended.
        drop(unsafe { Box::from_raw(block) });
    });
}

/// `mov eax, [rip + 1]; ret`, and 42 after it: code that reads its own constant.
const READS: [u8; 11] = [0x8b, 0x05, 1, 0, 0, 0, 0xc3, 42, 0, 0, 0];

/// Runs code that reads its own constant, after `prepare`, on a thread that was started by a thread
/// from before the arena.
fn on_a_thread_of_a_pool(prepare: fn(&CodeArena)) {
    let (sender, receiver) = mpsc::channel::<(CodeArena, CodeBlock)>();
    let pool = thread::spawn(move || {
        let (arena, block) = receiver.recv().unwrap();
        thread::spawn(move || {
            prepare(&arena);
            println!("about to write");
            assert_eq!(call(&block), 42);
            println!("written");
        })
        .join()
        .unwrap();
    });
    let arena = arena().unwrap();
    let block = arena.publish(&READS).unwrap();
    sender.send((arena, block)).unwrap();
    pool.join().unwrap();
}

/// A thread inherits the rights of the thread that starts it, at any age.
#[test]
fn a_thread_of_a_pool_from_before_cannot_read() {
    dies("a_thread_of_a_pool_from_before_cannot_read", |_| on_a_thread_of_a_pool(|_| ()));
}

#[test]
fn a_thread_of_a_pool_from_before_reads_after_a_guard() {
    child::run("a_thread_of_a_pool_from_before_reads_after_a_guard", || {
        if arena().is_some() {
            on_a_thread_of_a_pool(|arena| drop(arena.pin()));
        }
    });
}

static ARENA: std::sync::OnceLock<CodeArena> = std::sync::OnceLock::new();

/// If a handler is left by a jump, its rights stay with its thread.
#[test]
fn a_signal_handler_cannot_read() {
    extern "C" fn handler(_: libc::c_int) {
        println!("about to write");
        RESULT.store(call_at(TARGET.load(Ordering::SeqCst)), Ordering::SeqCst);
        println!("written");
    }
    dies("a_signal_handler_cannot_read", |arena| {
        let block = arena.publish(&READS).unwrap();
        assert_eq!(call(&block), 42);
        TARGET.store(block.as_ptr().cast_mut(), Ordering::SeqCst);
        on_signal(libc::SIGUSR1, handler);
        raise(libc::SIGUSR1);
    });
}

#[test]
fn a_signal_handler_reads_under_a_guard() {
    extern "C" fn handler(_: libc::c_int) {
        let guard = ARENA.get().map(CodeArena::pin);
        RESULT.store(call_at(TARGET.load(Ordering::SeqCst)), Ordering::SeqCst);
        drop(guard);
    }
    child::run("a_signal_handler_reads_under_a_guard", || {
        let Some(arena) = arena() else { return };
        let block = ARENA.get_or_init(|| arena).publish(&READS).unwrap();
        TARGET.store(block.as_ptr().cast_mut(), Ordering::SeqCst);
        on_signal(libc::SIGUSR1, handler);
        for _ in 0..3 {
            RESULT.store(0, Ordering::SeqCst);
            raise(libc::SIGUSR1);
            assert_eq!((RESULT.load(Ordering::SeqCst), call(&block)), (42, 42));
        }
    });
}

/// An unwinder without other information reads the instructions.
#[test]
fn a_backtrace_over_a_function_without_information_ends_there_under_a_guard() {
    // sub rsp, 8; call rdi; add rsp, 8; ret
    const CALLS: [u8; 11] = [0x48, 0x83, 0xec, 8, 0xff, 0xd7, 0x48, 0x83, 0xc4, 8, 0xc3];
    extern "C" fn look() {
        let mut frames = 0;
        backtrace::trace(|_| {
            frames += 1;
            true
        });
        RESULT.store(frames, Ordering::SeqCst);
    }
    child::run("a_backtrace_over_a_function_without_information_ends_there_under_a_guard", || {
        let (sender, receiver) = mpsc::channel::<(CodeArena, CodeBlock)>();
        let old = thread::spawn(move || {
            let Ok((arena, block)) = receiver.recv() else { return };
            let _guard = arena.pin();
            // SAFETY: takes a function and calls it.
            let function = unsafe { std::mem::transmute::<*const u8, extern "C" fn(extern "C" fn())>(block.as_ptr()) };
            function(look);
            assert!(RESULT.load(Ordering::SeqCst) > 0);
        });
        if let Some(arena) = arena() {
            let block = arena.publish(&CALLS).unwrap();
            sender.send((arena, block)).unwrap();
        }
        drop(sender);
        old.join().unwrap();
    });
}

/// Tests the documented result of a scan of the system's list of mappings.
#[test]
fn the_list_of_mappings_knows_no_keys() {
    let Some(arena) = arena() else { return };
    let block = arena.publish(&asm::constant(1)).unwrap();
    assert_eq!(common::maps::mappings(block.as_ptr().addr(), 1), ["rwxp"]);
}
